"""Where photos come from: folders, folders with metadata, or a dataset of the `datasets` library.

Each source is listed at once (names, labels and captions, no pixels) and read photo by photo, by any process.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..errors import InputError
from .folders import SPLITS, FolderReader, LabelFile, Listing, list_folder, visible_entries
from .metadata import METADATA_FILES, list_metadata, metadata_files
from .reading import shown
from .records import Columns, FileProblem, Photo

# Files that only the `datasets` library reads.
DATASET_FILES = ("*.parquet", "*.arrow", "*.tar")


class Reader(Protocol):
    """Reads the photos of a source; it is sent to the processes that do so."""

    def photo_bytes(self, photo: Photo) -> bytes:
        """The photo's file.

        Raises:
            OSError: it cannot be read.
        """
        ...

    def label_file(self, photo: Photo) -> LabelFile: ...


@dataclass(frozen=True)
class Source:
    """A listed source: its name for people, its photos in the order of their names, and what reads them."""

    name: str
    photos: list[Photo]
    reader: Reader
    problems: list[FileProblem] = field(default_factory=list)

    @property
    def has_text(self) -> bool:
        """Whether any photo has a class or a caption."""
        return any(photo.label or photo.texts for photo in self.photos)


def open_source(
    source: str, image_column: str | None = None, label_column: str | None = None, text_column: str | None = None
) -> Source:
    """List the photos of `source`, whichever kind it is.

    Raises:
        InputError: `source` is of no known kind, or lacks the columns named.
    """
    root, columns = Path(source), Columns(image_column, label_column, text_column)
    if root.is_dir():
        try:
            if not is_dataset(root):
                return folder_source(root, columns)
        except OSError as error:
            raise InputError(f"SOURCE {shown(root)} cannot be listed: {error}.") from error
    elif os.path.lexists(root):
        kind = "a broken link" if root.is_symlink() and not root.exists() else "a file"
        raise InputError(f"SOURCE must be a folder or a dataset's name, and {shown(source)} is {kind}.")
    elif not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source):
        raise InputError(
            f"SOURCE must be a folder or the name of a dataset on the Hub; there is no folder {shown(source)}."
        )
    # Imports `datasets`, which takes seconds and which folders do not need.
    from .tables import list_dataset

    photos, reader = list_dataset(source, columns, is_saved_dataset(root))
    name = shown(root.resolve().name) if root.is_dir() else source
    return Source(name, sorted(photos, key=lambda photo: photo.name), reader)


def folder_source(root: Path, columns: Columns) -> Source:
    files = metadata_files(root)
    listing = list_metadata(root, files, columns) if files else list_folder(root)
    problems = sorted(set(listing.problems), key=lambda problem: (problem.file, problem.why))
    if not listing.photos:
        raise InputError(not_a_source(listing, problems))
    photos = sorted(listing.photos, key=lambda photo: photo.name)
    return Source(shown(root.resolve().name), photos, FolderReader(root), problems)


def is_saved_dataset(root: Path) -> bool:
    """Whether `datasets` wrote this folder with `save_to_disk`."""
    return (root / "dataset_dict.json").exists() or (root / "state.json").exists()


def is_dataset(root: Path) -> bool:
    """Whether the `datasets` library is to read this folder: saved by it, or with its data files.

    These are looked for in `root`, in its split folders and in `data`, where the Hub's datasets have their files.
    """
    folders = [root, *(Path(entry) for entry in visible_entries(root) if entry.name.lower() in (*SPLITS, "data"))]
    return is_saved_dataset(root) or any(next(folder.glob(glob), None) for folder in folders for glob in DATASET_FILES)


def not_a_source(listing: Listing, problems: list[FileProblem]) -> str:
    found = ", ".join(shown(entry.name) for entry in visible_entries(listing.root)[:8]) or "nothing"
    ignored = "; ".join(f"{problem.file}: {problem.why}" for problem in problems[:3])
    return (
        f"{shown(listing.root)} holds no photos in a layout known here. Looked for: class folders with images in "
        "train/ or test/ (train/<Class>/*.jpg), class folders (<class>/*.jpg), images without folders (*.jpg), "
        f"{' or '.join(METADATA_FILES)}, a dataset saved by `datasets` (dataset_dict.json or state.json), or its "
        f"files ({', '.join(DATASET_FILES)}). Found: {found}. {ignored and f'Ignored: {ignored}. '}"
        "Put the photos of each class into a folder with the class's name."
    )
