"""Modules for the `evaluate` library: `evaluate.load("animal_ldm/evaluation/modules/fid")`, with no network.

Each is a thin wrapper of one file around the functions of `animal_ldm.evaluation`; `evaluate` copies that file into
its own cache, hence the absolute imports.
"""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch

from animal_ldm.errors import InputError
from animal_ldm.evaluation.features import Extractor, extract, load_extractor
from animal_ldm.evaluation.images import images_of_folder

PATHS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})


def compared(
    predictions: Sequence[str], references: Sequence[str], extractor: str, weights: str | None, device: str
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Features of real and of generated pictures, and what must stand beside every number measured on them.

    The extractor is loaded only if one of the paths is not a file of features already.

    Returns:
        real (N, D), fake (M, D), and {n_generated, n_real, extractor}, where `extractor` is its description or
        "features as given".
    """
    only_files = all(Path(path).suffix == ".npy" for path in (*predictions, *references))
    eye = None if only_files else load_extractor(extractor, weights, device)
    real, fake = read_features(references, eye), read_features(predictions, eye)
    described = eye.describe() if eye else "features as given"
    return real, fake, {"n_generated": len(fake), "n_real": len(real), "extractor": described}


def read_features(paths: Sequence[str], extractor: Extractor | None) -> torch.Tensor:
    """Features (N, D) of all `paths`: .npy files of features, or folders of pictures that `extractor` looks at.

    Raises:
        InputError: a path is neither, or `extractor` is None and a folder needs it.
    """
    parts = []
    for path in map(Path, paths):
        if path.is_file() and path.suffix == ".npy":
            parts.append(torch.from_numpy(np.load(path)))
        elif path.is_dir() and extractor:
            parts.append(extract(images_of_folder(path), extractor))
        else:
            raise InputError(f"expected a folder of pictures or a .npy file of features (N, D), found {path}")
    return torch.cat(parts)
