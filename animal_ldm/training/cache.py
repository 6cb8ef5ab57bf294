"""Arrays computed once and memory-mapped afterwards, keyed by a fingerprint of what they were computed from."""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from ..files import cache_root, file_sha256
from ..locks import check_space, locked

logger = logging.getLogger(__name__)

DIGEST = "array.npy.sha256"
MARKERS = "done"
PIECE = 8  # chunks


def fingerprint(*parts: Any) -> str:
    """SHA-256 over JSON values, in order. Sequences may be longer than memory: they are read value by value."""
    digest = hashlib.sha256(b"[")
    for number, part in enumerate(parts):
        digest.update(b", " if number else b"")
        if isinstance(part, Sequence) and not isinstance(part, str):
            digest.update(b"[")
            for i, value in enumerate(part):
                digest.update((", " * (i > 0) + json.dumps(value, sort_keys=True)).encode())
            digest.update(b"]")
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    digest.update(b"]")
    return digest.hexdigest()


def take_space(path: Path) -> None:
    """Take the disk space of a sparse file now: a memory map that finds no space later kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


class Cache:
    """A folder of arrays that Accelerate's processes fill together, on one disk or on one of each machine.

    Args:
        folder: None takes `files.cache_root()`.
    """

    def __init__(self, accelerator: Accelerator, folder: str | Path | None = None):
        self.accelerator = accelerator
        self.folder = cache_root(folder)

    @cached_property
    def shared(self) -> bool:
        """Whether all processes see the same folder. All of them must ask together."""
        if self.accelerator.num_processes == 1:
            return True
        (name,) = broadcast_object_list([f".shared-{uuid.uuid4().hex}"])
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).touch()
        self.accelerator.wait_for_everyone()
        seen = all(gather_object([(self.folder / name).exists()]))
        if self.accelerator.is_main_process:
            (self.folder / name).unlink()
        return seen

    def array(
        self,
        key: str,
        shape: Sequence[int],
        dtype: Any,
        compute: Callable[[int, int], np.ndarray],
        description: str,
        chunk: int = 64,
    ) -> np.ndarray:
        """Read-only memory map of `shape`, filled by `compute(start, stop)` the first time.

        The array lives in `folder/<key>/`, which appears once the array is complete. Until then it is filled in
        `folder/<key>.partial/` piece by piece; each piece that is there has a marker, so an interrupted run goes on
        where it was, with any number of processes. An array that no longer has the digest it was written with is
        deleted and computed again. While another run computes the same array, this one says so and waits.

        Each process computes its share of the pieces. Where machines have disks of their own, the pieces are exchanged
        and every machine gets the whole array.

        Args:
            key: fingerprint of everything that `compute` depends on.
            compute: returns rows `start` to `stop - 1`.
            description: for the progress bar.
            chunk: rows per call of `compute`.
        """
        final, whole = self.folder / key, (tuple(shape), np.dtype(dtype))
        accelerator = self.accelerator
        writes = accelerator.is_main_process if self.shared else accelerator.is_local_main_process
        # one decides for all who share a disk: another run may complete the array at any moment
        with contextlib.ExitStack() as held:
            missing = writes and not self._is_whole(final, *whole)
            if missing:
                lock = locked(final.with_suffix(".lock"), f"The array for {description!r}, {final},", wait=True)
                held.enter_context(lock)
                missing = not self._is_whole(final, *whole)
            if any(gather_object([missing])):
                pieces = Pieces(final.with_name(f"{key}.partial"), shape[0], PIECE * chunk)
                self._make(pieces, whole, missing, lambda rows: computed(compute, rows, chunk), description)
                if missing:
                    self._publish(pieces.folder, final)
                accelerator.wait_for_everyone()
        return np.load(final / "array.npy", mmap_mode="r")

    def _make(
        self,
        pieces: "Pieces",
        whole: tuple[tuple[int, ...], np.dtype],
        missing: bool,
        compute: Callable[[range], np.ndarray],
        description: str,
    ) -> None:
        """Compute the pieces that are missing on any disk. `missing`: this process prepares the file on its disk."""
        index, processes = self.accelerator.process_index, self.accelerator.num_processes
        if missing:
            for folder in self.folder.glob(f"{pieces.folder.stem}.*.partial"):
                shutil.rmtree(folder, ignore_errors=True)  # of an earlier version
            pieces.begin(*whole)
        left = sorted({start for starts in gather_object([pieces.left() if missing else []]) for start in starts})
        array = np.load(pieces.file, mmap_mode="r+") if missing or self.shared else None
        progress = tqdm(total=len(left), desc=description, unit="piece", disable=not self.accelerator.is_main_process)
        for turn in range(0, len(left), processes):
            found = [
                (start, compute(pieces.rows(start))) for start in left[turn : turn + processes][index : index + 1]
            ]
            if not self.shared:
                found = gather_object(found)
            for start, values in found:
                if array is None:
                    continue
                array[start : start + len(values)] = values
                array.flush()
                pieces.mark(start)
            progress.update(len(left[turn : turn + processes]))
        progress.close()
        self.accelerator.wait_for_everyone()

    @staticmethod
    def _is_whole(final: Path, shape: tuple[int, ...], dtype: np.dtype) -> bool:
        """Whether the array is there as it was written; a damaged one is deleted. Earlier versions wrote no digest."""
        array, digest = final / "array.npy", final / DIGEST
        if not array.is_file():
            return False
        try:
            whole = has_form(array, shape, dtype)
            whole = whole and (not digest.exists() or digest.read_text() == file_sha256(array))
        except OSError:
            whole = False
        if not whole:
            logger.warning("%s is damaged; it is deleted and computed again", final)
            shutil.rmtree(final)
        return whole

    @staticmethod
    def _publish(partial: Path, final: Path) -> None:
        (partial / DIGEST).write_text(file_sha256(partial / "array.npy"))
        try:
            partial.rename(final)
        except OSError:
            if not (final / "array.npy").is_file():
                raise
            shutil.rmtree(partial)  # another run was faster; its array is the same
        shutil.rmtree(final / MARKERS, ignore_errors=True)


@dataclass(frozen=True)
class Pieces:
    """An array that is not complete: pieces of `size` of its `number` rows, each with a marker once it is there."""

    folder: Path
    number: int
    size: int

    @property
    def file(self) -> Path:
        return self.folder / "array.npy"

    def rows(self, start: int) -> range:
        return range(start, min(start + self.size, self.number))

    def begin(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Make the file, or take up the one that an interrupted run left."""
        if not (self.file.is_file() and has_form(self.file, shape, dtype)):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            check_space(self.folder, math.prod(shape) * dtype.itemsize, f"The array {self.folder}")
            np.lib.format.open_memmap(self.file, "w+", dtype, shape).flush()
        take_space(self.file)
        (self.folder / MARKERS).mkdir(exist_ok=True)

    def left(self) -> list[int]:
        """The first rows of the pieces that are missing."""
        return [start for start in range(0, self.number, self.size) if not self._marker(start).exists()]

    def mark(self, start: int) -> None:
        self._marker(start).touch()

    def _marker(self, start: int) -> Path:
        return self.folder / MARKERS / f"{start}-{self.rows(start).stop}"


