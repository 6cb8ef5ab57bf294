"""Small photos for the tests of `prepare`: smooth random colours, no two alike."""

from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """A smooth random RGB picture."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def write_photos(folder: Path, number: int, first_seed: int) -> None:
    folder.mkdir(parents=True)
    for index in range(number):
        photo(first_seed + index).save(folder / f"{index:03d}.png")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
