"""Patch discriminator that sharpens the autoencoder's reconstructions."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv 1611.07004): a verdict per patch, `(B, 3, H, W)` to `(B, 1, H/8, W/8)`.

    Group instead of batch normalisation, so that the verdict on a picture does not depend on its batch.
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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def hinge_loss(real_verdicts: torch.Tensor, fake_verdicts: torch.Tensor) -> torch.Tensor:
    """Discriminator's hinge loss (Lim & Ye 2017, arXiv 1705.02894)."""
    return 0.5 * (F.relu(1 - real_verdicts).mean() + F.relu(1 + fake_verdicts).mean())


def adaptive_weight(loss: torch.Tensor, adversarial_loss: torch.Tensor, last_weight: nn.Parameter) -> torch.Tensor:
    """Balance of the two losses by their gradients at the decoder's last layer (VQGAN, arXiv 2012.09841, eq. 7)."""
    (gradient,) = torch.autograd.grad(loss, last_weight, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(adversarial_loss, last_weight, retain_graph=True)
    return (gradient.norm() / (adversarial_gradient.norm() + 1e-4)).clamp(0, 1e4).detach()
