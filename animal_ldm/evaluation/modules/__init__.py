"""Modules for the `evaluate` library: `evaluate.load(animal_ldm.evaluation.modules.path("fid"))`, without network.

Each is a thin wrapper of one file around the functions of `animal_ldm.evaluation`; `evaluate` copies that file into
its own cache, hence the absolute imports.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from animal_ldm.errors import InputError
from animal_ldm.evaluation.extractors import load_extractor
from animal_ldm.evaluation.features import Measurer
from animal_ldm.evaluation.images import Images, images_of_folder
from animal_ldm.evaluation.metrics import as_features

PATHS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})


def path(name: str) -> str:
    """The folder to pass to `evaluate.load`, in a checkout and in an installed package.

    Args:
        name: "fid" or "precision_recall".
    """
    folder = Path(__file__).parent
    names = sorted(file.parent.name for file in folder.glob("*/*.py") if file.stem == file.parent.name)
    if name not in names:
        raise InputError(f"{name!r} is not an evaluate module of this package; expected {' or '.join(names)}.")
    return str(folder / name)


def compared(
    predictions: Sequence[str], references: Sequence[str], extractor: str, weights: str | None, device: str
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Features of real and of generated images, and what must stand beside every number measured on them.

    The extractor is loaded only if one of the paths is not a file of features already, and after all paths were
    checked: loading it may start a download.

    Returns:
        real (N, D), fake (M, D), and {n_generated, n_real, extractor}, where `extractor` is its description or
        "features as given".
    """
    sides = [[read(path) for path in paths] for paths in (references, predictions)]
    measurer = None
    if any(isinstance(part, Images) for side in sides for part in side):
        measurer = Measurer(load_extractor(extractor, weights, device), batch_size=64)
    real, fake = (torch.cat([features_of(part, measurer) for part in side]) for side in sides)
    if real.shape[1] != fake.shape[1]:
        raise InputError(
            f"The references have {real.shape[1]} features per image and the predictions {fake.shape[1]}; expected the"
            " same extractor on both sides."
        )
    described = asdict(measurer.extractor.describe()) if measurer else "features as given"
    return real, fake, {"n_generated": len(fake), "n_real": len(real), "extractor": described}


def read(path: str) -> Images | torch.Tensor:
    """The images of a folder, or the features (N, D) of a .npy file.

    Raises:
        InputError: it is neither, the folder holds no images, or the file no features.
    """
    if Path(path).is_dir():
        return images_of_folder(path)
    if not Path(path).exists():
        raise InputError(f"{path} does not exist; expected a folder of images or a .npy file of features (N, D).")
    if Path(path).suffix != ".npy":
        raise InputError(
            f"{path} is neither a folder of images nor a .npy file of features (N, D). Save a single array of features"
            " with numpy.save."
        )
    try:
        return as_features(np.load(path))
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} does not hold features (N, D): {error}") from error


def features_of(part: Images | torch.Tensor, measurer: Measurer | None) -> torch.Tensor:
    if isinstance(part, torch.Tensor):
        return part
    assert measurer is not None
    return measurer.features(part)
