"""Representation alignment (REPA): the middle of the UNet learns to predict the features of an image classifier.

Yu et al. 2024, arXiv 2410.06940, with SqueezeNet 1.1 in place of DINOv2. The features of all photos are computed once.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..data.prepared import PreparedSplit
from ..perceptual import PerceptualDistance
from .cache import Cache, OnTheFly, fingerprint
from .latents import Kept, mirror, read_photos

FEATURES = 512  # channels of SqueezeNet's last convolutions


def classifier_features(
    cache: Cache, split: PreparedSplit, perceptual: PerceptualDistance, side: int, kept: Kept = "disk"
) -> np.ndarray | OnTheFly:
    """SqueezeNet's last feature map of every photo and of its mirror image, averaged to `side` x `side`.

    Returns:
        float16 `(N, 2, 512, side, side)`. Each channel has about zero mean and unit variance over the photos. Cached
        under a fingerprint of photos, weights and size, and memory-mapped or in memory; or computed whenever it is
        asked for.
    """
    digest = perceptual.backbone_digest()
    device = next(perceptual.parameters()).device

    @torch.no_grad()
    def pooled(images: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(perceptual.features(images), side).cpu()

    def features(numbers: np.ndarray) -> torch.Tensor:
        images = read_photos(split, numbers.tolist(), device)
        both = torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)  # (2 B, 3, H, W)
        return pooled(both).unflatten(0, (-1, 2))

    some = features(np.linspace(0, len(split) - 1, min(512, len(split))).astype(int))
    mean = some.mean(dim=(0, 1, 3, 4))[:, None, None]
    std = some.std(dim=(0, 1, 3, 4))[:, None, None].clamp(min=1e-3)

    def compute(start: int, stop: int) -> np.ndarray:
        return ((features(np.arange(start, stop)) - mean) / std).half().numpy()

    def compute_some(numbers: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        return ((pooled(mirror(read_photos(split, numbers.tolist(), device), mirrored)) - mean) / std).half().numpy()

    shape = (len(split), 2, FEATURES, side, side)
    if kept == "none":
        return OnTheFly(shape, compute_some)
    key = fingerprint("alignment", split.fingerprint, digest, side)
    array = cache.array(key, shape, np.float16, compute, "features of photos", chunk=32)
    return array if kept == "disk" else np.array(array)


def build_projector(channels: int) -> nn.Module:
    """From the UNet's middle, `(B, channels, h, w)`, to `(B, 512, h, w)`. It is used in training only."""
    return nn.Sequential(nn.Conv2d(channels, FEATURES, 1), nn.SiLU(), nn.Conv2d(FEATURES, FEATURES, 1))


def alignment_loss(projected: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """1 minus the cosine similarity at each place, averaged; both `(B, 512, h, w)`. From 0 to 2."""
    return 1 - F.cosine_similarity(projected.float(), features.float(), dim=1).mean()
