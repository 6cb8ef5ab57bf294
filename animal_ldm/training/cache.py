"""Arrays computed once and memory-mapped afterwards, keyed by a fingerprint of what they were computed from."""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from ..files import cache_root, file_sha256
from ..locks import check_space, locked

logger = logging.getLogger(__name__)

DIGEST = "array.npy.sha256"


def fingerprint(*parts: Any) -> str:
    """SHA-256 over JSON values, in order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def take_space(path: Path) -> None:
    """Take the disk space of a sparse file now: a memory map that finds no space later kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


class Cache:
    """A folder of arrays that Accelerate's processes fill together.

    Args:
        folder: None takes `files.cache_root()`.
    """

    def __init__(self, accelerator: Accelerator, folder: str | Path | None = None):
        self.accelerator = accelerator
        self.folder = cache_root(folder)

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

        The array lives in `folder/<key>/`, which appears once the array is complete. What an interrupted run left
        behind is deleted and computed again, and so is an array that no longer has the digest it was written with.
        While another run computes the same array, this one says so and waits.

        Args:
            key: fingerprint of everything that `compute` depends on.
            compute: returns rows `start` to `stop - 1`.
            description: for the progress bar.
            chunk: rows per call of `compute`.
        """
        final = self.folder / key
        # one decides for all: another run may complete the array at any moment
        with contextlib.ExitStack() as held:
            missing = self.accelerator.is_main_process and not self._is_whole(final, tuple(shape), np.dtype(dtype))
            if missing:
                lock = locked(final.with_suffix(".lock"), f"The array for {description!r}, {final},", wait=True)
                held.enter_context(lock)
                missing = not self._is_whole(final, tuple(shape), np.dtype(dtype))
            (missing,) = broadcast_object_list([missing])
            if missing:
                self._make(
                    final, tuple(shape), np.dtype(dtype), lambda path: self._fill(path, compute, description, chunk)
                )
        return np.load(final / "array.npy", mmap_mode="r")

    def _make(self, final: Path, shape: tuple[int, ...], dtype: np.dtype, fill: Callable[[Path], None]) -> None:
        (writer,) = broadcast_object_list([os.getpid()])
        partial = final.with_name(f"{final.name}.{writer}.partial")
        if self.accelerator.is_main_process:
            self._delete_abandoned(final.name)
            partial.mkdir(parents=True)
            check_space(partial, math.prod(shape) * dtype.itemsize, f"The array {final}")
            np.lib.format.open_memmap(partial / "array.npy", "w+", dtype, shape).flush()
            take_space(partial / "array.npy")
        self.accelerator.wait_for_everyone()
        fill(partial / "array.npy")
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._publish(partial, final)
        self.accelerator.wait_for_everyone()

    @staticmethod
    def _is_whole(final: Path, shape: tuple[int, ...], dtype: np.dtype) -> bool:
        """Whether the array is there as it was written; a damaged one is deleted. Earlier versions wrote no digest."""
        array, digest = final / "array.npy", final / DIGEST
        if not array.is_file():
            return False
        try:
            stored = np.load(array, mmap_mode="r")
            whole = (stored.shape, stored.dtype) == (shape, dtype)
            whole = whole and (not digest.exists() or digest.read_text() == file_sha256(array))
        except (OSError, ValueError):
            whole = False
        if not whole:
            logger.warning("%s is damaged; it is deleted and computed again", final)
            shutil.rmtree(final)
        return whole

    def _delete_abandoned(self, key: str) -> None:
        """Delete what runs that no longer exist left of this array."""
        for folder in self.folder.glob(f"{key}.*.partial"):
            writer = folder.suffixes[0].removeprefix(".")
            if not (writer.isdigit() and psutil.pid_exists(int(writer)) and int(writer) != os.getpid()):
                shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _publish(partial: Path, final: Path) -> None:
        (partial / DIGEST).write_text(file_sha256(partial / "array.npy"))
        try:
            partial.rename(final)
        except OSError:
            if not (final / "array.npy").is_file():
                raise
            shutil.rmtree(partial)  # another run was faster; its array is the same

    def _fill(self, path: Path, compute: Callable, description: str, chunk: int) -> None:
        processes, main = self.accelerator.num_processes, self.accelerator.is_main_process
        array = np.load(path, mmap_mode="r+")
        starts = range(self.accelerator.process_index * chunk, len(array), processes * chunk)
        for start in tqdm(starts, desc=description, unit="batch", disable=not main):
            stop = min(start + chunk, len(array))
            array[start:stop] = compute(start, stop)
        array.flush()
