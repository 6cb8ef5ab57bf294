"""Images to be measured: files on disk, whoever made them."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.prepared import PreparedPhoto, PreparedSplit, load_split
from ..errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """Image `i` is `files[i]`, of class `labels[i]` where classes are known, with `captions[i]` where it has some.

    `digests[i]` is the SHA-256 of its file if that is known, else "".
    """

    files: Sequence[Path | PreparedPhoto]
    labels: Sequence[str] | None = None
    captions: Sequence[tuple[str, ...]] | None = None
    digests: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index` as uint8 RGB, (H, W, 3).

        Raises:
            InputError: the file is damaged or is not an image.
        """
        file = self.files[index]
        try:
            with Image.open(BytesIO(file.read_bytes())) as image:
                return np.asarray(image.convert("RGB"))
        # Pillow's decoders raise all of these for damaged files.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{file} cannot be read as an image ({error}). Replace or remove it.") from error

    def take(self, indices: Sequence[int]) -> "Images":
        labels = self.labels and tuple(self.labels[i] for i in indices)
        captions = self.captions and tuple(self.captions[i] for i in indices)
        digests = self.digests and tuple(self.digests[i] for i in indices)
        return Images(tuple(self.files[i] for i in indices), labels, captions, digests)

    def stack(self, indices: Sequence[int]) -> np.ndarray:
        """Images of one size as uint8 RGB, (B, H, W, 3)."""
        return np.stack([self[i] for i in indices])

    def digest(self) -> str:
        """SHA-256 over the bytes of all images, in order; their names do not enter. Known digests are not computed."""
        digest = hashlib.sha256()
        for file, known in zip(self.files, self.digests or repeat(""), strict=False):
            digest.update(bytes.fromhex(known) if known else hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()


def images_of_split(split: PreparedSplit) -> Images:
    """The photos of one split of a prepared dataset."""
    return Images(split.photos, split.labels, split.captions, split.digests or None)


def images_of_dataset(prepared: str | Path) -> dict[str, Images]:
    """The photos of both splits of a prepared dataset, {"train": …, "validation": …}."""
    return {name: images_of_split(load_split(prepared, name)) for name in ("train", "validation")}


def images_of_folder(folder: str | Path) -> Images:
    """All images under `folder`, sorted by path. If all are in subfolders, these name the classes (`_` for a space).

    Hidden files are left out. Others that Pillow does not read are named in a warning.

    Raises:
        InputError: there is no image.
    """
    folder = Path(folder)
    files, skipped = [], []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            (files if path.suffix.lower() in image_suffixes() else skipped).append(path)
    if not files:
        raise InputError(
            f"{folder} holds no images; expected files that Pillow reads, such as PNG, JPEG, WebP or TIFF."
        )
    if skipped:
        names = ", ".join(path.name for path in skipped[:3]) + (", …" if len(skipped) > 3 else "")
        logger.warning("Skipped in %s: %d files that are not images (%s).", folder, len(skipped), names)
    labels = tuple(path.relative_to(folder).parts[0].replace("_", " ") for path in files)
    return Images(tuple(files), labels if all(path.parent != folder for path in files) else None)


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the formats that Pillow reads, in lower case, with their dots."""
    Image.init()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)