def has_form(array: Path, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    try:
        stored = np.load(array, mmap_mode="r")
    except (OSError, ValueError):
        return False
    return (stored.shape, stored.dtype) == (shape, dtype)


def computed(compute: Callable[[int, int], np.ndarray], rows: range, chunk: int) -> np.ndarray:
    """`rows` of an array, computed in chunks."""
    starts = range(rows.start, rows.stop, chunk)
    return np.concatenate([compute(start, min(start + chunk, rows.stop)) for start in starts])


class OnTheFly:
    """In the place of an array of photos, mirrored or not, whose rows are computed whenever they are asked for.

    Args:
        shape: `(N, 2, …)`.
        compute: for the numbers of photos `(B,)`, and whether each is mirrored, `(B,)`: their rows, `(B, …)`.
        chunk: photos per call of `compute`.
    """

    def __init__(
        self, shape: tuple[int, ...], compute: Callable[[np.ndarray, np.ndarray], np.ndarray], chunk: int = 64
    ):
        self.shape, self.compute, self.chunk = shape, compute, chunk

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: tuple) -> np.ndarray:
        """Rows `[photos, mirrored]`, and what further indices take of each; `photos` is an array."""
        photos, mirrored, *rest = key
        mirrored = np.broadcast_to(mirrored, photos.shape)
        parts = range(0, len(photos), self.chunk)
        rows = [self.compute(photos[i : i + self.chunk], mirrored[i : i + self.chunk]) for i in parts]
        return np.concatenate(rows)[(slice(None), *rest)]
