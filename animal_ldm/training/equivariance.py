"""Equivariance of the latents (EQ-VAE): a decoder trained on transformed latents makes them follow the image.

Kouzelis et al. 2025, arXiv 2502.09509, section 3.3.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Transform:
    """Resizes to `scale` of the size and rotates by `quarters` quarter turns: latents and images alike."""

    scale: float = 1.0
    quarters: int = 0

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` to `(B, C, H * scale, W * scale)`."""
        if self.scale != 1:
            maps = F.interpolate(maps, scale_factor=self.scale, mode="bilinear", antialias=True)
        return maps.rot90(self.quarters, dims=(2, 3))


def least_image_size(with_lpips: bool) -> int:
    """The smallest side of images, in pixels, of which a quarter is enough: LPIPS needs 32."""
    return 128 if with_lpips else 32


def random_transform(generator: torch.Generator, fraction: float) -> Transform:
    """With probability `fraction` a scale of 1/4, 1/2, 3/4 or 1 and a rotation; otherwise the identity."""
    transformed = torch.rand((), generator=generator).item() < fraction
    scale, quarters = torch.randint(4, (2,), generator=generator).tolist()
    return Transform((scale + 1) / 4, quarters) if transformed else Transform()
