"""Reading a prepared dataset: the folder that `animal-ldm prepare` writes and every later step takes."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import InputError
from ..files import read_regular, why
from .attributes import Attributes
from .captions import caption_sources
from .reading import METADATA_BYTES, inside
from .records import NO_CAPTION, TEMPLATE, MetadataLine

if TYPE_CHECKING:
    from .shards import PackedPhotos


@dataclass(frozen=True)
class PreparedSplit:
    """One split of a prepared dataset: photo `i` is `files[i]`, of class `labels[i]`, described by `captions[i]`.

    Attributes:
        folder: the folder of the split.
        files: paths of the photos below it.
        captions: all captions of each photo, at least one; "" is the only one of a photo without class and caption.
        labels: class names; "" for photos without a class.
        attributes: measured words of each photo; None for photos prepared without `--describe`.
        sources: where each of `captions` comes from, as `MetadataLine.caption_sources`.
        digests: SHA-256 of each photo's file when it was prepared; "" in folders of earlier versions.
        shards: where the photos are, if they are not files; the sequences above are then read from disk as needed.
    """

    folder: Path
    files: Sequence[str]
    captions: Sequence[tuple[str, ...]]
    labels: Sequence[str]
    attributes: Sequence[Attributes | None] = ()
    sources: Sequence[tuple[str, ...]] = ()
    digests: Sequence[str] = ()
    shards: "PackedPhotos | None" = None

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The first caption of each photo."""
        return tuple(captions[0] for captions in self.captions)

    @property
    def all_captions(self) -> tuple[str, ...]:
        """All captions of all photos, in order, with repetitions."""
        return tuple(text for captions in self.captions for text in captions)

    @property
    def source_counts(self) -> dict[str, int]:
        """The number of captions by source, the most common first."""
        return dict(Counter(source for sources in self.sources for source in sources).most_common())

    @property
    def says_more_than_classes(self) -> bool:
        """Whether any caption is not the class name in a template."""
        return not self.source_counts.keys() <= {TEMPLATE, NO_CAPTION}

    def example_captions(self, number: int, seed: int) -> list[str]:
        """At most `number` distinct captions that are not templates, chosen by `seed`, of as many classes as possible.

        No two are of the same photo.
        """
        chosen: dict[str, str] = {}  # {caption: class}
        order = np.random.default_rng(seed).permutation(len(self))
        for another_of_a_class in (False, True):
            for photo in map(int, order):
                texts = zip(self.captions[photo], self.sources[photo], strict=True)
                text = next((text for text, source in texts if source not in (TEMPLATE, NO_CAPTION)), None)
                label: str = self.labels[photo]
                known = label in chosen.values() and not another_of_a_class
                if text is not None and not known and len(chosen) < number:
                    chosen.setdefault(text, label)
        return list(chosen)

    @property
    def classes(self) -> list[str]:
        """Class names, the most common first, ties by name; `[""]` if no photo has a class."""
        counts = Counter(label for label in self.labels if label)
        return sorted(counts, key=lambda name: (-counts[name], name)) or [""]

    def image(self, index: int) -> np.ndarray:
        """Photo `index` as uint8 RGB, (H, W, 3).

        Raises:
            InputError: it is not the photo that was prepared.
        """
        with Image.open(BytesIO(self.photo_bytes(index))) as image:
            return np.asarray(image.convert("RGB"))

    def photo_bytes(self, index: int) -> bytes:
        """The file of photo `index`.

        Raises:
            InputError: it is not the file that was prepared.
        """
        data = (self.folder / self.files[index]).read_bytes() if self.shards is None else self.shards[index]
        known = self.digests[index] if self.digests else ""
        if known and hashlib.sha256(data).hexdigest() != known:
            raise InputError(
                f"{self.folder / self.files[index]} has changed since the dataset was prepared: its SHA-256 is not"
                " that in the metadata. Prepare again; if the change is yours, remove the photo's sha256 there."
            )
        return data

    @property
    def photos(self) -> "PreparedPhotos":
        return PreparedPhotos(self)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and bytes of all photos, in order, without their captions.

        It is made of `digests`; only photos that have none are read. `verify` reads them all.
        """
        digest = hashlib.sha256()
        for index, (file, known) in enumerate(zip(self.files, self.digests or ("",) * len(self), strict=True)):
            part = bytes.fromhex(known) if known else hashlib.sha256(self.photo_bytes(index)).digest()
            digest.update(file.encode() + b"\0" + part)
        return digest.hexdigest()

    def verify(self) -> None:
        """Read every photo and compare it with its digest.

        Raises:
            InputError: one is not the file that was prepared.
        """
        for index in range(len(self)):
            self.photo_bytes(index)


class PreparedPhoto(NamedTuple):
    """A photo of a split in the place of a file; what is read is compared with its digest."""

    split: PreparedSplit
    index: int

    def read_bytes(self) -> bytes:
        return self.split.photo_bytes(self.index)

    def __str__(self) -> str:
        return str(self.split.folder / self.split.files[self.index])


class PreparedPhotos(Sequence):
    """The photos of a split, made when they are asked for."""

    def __init__(self, split: PreparedSplit):
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(PreparedPhoto(self.split, i) for i in range(*index.indices(len(self))))
        return PreparedPhoto(self.split, range(len(self))[index])


def has_split(prepared: str | Path, split: str) -> bool:
    folder = Path(prepared, split)
    return (folder / "metadata.jsonl").exists() or next(folder.glob("*.parquet"), None) is not None


def load_splits(prepared: str | Path, verify: bool) -> tuple[PreparedSplit, PreparedSplit]:
    """The training and the validation split, with `verify` compared with their digests. Errors as of `load_split`."""
    splits = load_split(prepared, "train"), load_split(prepared, "validation")
    for split in splits if verify else ():
        split.verify()
    return splits


def load_split(prepared: str | Path, split: str) -> PreparedSplit:
    """Read `PREPARED/<split>/metadata.jsonl`, or the shards there.

    Args:
        prepared: a folder, or a URL that fsspec knows (`shards.load_remote`).

    Raises:
        InputError: the folder is not a prepared dataset, its metadata is empty or malformed, or one of its files is
            not a regular file within `prepared`.
    """
    if "://" in str(prepared):
        from .shards import load_remote  # imports `datasets`, see below

        return load_remote(str(prepared), split)
    folder = Path(prepared) / split
    metadata = folder / "metadata.jsonl"
    if not metadata.exists() and has_split(prepared, split):
        # Imports `datasets`, which takes seconds and which folders do not need.
        from .shards import load_shards

        return load_shards(Path(prepared), folder)
    if not metadata.exists():
        raise InputError(
            f"Expected a prepared dataset with {metadata}, but found none. "
            f"Make one with `animal-ldm prepare PHOTOS {prepared}`."
        )
    lines = read_metadata(Path(prepared), metadata)
    if not lines:
        raise InputError(f"{metadata} lists no photos. Prepare the dataset again.")
    return PreparedSplit(
        folder,
        tuple(line.file_name for line in lines),
        tuple(line.texts for line in lines),
        tuple(line.label for line in lines),
        tuple(line.attributes for line in lines),
        tuple(map(caption_sources, lines)),
        tuple(line.sha256 for line in lines),
    )


def read_metadata(prepared: Path, metadata: Path) -> list[MetadataLine]:
    """The lines of a `metadata.jsonl`, checked.

    Raises:
        InputError: a line is malformed, or its file is not a regular file within `prepared`.
    """
    try:
        inside(prepared, metadata.parent, metadata.name)
        text = read_regular(metadata, METADATA_BYTES).decode("utf-8")
    except OSError as error:
        raise InputError(f"{metadata} cannot be read: {why(error)}.") from error
    except ValueError as error:
        raise InputError(f"{metadata} must be a UTF-8 file within the prepared dataset: {error}.") from error
    lines = []
    for number, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            line = MetadataLine.parse(content)
        except ValueError as error:
            raise InputError(
                f"{metadata}:{number}: expected a JSON object with file_name, text and label, found "
                f"{content[:80]!r} ({error}). Prepare the dataset again."
            ) from error
        try:
            path = inside(prepared, metadata.parent, line.file_name)
        except ValueError as error:
            raise InputError(
                f"{metadata}:{number}: {error}. If you trust this dataset, copy the photos into its folder."
            ) from error
        if os.path.lexists(path) and not path.is_file():
            raise InputError(f"{metadata}:{number}: {line.file_name!r} must be a regular file, but is not.")
        lines.append(line)
    return lines
