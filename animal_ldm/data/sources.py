"""Where photos come from: the Kaggle layout, an image folder, or a dataset of the `datasets` library.

Each source is listed at once (names and labels, no pixels) and read photo by photo, by any process.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

# Folders of these names are a source's own splits, never classes.
SPLITS = ("train", "training", "val", "valid", "validation", "test")
LABEL_FOLDER = "Label"
# An image folder with captions has metadata beside the photos; other datasets have files of these kinds.
DATASET_FILES = ("metadata.jsonl", "metadata.csv", "*.parquet", "*.arrow", "*.tar")


@dataclass(frozen=True)
class Photo:
    """One photo of a source, not opened yet.

    Attributes:
        name: path within the source ("train/Lion/a1.jpg") or split and row ("train/00000012").
        label: lower-case class name, which may hold spaces; empty where the source has captions alone.
        text: the user's own caption, or empty.
        stamp: changes when the photo's file or label file does.
        row: the row of a dataset; 0 for files.
    """

    name: str
    label: str
    text: str = ""
    stamp: str = ""
    row: int = 0


@dataclass(frozen=True)
class FolderReader:
    """Reads photos, and label files beside them, of a folder."""

    root: Path

    def photo_bytes(self, photo: Photo) -> bytes:
        return (self.root / photo.name).read_bytes()

    def label_lines(self, photo: Photo) -> tuple[str, list[str]]:
        """The name of the photo's label file and its lines (none where it has no label)."""
        path = label_path(Path(photo.name))
        try:
            return path.as_posix(), (self.root / path).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return path.as_posix(), []


@dataclass(frozen=True)
class DatasetReader:
    """Reads rows of a `datasets` dataset, memory-mapped and undecoded."""

    dataset: "Dataset"
    image_column: str

    def photo_bytes(self, photo: Photo) -> bytes:
        image = self.dataset[photo.row][self.image_column]
        if image is None:
            return b""
        return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()

    def label_lines(self, photo: Photo) -> tuple[str, list[str]]:
        return "", []


@dataclass(frozen=True)
class Source:
    """A listed source: its name for people, its photos in the order of their names, and what reads them."""

    name: str
    photos: list[Photo]
    reader: FolderReader | DatasetReader


def label_path(photo: Path) -> Path:
    return photo.parent / LABEL_FOLDER / f"{photo.stem}.txt"


def class_name(name: str) -> str:
    """How a class is called here: "Polar_Bear" -> "polar bear"."""
    return " ".join(name.replace("_", " ").lower().split())


def open_source(
    source: str, image_column: str | None = None, label_column: str | None = None, text_column: str | None = None
) -> Source:
    """List the photos of `source`, whatever of the three kinds it is.

    Raises:
        InputError: `source` is none of the three kinds, or has not the columns named.
    """
    root = Path(source)
    if root.is_dir():
        if not is_dataset(root):
            photos = sorted(folder_photos(root), key=lambda photo: photo.name)
            if not photos:
                raise InputError(not_a_source(root))
            return Source(root.resolve().name, photos, FolderReader(root))
    elif root.exists():
        raise InputError(f"SOURCE must be a folder or a dataset's name, and {source} is a file.")
    elif not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source):
        raise InputError(f"SOURCE must be a folder or the name of a dataset on the Hub; there is no folder {source}.")
    return dataset_source(source, image_column, label_column, text_column)


def folder_photos(root: Path) -> Iterator[Photo]:
    """Every visible file of the class folders in the split folders of `root`, or else in `root` itself."""
    splits = [folder for entry in visible_entries(root) if is_split(entry) for folder in class_folders(entry)]
    for folder in splits or class_folders(root):
        yield from class_photos(root, Path(folder))


def is_split(entry: os.DirEntry) -> bool:
    return entry.is_dir() and entry.name.lower() in SPLITS


def class_folders(base: Path | os.DirEntry) -> list[os.DirEntry]:
    return [
        entry for entry in visible_entries(base) if entry.is_dir() and not is_split(entry) and holds_pictures(entry)
    ]


def class_photos(root: Path, folder: Path) -> Iterator[Photo]:
    labels = folder / LABEL_FOLDER
    label_stamps = {entry.name: stamp(entry) for entry in visible_entries(labels)} if labels.is_dir() else {}
    for entry in visible_entries(folder):
        if entry.is_file():
            path = Path(entry)
            yield Photo(
                name=path.relative_to(root).as_posix(),
                label=class_name(folder.name),
                stamp=stamp(entry) + label_stamps.get(f"{path.stem}.txt", ""),
            )


