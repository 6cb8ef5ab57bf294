"""Photos of a split in memory-mapped form, and square crops of them."""

import numpy as np
import torch

from ..data.prepared import PreparedSplit
from ..errors import InputError
from .cache import Cache, fingerprint


def pixel_array(cache: Cache, split: PreparedSplit) -> np.ndarray:
    """All photos of a split, uint8 `(N, H, W, 3)`, memory-mapped.

    Raises:
        InputError: the photos differ in size.
    """
    shape = split.image(0).shape

    def read(start: int, stop: int) -> np.ndarray:
        images = [split.image(i) for i in range(start, stop)]
        for file, image in zip(split.files[start:stop], images, strict=True):
            if image.shape != shape:
                raise InputError(
                    f"All photos must be of one size, as `animal-ldm prepare` writes them: {split.folder / file} has"
                    f" {image.shape[1]} x {image.shape[0]} pixels, the first photo {shape[1]} x {shape[0]}. Prepare"
                    " the dataset again."
                )
        return np.stack(images)

    key = fingerprint("pixels", split.fingerprint)
    return cache.array(key, (len(split), *shape), np.uint8, read, "reading photos")


def random_crops(
    pixels: np.ndarray, chosen: np.ndarray, size: int, generator: torch.Generator, rows: np.ndarray | None = None
) -> np.ndarray:
    """Square crops at random places of the photos `chosen`, half of them mirrored: uint8 `(B, size, size, 3)`.

    Args:
        pixels: uint8 `(N, H, W, 3)`.
        chosen: int64 `(B,)`.
        rows: which of them to return; all by default. Places are drawn for all, so that they do not depend on it.
    """
    count, (height, width) = len(chosen), pixels.shape[1:3]
    tops = torch.randint(height - size + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(width - size + 1, (count,), generator=generator).tolist()
    flips = torch.rand(count, generator=generator).lt(0.5).tolist()
    return np.stack(
        [
            pixels[chosen[row], tops[row] : tops[row] + size, lefts[row] : lefts[row] + size][
                :, :: -1 if flips[row] else 1
            ]
            for row in (range(count) if rows is None else rows)
        ]
    )


def center_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """Central squares: uint8 `(B, H, W, 3)` to `(B, size, size, 3)`."""
    top, left = (pixels.shape[1] - size) // 2, (pixels.shape[2] - size) // 2
    return pixels[:, top : top + size, left : left + size]
