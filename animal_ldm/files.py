"""Files that exist whole or not at all, files from outside, and the folder where computed things are kept."""

import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` when the block ends without an exception.

    Parent folders are created. The temporary name is hidden, keeps the suffix and holds the process id, so several
    processes may write the same file. It is removed if the block raises; only a killed process leaves one behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder below `folder` to write to; its files go to `folder` when the block ends without exception.

    Each file is replaced whole or not at all, `SHA256SUMS` last: until then a mixture of old and new files is seen.
    """
    partial = folder / ".saving"
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    partial.mkdir(parents=True)
    try:
        yield partial
        files = [file.relative_to(partial) for file in partial.rglob("*") if file.is_file()]
        for name in sorted(files, key=lambda name: name.name == SUMS):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial / name, folder / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Write `value` to `path` as JSON with a final line break, whole or not at all.

    Raises:
        ValueError: it holds NaN or infinity, which JSON lacks.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """JSON values with None in place of NaN and infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return value


def read_regular(path: str | Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    A pipe or a device is never read: it could block for ever, or never end.

    Raises:
        OSError: the file is missing, not regular, too large or unreadable.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("expected a regular file, found a folder, pipe, socket or device")
    # Should it be replaced by a pipe at this moment, opening it still does not block.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("expected a regular file, found a pipe, socket or device")
        if status.st_size > limit:
            raise OSError(f"{status.st_size:,} bytes are more than the limit of {limit:,}")
        data = file.read(status.st_size + 1) or b""
    if len(data) > status.st_size:  # files below /proc claim to be empty and may have no end
        raise OSError("the file is longer than its size on disk says")
    return data


def why(error: Exception) -> str:
    """What went wrong, without the path that the message of an `OSError` repeats."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's message, and the second after a colon; the name of its type without a message."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


SUMS = "SHA256SUMS"


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: str | Path, names: Iterable[str]) -> None:
    """Write `SHA256SUMS` of the files `names` of `folder`, which `sha256sum -c SHA256SUMS` checks too."""
    lines = [f"{file_sha256(Path(folder, name))}  {name}\n" for name in sorted(names)]
    write_text(Path(folder, SUMS), "".join(lines))


def check_sums(folder: str | Path, names: Iterable[str]) -> None:
    """Compare files with the folder's `SHA256SUMS`, if it has one.

    Raises:
        InputError: one of the files `names` is not listed there, or has another digest.
    """
    listed = Path(folder, SUMS)
    if not listed.exists():
        return
    try:
        lines = read_regular(listed, 1 << 20).decode().splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{listed} cannot be read: {why(error)}.") from error
    digests = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in names:
        if name not in digests:
            raise InputError(f"{SUMS} in {folder} does not list {name}. Delete the file, or copy the folder again.")
        if file_sha256(Path(folder, name)) != digests[name]:
            raise InputError(
                f"{name} in {folder} is not the file that was written there: its SHA-256 is not the one in {SUMS}."
                f" Copy the folder again; if you changed the file yourself, delete {SUMS}."
            )


def cache_root(override: str | Path | None = None) -> Path:
    """The folder for computed features, latents and fetched weights.

    `override` if given, else `ANIMAL_LDM_CACHE`, else `animal_ldm` below `HF_HOME`, which is the Hugging Face cache of
    this user: never a shared temporary folder, never the working directory.
    """
    if override:
        return Path(override)
    if chosen := os.environ.get("ANIMAL_LDM_CACHE"):
        return Path(chosen)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HF_HOME") or Path(user_cache, "huggingface")) / "animal_ldm"
