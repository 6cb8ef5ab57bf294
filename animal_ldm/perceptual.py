"""LPIPS, a loss in training and a figure in evaluation; the backbone is torchvision's download or a local file."""

import warnings
from pathlib import Path

import lpips
import torch
from safetensors.torch import load_file

from .digest import weights_digest
from .errors import InputError


class PerceptualDistance(torch.nn.Module):
    """LPIPS v0.1 over SqueezeNet 1.1 (Zhang et al. 2018, arXiv 1801.03924), frozen.

    Args:
        weights: safetensors file with the ImageNet backbone, keys as in `torchvision.models.squeezenet1_1()`;
            None fetches torchvision's own. The linear heads come with the `lpips` package.

    Raises:
        InputError: the file is missing or is no SqueezeNet 1.1, or the download failed.
    """

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        try:
            with warnings.catch_warnings():
                # lpips asks torchvision for its weights in the way of long ago
                warnings.simplefilter("ignore", UserWarning)
                self.lpips = lpips.LPIPS(net="squeeze", pnet_rand=weights is not None, verbose=False)
        except OSError as error:
            raise InputError(
                f"SqueezeNet's ImageNet weights could not be downloaded ({error}); "
                "give a local safetensors file with --perceptual_weights"
            ) from error
        if weights is not None:
            self._load_backbone(Path(weights))
        self.requires_grad_(False).eval()

    def _load_backbone(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"expected SqueezeNet 1.1 weights (safetensors) in {path}, found no such file")
        stored = load_file(path)
        backbone = self.lpips.net.state_dict()
        # lpips calls torchvision's `features.3.…` `sliceK.3.…`.
        renamed = {key: "features." + key.split(".", 1)[1] for key in backbone}
        missing = [name for name in renamed.values() if name not in stored]
        if missing:
            raise InputError(
                f"{path} is no SqueezeNet 1.1: {missing[0]} and {len(missing) - 1} more tensors are missing"
            )
        self.lpips.net.load_state_dict({key: stored[name] for key, name in renamed.items()})

    def train(self, mode: bool = True):
        return super().train(False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The backbone's last feature map of images `(B, 3, H, W)` in [-1, 1]: `(B, 512, h, w)`, h about H / 16."""
        return self.lpips.net(self.lpips.scaling_layer(images))[-1]

    @property
    def widths(self) -> list[int]:
        """Channels of the backbone's feature maps."""
        return self.lpips.chns

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The backbone's feature maps of images `(B, 3, H, W)` in [-1, 1], each place scaled to a mean square of 1."""
        maps = self.lpips.net(self.lpips.scaling_layer(images))
        return [lpips.normalize_tensor(map) * map.shape[1] ** 0.5 for map in maps]

    def backbone_digest(self) -> str:
        """SHA-256 over the backbone's weights."""
        return weights_digest(self.lpips.net)

    def forward(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Distance of each pair, `(B,)`; images `(B, 3, H, W)` in [-1, 1]."""
        return self.lpips(images, others).flatten()
