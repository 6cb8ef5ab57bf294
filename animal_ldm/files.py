"""Files that exist whole or not at all, and the folder where computed things are kept between runs."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
