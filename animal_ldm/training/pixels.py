"""Photos as arrays and tensors: read once, cropped, brought to the model's range and back."""

import numpy as np
import torch
from accelerate import Accelerator

from ..data.prepared import PreparedSplit
from ..errors import InputError
from .cache import cached_array, fingerprint


def pixel_array(accelerator: Accelerator, split: PreparedSplit, cache_dir: str) -> np.ndarray:
    """All photos of a split, uint8 `(N, H, W, 3)`, memory-mapped."""
    shape = split.image(0).shape

    def read(start: int, stop: int) -> np.ndarray:
        images = [split.image(i) for i in range(start, stop)]
        for file, image in zip(split.files[start:stop], images, strict=True):
            if image.shape != shape:
                raise InputError(
                    f"expected photos of {shape[1]} x {shape[0]} pixels throughout, as `animal-ldm prepare` writes "
                    f"them, found {image.shape[1]} x {image.shape[0]} in {split.folder / file}"
                )
        return np.stack(images)

    key = fingerprint("pixels", split.fingerprint)
    return cached_array(accelerator, cache_dir, key, (len(split), *shape), np.uint8, read, "reading photos")


def random_crops(pixels: np.ndarray, size: int, generator: torch.Generator) -> np.ndarray:
    """Square crops at random places, half of them mirrored: uint8 `(B, H, W, 3)` to `(B, size, size, 3)`."""
    count, height, width = pixels.shape[:3]
    tops = torch.randint(height - size + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(width - size + 1, (count,), generator=generator).tolist()
    flips = torch.rand(count, generator=generator).lt(0.5).tolist()
    crops = [
        image[top : top + size, left : left + size][:, :: -1 if flip else 1]
        for image, top, left, flip in zip(pixels, tops, lefts, flips, strict=True)
    ]
    return np.stack(crops)


def center_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """Central squares: uint8 `(B, H, W, 3)` to `(B, size, size, 3)`."""
    top, left = (pixels.shape[1] - size) // 2, (pixels.shape[2] - size) // 2
    return pixels[:, top : top + size, left : left + size]


def to_model_range(pixels: np.ndarray) -> torch.Tensor:
    """uint8 `(B, H, W, 3)` to float32 `(B, 3, H, W)` in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1  # a copy: the cache is read-only


def to_picture(images: torch.Tensor) -> np.ndarray:
    """Float `(B, 3, H, W)` in [-1, 1] to uint8 `(B, H, W, 3)`."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