def visible_entries(folder: Path | os.DirEntry) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def holds_pictures(folder: os.DirEntry) -> bool:
    extensions = Image.registered_extensions()
    return any(Path(entry.name).suffix.lower() in extensions for entry in visible_entries(folder))


def stamp(entry: os.DirEntry) -> str:
    status = entry.stat()
    return f"{status.st_size} {status.st_mtime_ns} "


def is_saved_dataset(root: Path) -> bool:
    """Whether `datasets` wrote this folder with `save_to_disk`."""
    return (root / "dataset_dict.json").exists() or (root / "state.json").exists()


def is_dataset(root: Path) -> bool:
    """Whether the `datasets` library is to read this folder: saved by it, or with metadata or data files.

    These are looked for in `root`, in its split folders and in `data`, where the Hub's datasets have their files.
    """
    folders = [root, *(Path(entry) for entry in visible_entries(root) if is_split(entry) or entry.name == "data")]
    return is_saved_dataset(root) or any(next(folder.glob(glob), None) for folder in folders for glob in DATASET_FILES)


def not_a_source(root: Path) -> str:
    found = ", ".join(sorted(entry.name for entry in visible_entries(root))[:8]) or "nothing"
    return (
        f"{root} holds no photos in a layout known here. Looked for: class folders with pictures in train/ or test/ "
        "(train/<Class>/*.jpg), class folders of its own (<class>/*.jpg), a dataset saved by `datasets` "
        f"(dataset_dict.json or state.json), or its files ({', '.join(DATASET_FILES)}). Found: {found}. "
        "Put the photos of each class into a folder of the class's name."
    )


def dataset_source(source: str, image_column: str | None, label_column: str | None, text_column: str | None) -> Source:
    from datasets import ClassLabel, Value, concatenate_datasets
    from datasets import Image as ImageFeature

    splits = load_splits(source)
    features = next(iter(splits.values())).features
    image_column = pick_column(features, image_column, "image", "--image_column", source)
    label_column = pick_column(features, label_column, "label", "--label_column", source)
    text_column = pick_column(features, text_column, "text", "--text_column", source)
    if image_column is None or not isinstance(features[image_column], ImageFeature):
        raise InputError(
            f"{source} needs a column of images, named with --image_column. Its columns: {describe_columns(features)}."
        )
    if label_column is None and text_column is None:
        raise InputError(
            f"{source} needs a column of class names (--label_column) or captions (--text_column). "
            f"Its columns: {describe_columns(features)}."
        )
    names = None
    if label_column is not None and isinstance(features[label_column], ClassLabel):
        names = features[label_column].names
    for column in (label_column if names is None else None, text_column):
        if column is not None and not (isinstance(features[column], Value) and "string" in features[column].dtype):
            raise InputError(f"{source}: column {column!r} must hold names or text; it holds {features[column]}.")

    dataset = concatenate_datasets(list(splits.values()))
    labels = list(dataset[label_column]) if label_column else [""] * len(dataset)
    if names is not None:
        labels = [names[label] if label is not None and label >= 0 else None for label in labels]
    texts = [" ".join((text or "").split()) for text in dataset[text_column]] if text_column else [""] * len(dataset)
    row_names = [f"{split}/{row:08d}" for split, part in splits.items() for row in range(len(part))]
    version = hashlib.sha256("".join(part._fingerprint for part in splits.values()).encode()).hexdigest()
    photos = [
        Photo(name, class_name(label or ""), text, version, row)
        for row, (name, label, text) in enumerate(zip(row_names, labels, texts, strict=True))
    ]
    reader = DatasetReader(
        dataset.select_columns([image_column]).cast_column(image_column, ImageFeature(decode=False)), image_column
    )
    name = Path(source).resolve().name if Path(source).is_dir() else source
    return Source(name, sorted(photos, key=lambda photo: photo.name), reader)


def load_splits(source: str) -> dict[str, "Dataset"]:
    """All splits of the dataset `source`, a folder or a name on the Hub."""
    from datasets import DatasetDict, load_dataset, load_from_disk

    try:
        data = load_from_disk(source) if is_saved_dataset(Path(source)) else load_dataset(source)
    except Exception as error:  # the library raises whatever its reader of the day raises
        raise InputError(f"`datasets` cannot load {source}: {type(error).__name__}: {error}") from error
    return dict(data) if isinstance(data, DatasetDict) else {"train": data}


def pick_column(features, given: str | None, default: str, option: str, source: str) -> str | None:
    """The column `given`, or the one named as `default` where there is one."""
    if given is not None and given not in features:
        raise InputError(f"{option} {given}: {source} has no such column. It has {describe_columns(features)}.")
    return given if given is not None else default if default in features else None


def describe_columns(features) -> str:
    return ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
