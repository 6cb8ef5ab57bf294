"""What holds for every staged folder: the Hub's limits, no access tokens; and how files get there."""

import os
import re
import shutil
from collections import Counter
from pathlib import Path

from ..errors import InputError

# https://huggingface.co/docs/hub/repositories-recommendations
LARGEST_FILE = 50 * 1000**3
LARGEST_FOLDER = 10_000
LARGEST_REPOSITORY = 100_000

TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
TEXT_FILES = (".html", ".json", ".jsonl", ".md", ".py", ".txt")


def check_files(out: Path) -> None:
    """Raise an `InputError` for files over the Hub's limits, and for any that holds an access token."""
    files = [file for file in out.rglob("*") if file.is_file()]
    for file in files:
        if file.stat().st_size > LARGEST_FILE:
            raise InputError(
                f"{file.relative_to(out)} has {file_size(file.stat().st_size)}; the Hub takes files up to"
                f" {file_size(LARGEST_FILE)}. Save the pipeline with a smaller max_shard_size."
            )
        if file.suffix in TEXT_FILES and TOKEN.search(file.read_bytes()):
            raise InputError(
                f"{file.relative_to(out)} contains what looks like an access token. Nothing was published; remove the"
                " token."
            )
    folder, entries = Counter(file.parent for file in files).most_common(1)[0]
    if entries > LARGEST_FOLDER or len(files) > LARGEST_REPOSITORY:
        raise InputError(
            f"There are {len(files):,} files, {entries:,} of them in {folder.relative_to(out)}. The Hub takes"
            f" {LARGEST_FOLDER:,} per folder and recommends fewer than {LARGEST_REPOSITORY:,} in all."
        )


def link(source: Path, destination: Path) -> None:
    """The file under a second name where the file system can, else a copy: weights are large."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)


def file_size(size: float) -> str:
    """Bytes for a person to read."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
