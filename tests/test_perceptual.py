"""LPIPS with local weights is the package's own, and errors name the files that hold something else."""

import lpips
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import squeezenet1_1

from animal_ldm.errors import InputError
from animal_ldm.perceptual import PerceptualDistance


def test_lpips_from_a_local_backbone_is_the_packages_own(tmp_path):
    torch.manual_seed(0)
    features = {f"features.{name}": value for name, value in squeezenet1_1().features.state_dict().items()}
    save_file(features, tmp_path / "squeezenet.safetensors")
    mine = PerceptualDistance(tmp_path / "squeezenet.safetensors")
    reference = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    own = dict(reference.net.named_parameters())
    for name, value in own.items():
        value.data.copy_(features["features." + name.split(".", 1)[1]])
    first, second = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(mine(first, second), reference(first, second).flatten())
    assert mine(first, first).abs().max() < 1e-6
    assert not any(parameter.requires_grad for parameter in mine.parameters())


def test_wrong_perceptual_weights_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file; expected SqueezeNet"):
        PerceptualDistance(tmp_path / "none.safetensors")
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="does not hold a SqueezeNet"):
        PerceptualDistance(tmp_path / "other.safetensors")
