"""Pictures to be measured: files on disk, whoever made them."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.prepared import PreparedSplit
from ..errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Images:
    """Picture `i` is `files[i]`, of class `labels[i]` where classes are known."""

    files: tuple[Path, ...]
    labels: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        """Picture `index` as uint8 RGB, (H, W, 3)."""
        with Image.open(self.files[index]) as image:
            return np.asarray(image.convert("RGB"))

    def take(self, indices: Sequence[int]) -> "Images":
        labels = self.labels and tuple(self.labels[i] for i in indices)
        return Images(tuple(self.files[i] for i in indices), labels)

    def digest(self) -> str:
        """SHA-256 over the bytes of all pictures, in order; their names do not enter."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()


def images_of_split(split: PreparedSplit) -> Images:
    """The photos of one split of a prepared dataset."""
    return Images(tuple(split.folder / file for file in split.files), split.labels)


def images_of_folder(folder: str | Path) -> Images:
    """All pictures under `folder`, sorted by path. If all lie in subfolders, these name the classes (`_` for a space).

    Raises:
        InputError: there is no picture.
    """
    folder = Path(folder)
    files = tuple(sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES))
    if not files:
        raise InputError(f"expected pictures ({', '.join(SUFFIXES)}) in {folder}, found none")
    labels = tuple(path.relative_to(folder).parts[0].replace("_", " ") for path in files)
    return Images(files, labels if all(path.parent != folder for path in files) else None)


def save_whole(image: Image.Image, path: Path) -> None:
    """Write a PNG that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    image.save(partial, format="png")
    os.replace(partial, path)
