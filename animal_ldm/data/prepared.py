"""Reading a prepared dataset: the folder that `animal-ldm prepare` writes and every later step takes."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError


@dataclass(frozen=True)
class PreparedSplit:
    """One split of a prepared dataset: photo `i` is `files[i]`, described by `texts[i]`, of class `labels[i]`."""

    folder: Path
    files: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def classes(self) -> list[str]:
        """Class names, the most common first, ties by name."""
        counts = Counter(self.labels)
        return sorted(counts, key=lambda name: (-counts[name], name))

    def image(self, index: int) -> np.ndarray:
        """Photo `index` as uint8 RGB, (H, W, 3)."""
        with Image.open(self.folder / self.files[index]) as image:
            return np.asarray(image.convert("RGB"))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and bytes of all photos, in order; captions do not enter. Reads every photo, once."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.encode() + b"\0" + hashlib.sha256((self.folder / file).read_bytes()).digest())
        return digest.hexdigest()


def load_split(prepared: str | Path, split: str) -> PreparedSplit:
    """Read `PREPARED/<split>/metadata.jsonl`.

    Raises:
        InputError: the folder is no prepared dataset, or its metadata is empty or malformed.
    """
    folder = Path(prepared) / split
    metadata = folder / "metadata.jsonl"
    if not metadata.is_file():
        raise InputError(
            f"expected a prepared dataset with {metadata}, found none; "
            "make one with `animal-ldm prepare PHOTOS " + str(prepared) + "`"
        )
    records = []
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            records.append((record["file_name"], record["text"], record["label"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{metadata}:{number}: expected a JSON object with file_name, text and label, found {line[:80]!r}"
            ) from error
    if not records:
        raise InputError(f"{metadata} lists no photo; prepare the dataset again")
    return PreparedSplit(folder, *zip(*records, strict=True))
