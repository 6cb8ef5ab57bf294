"""Arrays computed once and memory-mapped ever after, keyed by a fingerprint of what they were computed from."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from tqdm.auto import tqdm


def fingerprint(*parts: Any) -> str:
    """SHA-256 over JSON values, in order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached_array(
    accelerator: Accelerator,
    folder: str | Path,
    key: str,
    shape: Sequence[int],
    dtype: Any,
    compute: Callable[[int, int], np.ndarray],
    description: str,
    chunk: int = 64,
) -> np.ndarray:
    """Read-only memory map of `shape`, filled by `compute(start, stop)` the first time.

    The array lives in `folder/<key>/`, which appears only once it is complete: what an interrupted run left half
    written is thrown away, and another key is another array. Accelerate's processes fill it together.

    Args:
        key: fingerprint of everything that `compute` depends on.
        compute: returns rows `start` … `stop - 1`.
        description: for the progress bar.
        chunk: rows per call of `compute`.
    """
    final = Path(folder, key)
    if not (final / "array.npy").is_file():
        partial = final.with_name(f"{key}.partial")
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            np.lib.format.open_memmap(partial / "array.npy", "w+", np.dtype(dtype), tuple(shape)).flush()
        accelerator.wait_for_everyone()
        _fill(accelerator, partial / "array.npy", compute, description, chunk)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            partial.rename(final)
        accelerator.wait_for_everyone()
    return np.load(final / "array.npy", mmap_mode="r")


def _fill(accelerator: Accelerator, path: Path, compute: Callable, description: str, chunk: int) -> None:
    array = np.load(path, mmap_mode="r+")
    starts = range(accelerator.process_index * chunk, len(array), accelerator.num_processes * chunk)
    for start in tqdm(starts, desc=description, unit="batch", disable=not accelerator.is_main_process):
        stop = min(start + chunk, len(array))
        array[start:stop] = compute(start, stop)
    array.flush()
