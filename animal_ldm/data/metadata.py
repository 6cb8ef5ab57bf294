"""Photos listed in `metadata.jsonl` or `metadata.csv`, beside them or above: file names, captions and class names.

The format is that of the `datasets` library's image folders, with `texts`, a list of captions, as an addition. A
prepared dataset has it too. A file on several lines has the captions of all of them.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_regular, why
from .folders import SPLITS, Listing, is_image, label_path
from .reading import METADATA_BYTES, class_name, inside, one_line, shown, stamp
from .records import ATTRIBUTES, MODEL_PREFIX, OWN, TEMPLATE, Columns, Photo

METADATA_FILES = ("metadata.jsonl", "metadata.csv")


def metadata_files(root: Path) -> list[Path]:
    """The metadata files of `root`, of its split folders and of `data`, one for each folder."""
    folders = [root, *(root / name for name in sorted(os.listdir(root)) if name.lower() in (*SPLITS, "data"))]
    found = ([folder / name for name in METADATA_FILES if (folder / name).exists()] for folder in folders)
    return [files[0] for files in found if files]


def list_metadata(root: Path, files: list[Path], columns: Columns) -> Listing:
    """The photos that the metadata `files` list.

    Raises:
        InputError: a column that is asked for is missing.
    """
    listing = Listing(root)
    rows = {file: list(read_rows(listing, file)) for file in files}
    there = {name for lines in rows.values() for _, row in lines for name in row}
    for option, name in (("--label_column", columns.label), ("--text_column", columns.text)):
        if name is not None and name not in there:
            raise InputError(f"{option} {name}: the metadata of {root} has no such column. It has {sorted(there)}.")
    label = columns.label or "label"
    text_columns = [columns.text] if columns.text else ["texts", "text"]
    photos: dict[str, Photo] = {}
    for file, lines in rows.items():
        for number, row in lines:
            try:
                photo = read_row(root, file.parent, row, label, text_columns)
            except ValueError as error:
                listing.report(file, f"line {number} ignored: {error}")
                continue
            earlier = photos.get(photo.name)
            sources = dict(zip(photo.texts, photo.sources, strict=True))
            if earlier:
                sources = dict(zip(earlier.texts, earlier.sources, strict=True)) | sources
            photos[photo.name] = replace(earlier or photo, texts=tuple(sources), sources=tuple(sources.values()))
    listing.photos.extend(photos.values())
    if photos:
        report_unlisted(listing, [file.parent for file in files])
    return listing


def read_rows(listing: Listing, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each usable line and its values by column."""
    try:
        text = read_regular(file, METADATA_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        listing.report(file, f"cannot be read: {why(error) if isinstance(error, OSError) else 'it is not UTF-8'}")
        return
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield reader.line_num, {name: value for name, value in row.items() if isinstance(name, str)}
        except csv.Error as error:
            listing.report(file, f"ignored from line {reader.line_num} on: {error}")
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield number, row
        else:
            listing.report(file, f"line {number} ignored: expected a JSON object, found {line[:80]!r}")


def read_row(root: Path, folder: Path, row: dict[str, Any], label: str, text_columns: list[str]) -> Photo:
    """The photo of one line.

    Raises:
        ValueError: the line is not usable; the message says why.
    """
    file_name = row.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise ValueError("it has no file_name")
    path = inside(root, folder, file_name)
    name = path.relative_to(root).as_posix()
    class_of_photo = row.get(label)
    if not isinstance(class_of_photo, str | None):
        raise ValueError(f"{label} must be a class name, but is {class_of_photo!r}")
    texts = next((found for column in text_columns if (found := as_texts(column, row.get(column)))), ())
    own_stamp = stamp(path)
    if (label_file := root / label_path(Path(name))).exists():
        own_stamp += stamp(label_file)
    safe = shown(name)
    path_if_other = name if name != safe else ""
    return Photo(
        safe, class_name(class_of_photo or ""), texts, own_stamp, path=path_if_other, sources=sources_of(row, texts)
    )


def as_texts(column: str, value: Any) -> tuple[str, ...]:
    """One caption, or a list of them; in a CSV file, `texts` holds the list as JSON.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, str) and column == "texts":
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            raise ValueError(f"texts must be a list of captions, as JSON, but is {value[:80]!r}") from None
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str | None) for text in values):
        raise ValueError(f"{column} must be text, or a list of texts, but is {str(value)[:80]!r}")
    return tuple(dict.fromkeys(filter(None, map(one_line, filter(None, values)))))


def sources_of(row: dict[str, Any], texts: tuple[str, ...]) -> tuple[str, ...]:
    """Where each of `texts` comes from, as far as the line of a prepared dataset says; the others are the user's."""
    listed, sources = row.get("texts"), row.get("caption_sources")
    if not (isinstance(listed, list) and isinstance(sources, list) and len(listed) == len(sources)):
        return (OWN,) * len(texts)
    known = {
        one_line(text): one_line(source)
        for text, source in zip(listed, sources, strict=True)
        if isinstance(text, str) and isinstance(source, str)
        if source in (TEMPLATE, ATTRIBUTES) or source.startswith(MODEL_PREFIX)
    }
    return tuple(known.get(text, OWN) for text in texts)


def report_unlisted(listing: Listing, folders: list[Path]) -> None:
    listed = {photo.path or photo.name for photo in listing.photos}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            unlisted = (Path(parent, name) for name in sorted(names) if is_image(name) and name[0] != ".")
            for path in unlisted:
                if path.relative_to(listing.root).as_posix() not in listed:
                    listing.report(path, "ignored: the metadata does not list it")
