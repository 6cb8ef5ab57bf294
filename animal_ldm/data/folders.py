"""Photos in folders: a folder per class, the Kaggle layout, or all in one; with captions in text files beside them."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..files import read_regular, why
from .reading import PHOTO_BYTES, TEXT_BYTES, class_name, is_utf8, one_line, shown, stamp
from .records import FileProblem, Photo

# Folders of these names are a source's own splits, never classes.
SPLITS = ("train", "training", "val", "valid", "validation", "test")
LABEL_FOLDER = "Label"


class LabelFile(NamedTuple):
    """The label file of a photo: its name, its lines (none where there is no file) and what is wrong with it."""

    name: str = ""
    lines: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class FolderReader:
    """Reads photos of a folder, and the label files beside them."""

    root: Path

    def photo_bytes(self, photo: Photo) -> bytes:
        return read_regular(self.root / (photo.path or photo.name), PHOTO_BYTES)

    def label_file(self, photo: Photo) -> LabelFile:
        path = label_path(Path(photo.path or photo.name))
        name = shown(path.as_posix())
        try:
            text = read_regular(self.root / path, TEXT_BYTES).decode("utf-8", "replace")
        except (FileNotFoundError, NotADirectoryError):
            # A link that leads nowhere is not a missing label.
            return LabelFile(name, problem="a broken link") if os.path.islink(self.root / path) else LabelFile(name)
        except OSError as error:
            return LabelFile(name, problem=why(error))
        return LabelFile(name, tuple(text.splitlines()))


def label_path(photo: Path) -> Path:
    return photo.parent / LABEL_FOLDER / f"{photo.stem}.txt"


class Folder(NamedTuple):
    """The visible entries of a folder. `others` are neither: links that lead nowhere, pipes, devices."""

    folders: list[os.DirEntry]
    files: list[os.DirEntry]
    others: list[os.DirEntry]


@dataclass
class Listing:
    """Photos found below `root` so far, and what was ignored or renamed."""

    root: Path
    photos: list[Photo] = field(default_factory=list)
    problems: list[FileProblem] = field(default_factory=list)

    def report(self, path: str | Path | os.DirEntry, problem: str) -> None:
        entry = FileProblem(self.name(path), problem)
        if entry not in self.problems[-1:]:
            self.problems.append(entry)

    def name(self, path: str | Path | os.DirEntry) -> str:
        """The path below `root`, fit to be shown."""
        return shown(Path(path).relative_to(self.root).as_posix())

    def scan(self, folder: str | Path | os.DirEntry) -> Folder:
        found = Folder([], [], [])
        try:
            entries = visible_entries(folder)
        except OSError as error:
            self.report(folder, f"cannot be listed: {why(error)}")
            entries = []
        for entry in entries:
            {"folder": found.folders, "file": found.files}.get(kind(entry), found.others).append(entry)
        return found

    def add(self, entry: os.DirEntry, label: str, texts: Iterable[str], label_stamp: str = "") -> None:
        path = Path(entry).relative_to(self.root).as_posix()
        name = shown(path)
        self.photos.append(
            Photo(name, label, tuple(texts), stamp(entry) + label_stamp, path=path if path != name else "")
        )


def list_folder(root: Path) -> Listing:
    """Every photo of the class folders in the split folders of `root`, or else in `root` itself.

    Without class folders these folders are taken as a flat source: photos without a class.
    """
    listing = Listing(root)
    top = listing.scan(root)
    bases = {root: top} | {Path(entry): listing.scan(entry) for entry in top.folders if is_split(entry)}
    classes = {path: class_folders(listing, found) for path, found in bases.items()}
    in_splits = [entry for path in bases if path != root for entry in classes[path]]
    used = in_splits or classes[root]
    for entry in used:
        list_class(listing, entry)
    for found in bases.values():
        if not used:
            list_flat(listing, found)
            continue
        for entry in found.files:
            if is_image(entry.name):
                listing.report(entry, "ignored: not in a class folder")
        for entry in found.others:
            listing.report(entry, f"ignored: {describe(entry)}")
    for entry in classes[root] if in_splits else ():
        listing.report(entry, "ignored: a class folder beside the folders of splits")
    return listing


def class_folders(listing: Listing, found: Folder) -> list[os.DirEntry]:
    folders = []
    for entry in found.folders:
        if is_split(entry) or not holds_images(entry):
            continue
        if entry.is_symlink() and listing.root.resolve().is_relative_to(Path(entry).resolve()):
            listing.report(entry, "ignored: a link to a folder that contains it")
        else:
            folders.append(entry)
    return folders


def list_class(listing: Listing, folder: os.DirEntry) -> None:
    """Every visible file of a class folder; a text file with the name of a photo holds its captions."""
    label = class_name(folder.name)
    if not is_utf8(folder.name):
        listing.report(folder, f"the folder's name is not UTF-8; the class is called {label!r}")
    labels = Path(folder, LABEL_FOLDER)
    label_stamps = {}
    if labels.is_dir():
        found = listing.scan(labels)
        label_stamps = {entry.name: stamp(entry) for part in found for entry in part}
    elif os.path.lexists(labels):
        listing.report(labels, "ignored: not a folder of label files")
    found = listing.scan(folder)
    report_folders(listing, found)
    entries = found.files + found.others
    stems = {Path(entry).stem for entry in entries if not is_text(entry.name)}
    captions = {Path(entry).stem: entry for entry in entries if is_text(entry.name) and Path(entry).stem in stems}
    for entry in entries:
        stem = Path(entry).stem
        if entry is not captions.get(stem):
            texts = read_captions(listing, captions[stem]) if stem in captions else ()
            listing.add(entry, label, texts, label_stamps.get(f"{stem}.txt", ""))


def list_flat(listing: Listing, found: Folder) -> None:
    """The images of a folder without classes, with the captions beside them."""
    report_folders(listing, found)
    entries = found.files + found.others
    images = [entry for entry in entries if is_image(entry.name)]
    stems = {Path(entry).stem for entry in images}
    captions = {}
    for entry in entries:
        if is_text(entry.name) and Path(entry).stem in stems:
            captions[Path(entry).stem] = entry
        elif is_text(entry.name):
            listing.report(entry, "ignored: no photo has the name of this text file")
        elif entry in found.others and not is_image(entry.name):
            listing.report(entry, f"ignored: {describe(entry)}")
    for entry in images:
        stem = Path(entry).stem
        listing.add(entry, "", read_captions(listing, captions[stem]) if stem in captions else ())


def report_folders(listing: Listing, found: Folder) -> None:
    for entry in found.folders:
        if is_image(entry.name) or is_text(entry.name):
            listing.report(entry, "ignored: a folder with the name of a file")


def read_captions(listing: Listing, file: os.DirEntry) -> tuple[str, ...]:
    """The captions in a text file, one per line. Boxes, as detectors are trained on, are not captions."""
    try:
        text = read_regular(file.path, TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        listing.report(file, "ignored: the captions are not UTF-8; save the file as UTF-8")
        return ()
    except OSError as error:
        listing.report(file, f"ignored: captions that cannot be read: {why(error)}")
        return ()
    if "\0" in text:
        listing.report(file, "ignored: not a text file")
        return ()
    lines = [line for line in map(one_line, text.splitlines()) if line]
    captions = [line for line in lines if not is_box(line)]
    if len(captions) < len(lines):
        listing.report(file, f"{len(lines) - len(captions)} lines ignored: numbers or boxes, not captions")
    return tuple(dict.fromkeys(captions))


def is_box(line: str) -> bool:
    """Whether a line holds numbers alone (YOLO's `class x y w h`), or a class and the four numbers of a box."""
    numbers = [is_number(word) for word in line.split()]
    return all(numbers) or (len(numbers) > 4 and all(numbers[-4:]))


def is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def is_split(entry: os.DirEntry) -> bool:
    return kind(entry) == "folder" and entry.name.lower() in SPLITS


def kind(entry: os.DirEntry) -> str:
    """ "folder", "file" or "" for what is neither; links are followed."""
    try:
        mode = entry.stat().st_mode
    except OSError:
        return ""
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else ""


def describe(entry: os.DirEntry) -> str:
    try:
        entry.stat()
    except OSError as error:
        return ("a broken link: " if entry.is_symlink() else "") + why(error)
    return "a pipe, socket or device"


def visible_entries(folder: str | Path | os.DirEntry) -> list[os.DirEntry]:
    """What a folder holds, by name, without the hidden."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def holds_images(folder: os.DirEntry) -> bool:
    try:
        return any(is_image(entry.name) for entry in visible_entries(folder))
    except OSError:
        return False


def is_image(name: str) -> bool:
    return Path(name).suffix.lower() in Image.registered_extensions()


def is_text(name: str) -> bool:
    return Path(name).suffix.lower() == ".txt"
