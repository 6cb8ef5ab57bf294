"""Arrays computed once and memory-mapped afterwards, keyed by a fingerprint of what they were computed from."""

import hashlib
import json
import logging
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

logger = logging.getLogger(__name__)

DIGEST = "array.npy.sha256"


def fingerprint(*parts: Any) -> str:
    """SHA-256 over JSON values, in order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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
        behind is deleted and computed again, and so is an array that no longer has the digest it was written with;
        runs that compute the same array at the same time do not disturb each other.

        Args:
            key: fingerprint of everything that `compute` depends on.
            compute: returns rows `start` to `stop - 1`.
            description: for the progress bar.
            chunk: rows per call of `compute`.
        """
        final = self.folder / key
        # one decides for all: another run may complete the array at any moment
        missing = self.accelerator.is_main_process and not self._is_whole(final, tuple(shape), np.dtype(dtype))
        (missing,) = broadcast_object_list([missing])
        if missing:
            (writer,) = broadcast_object_list([os.getpid()])
            partial = final.with_name(f"{key}.{writer}.partial")
            if self.accelerator.is_main_process:
                self._delete_abandoned(key)
                partial.mkdir(parents=True)
                np.lib.format.open_memmap(partial / "array.npy", "w+", np.dtype(dtype), tuple(shape)).flush()
            self.accelerator.wait_for_everyone()
            self._fill(partial / "array.npy", compute, description, chunk)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self._publish(partial, final)
            self.accelerator.wait_for_everyone()
        return np.load(final / "array.npy", mmap_mode="r")

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
