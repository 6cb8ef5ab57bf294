"""Discriminators that make the autoencoder's reconstructions sharper: of pixels, or of a classifier's features."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from ..perceptual import PerceptualDistance


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv 1611.07004): a verdict per patch, `(B, 3, H, W)` to one `(B, 1, H/8, W/8)`.

    Group normalisation replaces batch normalisation, so that the verdict on an image does not depend on its batch.
    """

    def __init__(self, channels: int = 64):
        super().__init__()
        widths = [3, channels, 2 * channels, 4 * channels]
        layers: list[nn.Module] = []
        for level, (narrow, wide) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(narrow, wide, 4, stride=2, padding=1))
            if level > 0:
                layers.append(nn.GroupNorm(8, wide))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.layers(images)]


class FeatureDiscriminator(nn.Module):
    """Verdicts on feature maps of LPIPS's frozen SqueezeNet: `(B, 3, H, W)` in [-1, 1] to several `(B, 1, h, w)`.

    Projected GAN (Sauer et al. 2021, arXiv 2111.01007): its features are trained already, so it is small and learns
    fast. Each map but the last has its own head. The network sees a window of the images, at a random place and with
    at least half the side, enlarged to the full size: artefacts cannot hide between the strides of the frozen network.
    The window is the same for the whole batch and comes from torch's global generator.
    """

    def __init__(self, perceptual: PerceptualDistance, channels: int = 64):
        super().__init__()
        self.perceptual = [perceptual]  # in a list, because it is frozen and not part of this module's state
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, channels, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.GroupNorm(8, channels),
                nn.LeakyReLU(0.2),
                nn.Conv2d(channels, 1, 3, padding=1),
            )
            for width in perceptual.widths[:-1]
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        size = images.shape[-1]
        side = int(torch.randint(size // 2, size + 1, ()))
        top, left = torch.randint(size - side + 1, (2,)).tolist()
        window = images[:, :, top : top + side, left : left + side]
        maps = self.perceptual[0].maps(F.interpolate(window, size, mode="bilinear"))
        return [head(seen) for head, seen in zip(self.heads, maps[:-1], strict=True)]


def hinge_loss(verdicts: list[torch.Tensor]) -> torch.Tensor:
    """Discriminator's hinge loss (Lim & Ye 2017, arXiv 1705.02894).

    Args:
        verdicts: maps `(2B, ...)`, first photos, then as many reconstructions; every map has the same weight.
    """
    halves = [verdict.float().chunk(2) for verdict in verdicts]
    return 0.5 * torch.stack([F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in halves]).mean()


def fooling_loss(verdicts: list[torch.Tensor]) -> torch.Tensor:
    """Generator's hinge loss, for the decoder; `verdicts` are those on reconstructions."""
    return -torch.stack([verdict.float().mean() for verdict in verdicts]).mean()


def adaptive_weight(loss: torch.Tensor, adversarial_loss: torch.Tensor, last_weight: nn.Parameter) -> torch.Tensor:
    """Balance of the two losses by their gradients at the decoder's last layer (VQGAN, arXiv 2012.09841, eq. 7)."""
    (gradient,) = torch.autograd.grad(loss, last_weight, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(adversarial_loss, last_weight, retain_graph=True)
    return (gradient.norm() / (adversarial_gradient.norm() + 1e-4)).clamp(0, 1e4).detach()
