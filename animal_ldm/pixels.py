"""Images as arrays and as tensors in the model's range."""

import numpy as np
import torch


def to_model_range(pixels: np.ndarray) -> torch.Tensor:
    """uint8 `(B, H, W, 3)` to float32 `(B, 3, H, W)` in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1  # a copy: maps are read-only


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Float `(B, 3, H, W)` in [-1, 1], clipped to it, to uint8 `(B, H, W, 3)`."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
