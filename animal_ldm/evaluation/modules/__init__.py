"""Modules for the `evaluate` library: `evaluate.load("animal_ldm/evaluation/modules/fid")`, with no network.

Each is a thin wrapper of one file around the functions of `animal_ldm.evaluation`; `evaluate` copies that file into
its own cache, hence the absolute imports.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from animal_ldm.errors import InputError
from animal_ldm.evaluation.features import Extractor, extract
from animal_ldm.evaluation.images import images_of_folder


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


def only_files(*paths: Sequence[str]) -> bool:
    return all(Path(path).suffix == ".npy" for group in paths for path in group)
