"""SqueezeNet 1.1, trained on ImageNet: the backbone of LPIPS, of the alignment and of a feature extractor."""

from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from .errors import InputError


def load_squeezenet(weights: str | Path | None, option: str) -> torch.nn.Sequential:
    """The convolutions of SqueezeNet 1.1 (`torchvision.models.squeezenet1_1().features`), in evaluation mode.

    Args:
        weights: safetensors file with torchvision's names, `features.…` or without that prefix; None downloads
            torchvision's ImageNet weights.
        option: the command-line option that names such a file, for error messages.

    Raises:
        InputError: the file is missing or does not hold a SqueezeNet 1.1, or the download failed.
    """
    if weights is None:
        try:
            stored = SqueezeNet1_1_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"SqueezeNet's ImageNet weights could not be downloaded ({error}). Pass {option} with a safetensors "
                "file that has the keys `features.*` of torchvision.models.squeezenet1_1()."
            ) from error
    elif not Path(weights).is_file():
        raise InputError(f"{option} {weights}: no such file; expected SqueezeNet 1.1 weights in safetensors format.")
    else:
        stored = load_file(weights)
    features = squeezenet1_1().features
    found = {key.removeprefix("features."): value for key, value in stored.items()}
    expected = features.state_dict()
    missing = [key for key in expected if key not in found or found[key].shape != expected[key].shape]
    if missing:
        raise InputError(
            f"{weights} does not hold a SqueezeNet 1.1: {missing[0]} and {len(missing) - 1} more tensors are missing "
            "or of another shape."
        )
    features.load_state_dict({key: found[key] for key in expected})
    return features.eval()
