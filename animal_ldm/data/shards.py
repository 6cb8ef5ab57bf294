"""A prepared dataset in Parquet shards with embedded images: for more photos than folders hold, and the Hub's viewer.

A shard has the fields of `metadata.jsonl` and the image as columns, in the same order. The metadata is read through
the memory-mapped copy that `datasets` makes in its cache, images from the shards themselves.

Importing this module imports `datasets`, which takes seconds.
"""

# pyarrow makes its compute functions when it is imported.
# pyright: reportAttributeAccessIssue=false

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from ..errors import InputError
from ..files import cache_root, first_line, whole_file
from .attributes import KINDS, Attributes
from .prepared import PreparedSplit
from .reading import inside
from .records import MetadataLine

SHARD_BYTES = 256 << 20  # of images in a shard
ROW_GROUP = 100  # photos that are read together: one costs little, and the viewer shows pages of them
GROUPS_KEPT = 8
BATCH = 1000  # rows of metadata converted at a time

TEXT = Value("string")
METADATA = Features(
    {
        "file_name": TEXT,
        "text": TEXT,
        "label": TEXT,
        "texts": List(TEXT),
        "caption_sources": List(TEXT),
        "attributes": dict.fromkeys(KINDS, TEXT),
        "sha256": TEXT,
    }
)
FEATURES = Features({"image": ImageFeature(), **METADATA})


def write_shards(folder: Path, lines: Sequence[MetadataLine], png: Callable[[int], Path]) -> None:
    """Write the photos of a split into `folder`, each shard whole or not at all; shards that were there are replaced.

    Args:
        png: the file of the photo with that index in `lines`.
    """
    sizes = np.array([png(index).stat().st_size for index in range(len(lines))])
    shard_of = (np.cumsum(sizes) - sizes) // SHARD_BYTES
    bounds = [*np.flatnonzero(np.diff(shard_of, prepend=-1)).tolist(), len(lines)]
    names = [f"{shard:05d}-of-{len(bounds) - 1:05d}.parquet" for shard in range(len(bounds) - 1)]
    for name, first, last in zip(names, bounds[:-1], bounds[1:], strict=True):
        with whole_file(folder / name) as partial, pq.ParquetWriter(partial, FEATURES.arrow_schema) as writer:
            for start in range(first, last, ROW_GROUP):
                rows = [
                    {"image": {"bytes": png(i).read_bytes(), "path": PurePosixPath(lines[i].file_name).name}}
                    | asdict(lines[i])
                    for i in range(start, min(start + ROW_GROUP, last))
                ]
                writer.write_table(pa.Table.from_pylist(rows, FEATURES.arrow_schema))
    for path in folder.glob("*.parquet"):
        if path.name not in names:
            path.unlink()


def write_metadata(folder: Path, lines: Iterable[MetadataLine], work: Path) -> None:
    """Replace the metadata in the shards of a split, each shard whole or not at all; the images stay as they are.

    Args:
        work: a file on the same disk, which is written and becomes each shard in turn.
    """
    rest = iter(lines)
    for path in shard_files(folder):
        with pq.ParquetFile(path) as shard, pq.ParquetWriter(work, FEATURES.arrow_schema) as writer:
            for group in range(shard.num_row_groups):
                images = shard.read_row_group(group, columns=["image"])
                rows = [asdict(line) for line in islice(rest, len(images))]
                metadata = pa.Table.from_pylist(rows, METADATA.arrow_schema)
                columns = {"image": images.column("image")} | {name: metadata.column(name) for name in METADATA}
                writer.write_table(pa.table(columns, FEATURES.arrow_schema))
        os.replace(work, path)


def in_order(names: Iterable[str]) -> list[str]:
    """The names of the shards of a split in order; none if one is missing or there is something else."""
    names = sorted(names)
    found = [re.fullmatch(r"(\d{5})-of-(\d{5})\.parquet", name) for name in names]
    whole = [match and (int(match[1]), int(match[2])) for match in found] == [
        (i, len(names)) for i in range(len(names))
    ]
    return names if whole else []


def shard_files(folder: Path) -> list[Path]:
    return [folder / name for name in in_order(path.name for path in folder.glob("*.parquet"))]


def read_shards(folder: Path) -> Iterator[MetadataLine]:
    """The metadata of a split. Raises an OSError or ValueError where a shard is missing or damaged."""
    files = shard_files(folder)
    if not files:
        raise FileNotFoundError(f"{folder}: shards are missing")
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=list(METADATA)):
            for row in batch.to_pylist():
                lists = {name: tuple(row[name]) for name in ("texts", "caption_sources")}
                yield MetadataLine(**row | lists | {"attributes": attributes_of(row["attributes"])})


def load_shards(prepared: Path, folder: Path) -> PreparedSplit:
    """See `prepared.load_split`."""
    files = shard_files(folder)
    if not files:
        raise InputError(
            f"{folder} lacks shards, or holds other Parquet files. Prepare the dataset again, or copy it."
        )
    try:
        for file in files:
            if not inside(prepared, folder, file.name).is_file():
                raise ValueError(f"{file.name} must be a regular file")
        photos = PackedPhotos(files)
        names: list[Any] = [str(file) for file in files]
        table = Dataset.from_parquet(names, features=METADATA, columns=list(METADATA)).data
        check_rows(table)
    except Exception as error:  # whatever Arrow raises of a damaged file
        raise InputError(f"{folder}: the shards cannot be read ({first_line(error)}). Prepare again.") from error
    return split_of(folder, table, photos)


