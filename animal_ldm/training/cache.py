"""Arrays computed once and memory-mapped afterwards, keyed by a fingerprint of what they were computed from."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..files import cache_root


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
        behind is deleted and computed again.

        Args:
            key: fingerprint of everything that `compute` depends on.
            compute: returns rows `start` to `stop - 1`.
            description: for the progress bar.
            chunk: rows per call of `compute`.
        """
        final = self.folder / key
        if not (final / "array.npy").is_file():
            partial = final.with_name(f"{key}.partial")
            if self.accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                np.lib.format.open_memmap(partial / "array.npy", "w+", np.dtype(dtype), tuple(shape)).flush()
            self.accelerator.wait_for_everyone()
            self._fill(partial / "array.npy", compute, description, chunk)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                partial.rename(final)
            self.accelerator.wait_for_everyone()
        return np.load(final / "array.npy", mmap_mode="r")

    def _fill(self, path: Path, compute: Callable, description: str, chunk: int) -> None:
        processes, main = self.accelerator.num_processes, self.accelerator.is_main_process
        array = np.load(path, mmap_mode="r+")
        starts = range(self.accelerator.process_index * chunk, len(array), processes * chunk)
        for start in tqdm(starts, desc=description, unit="batch", disable=not main):
            stop = min(start + chunk, len(array))
            array[start:stop] = compute(start, stop)
        array.flush()
