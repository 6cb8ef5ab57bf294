"""Photos in the rows of a dataset of the `datasets` library, from a folder or the Hub.

Importing this module imports `datasets`, which takes seconds.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    LargeList,
    List,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets import Image as ImageFeature

from ..errors import InputError
from ..files import read_regular
from .folders import LabelFile
from .reading import PHOTO_BYTES, class_name, one_line
from .records import Columns, Photo


@dataclass(frozen=True)
class DatasetReader:
    """Reads rows of a dataset, memory-mapped and undecoded."""

    dataset: Dataset
    image_column: str

    def photo_bytes(self, photo: Photo) -> bytes:
        try:
            image = self.dataset[photo.row][self.image_column]
        except Exception as error:  # whatever a damaged file makes Arrow raise
            raise OSError(f"`datasets` cannot read the row: {type(error).__name__}: {error}") from error
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise OSError("the row has no image")
        return image["bytes"] if image["bytes"] is not None else read_regular(image["path"], PHOTO_BYTES)

    def label_file(self, photo: Photo) -> LabelFile:
        return LabelFile()


def list_dataset(source: str, wanted: Columns, saved: bool) -> tuple[list[Photo], DatasetReader]:
    """The photos of all splits of `source`; `saved` if `save_to_disk` wrote it.

    Raises:
        InputError: it cannot be loaded, or lacks a column that is needed.
    """
    splits = load_splits(source, saved)
    features = next(iter(splits.values())).features
    columns = choose_columns(features, wanted, source)
    dataset = concatenate_datasets(list(splits.values()))
    labels = [""] * len(dataset)
    if columns.label is not None:
        names = getattr(features[columns.label], "names", None)
        labels = [label_of(names, value) for value in dataset[columns.label]]
    texts: list[Any] = list(dataset[columns.text]) if columns.text is not None else [None] * len(dataset)
    row_names = [f"{split}/{row:08d}" for split, part in splits.items() for row in range(len(part))]
    version = hashlib.sha256("".join(part._fingerprint for part in splits.values()).encode()).hexdigest()
    photos = [
        Photo(name, label, captions_of(text), version, row)
        for row, (name, label, text) in enumerate(zip(row_names, labels, texts, strict=True))
    ]
    images = dataset.select_columns([columns.image]).cast_column(columns.image, ImageFeature(decode=False))
    return photos, DatasetReader(images, columns.image)


def load_splits(source: str, saved: bool) -> dict[str, Dataset]:
    try:
        data = load_from_disk(source) if saved else load_dataset(source)
    except Exception as error:  # the library raises whatever its reader of the day raises
        raise InputError(f"`datasets` cannot load {source}: {type(error).__name__}: {error}") from error
    splits = dict(data) if isinstance(data, DatasetDict) else {"train": data}
    if not splits:
        raise InputError(f"{source} is a dataset without splits.")
    return {str(name): part for name, part in splits.items()}


@dataclass(frozen=True)
class FoundColumns:
    image: str
    label: str | None
    text: str | None


def choose_columns(features: Mapping[str, Any], wanted: Columns, source: str) -> FoundColumns:
    """The columns asked for, or those with the default names.

    Raises:
        InputError: one is missing, or holds something else.
    """
    image = pick_column(features, wanted.image, ("image",), "--image_column", source)
    label = pick_column(features, wanted.label, ("label",), "--label_column", source)
    text = pick_column(features, wanted.text, ("texts", "text"), "--text_column", source)
    there = describe_columns(features)
    if image is None or not isinstance(features[image], ImageFeature):
        raise InputError(f"{source} needs a column of images, named with --image_column. Its columns: {there}.")
    if label is None and text is None:
        raise InputError(
            f"{source} needs a column of class names (--label_column) or captions (--text_column). "
            f"Its columns: {there}."
        )
    for column, allowed in (
        (label, label and (isinstance(features[label], ClassLabel) or is_string(features[label]))),
        (text, text and (is_string(features[text]) or is_list_of_strings(features[text]))),
    ):
        if column and not allowed:
            raise InputError(f"{source}: column {column!r} must hold names or text; it holds {features[column]}.")
    return FoundColumns(image, label, text)


def is_string(feature: Any) -> bool:
    return isinstance(feature, Value) and "string" in feature.dtype


def is_list_of_strings(feature: Any) -> bool:
    return isinstance(feature, List | LargeList) and is_string(feature.feature)


def label_of(names: list[str] | None, value: Any) -> str:
    """The class name of a value: a name, or with `names` a number, where -1 stands for none."""
    if names is not None:
        value = names[value] if value is not None and 0 <= value < len(names) else None
    return class_name(value or "")


def captions_of(value: str | list[str | None] | None) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(filter(None, (one_line(text or "") for text in values))))


def pick_column(
    features: Mapping[str, Any], given: str | None, defaults: tuple[str, ...], option: str, source: str
) -> str | None:
    """The column `given`, or the first of `defaults` that is there."""
    if given is not None and given not in features:
        raise InputError(f"{option} {given}: {source} has no such column. It has {describe_columns(features)}.")
    return given if given is not None else next((name for name in defaults if name in features), None)


def describe_columns(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