def load_remote(prepared: str, split: str) -> PreparedSplit:
    """A split of a dataset in shards that lies elsewhere: `hf://datasets/user/name` or another URL that fsspec knows.

    Of the shards the metadata are copied into the user's cache. Photos are read, a row group at a time, when they are
    asked for, and not kept.

    Raises:
        InputError: the URL cannot be read, or it is not a prepared dataset in shards.
    """
    url = f"{prepared.rstrip('/')}/{split}"
    try:
        system, folder = url_to_fs(url)
        paths = {path.rsplit("/", 1)[-1]: path for path in system.glob(f"{folder}/*.parquet")}
        files = [RemoteFile(system, paths[name]) for name in in_order(paths)]
        if not files:
            raise FileNotFoundError("there are no shards, or not all of them")
        photos = PackedPhotos(files)
        stamps = [(file.path, system.ukey(file.path), system.size(file.path)) for file in files]
        copied = cache_root() / "metadata" / f"{hashlib.sha256(repr(stamps).encode()).hexdigest()[:32]}.arrow"
        if not copied.exists():
            with (
                whole_file(copied) as partial,
                pa.OSFile(str(partial), "wb") as sink,
                pa.ipc.new_file(sink, METADATA.arrow_schema) as writer,
            ):
                for batch in photos.metadata_batches():
                    writer.write_batch(batch)
        table = pa.ipc.open_file(pa.memory_map(str(copied))).read_all()
        check_rows(table)
    except Exception as error:  # whatever the file system of the day raises, and Arrow of a damaged file
        raise InputError(
            f"{url} cannot be read as a split of a prepared dataset in shards ({first_line(error)}). Expected the URL "
            "of a dataset by `animal-ldm prepare --format shards`, such as hf://datasets/user/name; for s3:// and "
            "gs:// install s3fs or gcsfs."
        ) from error
    return split_of(Path(url), table, photos)


def split_of(folder: Path, table: Any, photos: "PackedPhotos") -> PreparedSplit:
    """A split of photos and the table of their metadata."""
    if len(photos) != len(table):
        raise InputError(f"{folder}: {len(photos)} photos and {len(table)} rows. Prepare again.")

    def column(name: str, of: Callable[[Any], Any] = lambda value: value) -> Column:
        return Column(table.column(name), of)

    return PreparedSplit(
        folder,
        files=column("file_name"),
        captions=column("texts", tuple),
        labels=column("label"),
        attributes=column("attributes", attributes_of),
        sources=column("caption_sources", tuple),
        digests=column("sha256"),
        shards=photos,
    )


def attributes_of(words: dict[str, str | None] | None) -> Attributes | None:
    """None if they were not measured, which the library may write as a row of nothing."""
    known = {kind: word for kind, word in (words or {}).items() if word is not None}
    return Attributes(**known) if known else None


def check_rows(table: Any) -> None:
    """Raise a ValueError for rows that no `MetadataLine` makes."""
    for name in METADATA:
        if name != "attributes" and table.column(name).null_count:
            raise ValueError(f"{name} is missing in some rows")
    captions = pc.list_value_length(table.column("texts"))
    if pc.min(captions).as_py() < 1:
        raise ValueError("there are photos without text")
    if not pc.all(pc.equal(captions, pc.list_value_length(table.column("caption_sources")))).as_py():
        raise ValueError("caption_sources must be as many as texts")


class Column(Sequence):
    """A memory-mapped column as a sequence of Python values, made when they are asked for."""

    def __init__(self, data: pa.ChunkedArray, of: Callable[[Any], Any]):
        self.data, self.of = data, of

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(map(self.of, self.data[index].to_pylist()))
        return self.of(self.data[int(index)].as_py())

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), BATCH):
            yield from map(self.of, self.data.slice(start, BATCH).to_pylist())


class RemoteFile(NamedTuple):
    """A file of a file system that fsspec knows."""

    system: AbstractFileSystem
    path: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


class PackedPhotos:
    """The image files in the shards; `photos[index]` are the bytes of one.

    Raises:
        ValueError: a shard has other columns, or there are no photos.
    """

    def __init__(self, files: Sequence[Path | RemoteFile]):
        self.files = files
        self.metadata: list[Any] = []
        for file in files:
            with self._open(file) as shard:
                if not shard.schema_arrow.equals(FEATURES.arrow_schema):
                    raise ValueError(f"{file.name} has other columns than image, {', '.join(METADATA)}")
                self.metadata.append(shard.metadata)
        self.groups = [(i, group) for i, found in enumerate(self.metadata) for group in range(found.num_row_groups)]
        self.ends = np.cumsum([self.metadata[i].row_group(group).num_rows for i, group in self.groups])
        if not len(self):
            raise ValueError("there are no photos")
        self._group = lru_cache(GROUPS_KEPT)(self._read)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> bytes:
        group = int(np.searchsorted(self.ends, index, "right"))
        images = self._group(group)
        return images[int(index - self.ends[group]) + len(images)].as_py() or b""

    def metadata_batches(self) -> Iterator[pa.RecordBatch]:
        """The other columns, some rows at a time."""
        for file, metadata in zip(self.files, self.metadata, strict=True):
            with self._open(file, metadata) as shard:
                for batch in shard.iter_batches(BATCH, columns=list(METADATA)):
                    yield batch.select(list(METADATA))

    def _read(self, group: int) -> pa.ChunkedArray:
        shard, number = self.groups[group]
        with self._open(self.files[shard], self.metadata[shard]) as opened:
            table = opened.read_row_group(number, columns=["image.bytes"])
        return pc.struct_field(table.column("image"), "bytes")

    def _open(self, file: Path | RemoteFile, metadata: Any = None) -> pq.ParquetFile:
        if isinstance(file, Path):
            return pq.ParquetFile(file, metadata=metadata)
        # What Arrow asks for and no more: a cache that reads ahead would fetch twenty times as much.
        return pq.ParquetFile(file.system.open(file.path, cache_type="none"), metadata=metadata, pre_buffer=True)
