"""Files and names from a source, which may be damaged or hostile: bounded reads, and names that can be shown."""

import hashlib
import os
import unicodedata
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

PHOTO_BYTES = 512 << 20
TEXT_BYTES = 64 << 10  # of a label file or a caption file
METADATA_BYTES = 512 << 20
MAX_FOLDER_NAME = 255  # bytes, on every common file system


def inside(root: Path, folder: Path, file_name: str) -> Path:
    """The file `file_name` of `folder`, a folder of `root`; it must not lead out of `root`.

    Raises:
        ValueError: it is an absolute path, holds "..", or is a link that leads out of `root`.
    """
    # Backslashes separate folders on Windows, where a letter and a colon begin an absolute path.
    if "\0" in file_name or file_name.startswith(("/", "\\")) or PureWindowsPath(file_name).drive:
        raise ValueError(f"file_name must be a path below the folder of the metadata, but is {file_name[:200]!r}")
    if not PurePosixPath(file_name).parts or ".." in file_name.replace("\\", "/").split("/"):
        raise ValueError(f"file_name must be a path without '..', but is {file_name[:200]!r}")
    path = folder / file_name
    if not os.path.realpath(path).startswith(os.path.join(os.path.realpath(root), "")):
        raise ValueError(f"file_name must stay in the folder, but {file_name[:200]!r} links to a place outside of it")
    return path


def stamp(path: str | Path | os.DirEntry) -> str:
    """Changes when the file does."""
    try:
        status = path.stat() if isinstance(path, os.DirEntry) else os.stat(path)
    except OSError:
        return "unreadable "
    return f"{status.st_size} {status.st_mtime_ns} "


def shown(path: str | Path) -> str:
    """The path as text that any file can hold and any terminal can show; others than UTF-8 are written as \\xe9."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def is_utf8(name: str) -> bool:
    """Whether the name of a file is UTF-8 on disk; Python keeps other bytes as lone surrogates."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


@lru_cache(1 << 16)  # many photos share the one string
def class_name(name: str) -> str:
    """How a class is called here: "Polar_Bear" -> "polar bear". Bytes that are not UTF-8 are taken for Latin-1."""
    if not is_utf8(name):
        name = "".join(letter if is_utf8(letter) else chr(ord(letter) - 0xDC00) for letter in name)
    return one_line(name.replace("_", " ").lower())


def one_line(text: str) -> str:
    """The text with single spaces, and without what cannot be shown or encoded."""
    # Cc: control characters; Cs: lone surrogates. Others that do not print, such as joiners, belong to some scripts.
    kept = (letter for letter in text if letter.isspace() or unicodedata.category(letter) not in ("Cc", "Cs"))
    return " ".join("".join(kept).split())


def folder_name(label: str) -> str:
    """The class as a folder: "polar bear" -> "polar_bear". Anything unusual in a folder's name becomes "_" as well.

    A name that is too long for a file system is cut, with a digest of the whole name at its end.
    """
    name = "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in label) or "unlabelled"
    if len(name.encode()) <= MAX_FOLDER_NAME:
        return name
    digest = hashlib.sha256(label.encode()).hexdigest()[:16]
    return name.encode()[: MAX_FOLDER_NAME - 17].decode(errors="ignore") + "-" + digest
