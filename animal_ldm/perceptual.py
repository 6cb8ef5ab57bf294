"""LPIPS over SqueezeNet: a loss in training and a metric in evaluation."""

import warnings
from pathlib import Path

import lpips
import torch

from .digest import weights_digest
from .squeezenet import load_squeezenet


class PerceptualDistance(torch.nn.Module):
    """LPIPS v0.1 over SqueezeNet 1.1 (Zhang et al. 2018, arXiv 1801.03924), frozen.

    Args:
        weights: safetensors file with the ImageNet backbone, see `load_squeezenet`; None downloads torchvision's. The
            linear heads are part of the `lpips` package.

    Raises:
        InputError: the file is missing or does not hold a SqueezeNet 1.1, or the download failed.
    """

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        # The loader initialises a network before it loads the weights. Networks built after this one must not depend
        # on that.
        with torch.random.fork_rng(devices=[]):
            stored = load_squeezenet(weights, "--squeezenet_weights").state_dict()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # lpips passes torchvision an argument that is deprecated
            self.lpips = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
        # lpips calls torchvision's `features.3.…` `sliceK.3.…`
        backbone = self.lpips.net.state_dict()
        self.lpips.net.load_state_dict({key: stored[key.split(".", 1)[1]] for key in backbone})
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        """Stay in evaluation mode."""
        return super().train(False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The backbone's last feature map of images `(B, 3, H, W)` in [-1, 1]: `(B, 512, h, w)`, h about H / 16."""
        return self.lpips.net(self.lpips.scaling_layer(images))[-1]

    @property
    def widths(self) -> list[int]:
        """Channels of the backbone's feature maps."""
        return self.lpips.chns

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The backbone's feature maps of images `(B, 3, H, W)` in [-1, 1], scaled to a mean square of 1 everywhere."""
        maps = self.lpips.net(self.lpips.scaling_layer(images))
        return [lpips.normalize_tensor(map) * map.shape[1] ** 0.5 for map in maps]

    def backbone_digest(self) -> str:
        """SHA-256 over the backbone's weights."""
        return weights_digest(self.lpips.net)

    def forward(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Distance of each pair, `(B,)`; images `(B, 3, H, W)` in [-1, 1]."""
        return self.lpips(images, others).flatten()
