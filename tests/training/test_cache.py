import subprocess
import sys

import numpy as np
import pytest
from accelerate import Accelerator

from animal_ldm.training.cache import Cache, fingerprint


def squares(calls: list):
    def compute(start: int, stop: int) -> np.ndarray:
        calls.append((start, stop))
        return np.arange(start, stop, dtype=np.float32)[:, None] ** 2

    return compute


def test_computed_once_then_mapped(tmp_path):
    calls: list = []
    for _ in range(2):
        array = Cache(Accelerator(), tmp_path).array("key", (10, 1), np.float32, squares(calls), "squaring", chunk=4)
        assert np.array_equal(array[:, 0], np.arange(10) ** 2)
        assert isinstance(array, np.memmap)
    assert calls == [(0, 4), (4, 8), (8, 10)]


def test_what_an_interrupted_run_left_is_rebuilt(tmp_path):
    def broken(start: int, stop: int) -> np.ndarray:
        if start:
            raise KeyboardInterrupt
        return np.full((stop - start, 1), -1, np.float32)

    with pytest.raises(KeyboardInterrupt):
        Cache(Accelerator(), tmp_path).array("key", (10, 1), np.float32, broken, "squaring", chunk=4)
    assert not (tmp_path / "key").exists()
    array = Cache(Accelerator(), tmp_path).array("key", (10, 1), np.float32, squares([]), "squaring", chunk=4)
    assert np.array_equal(array[:, 0], np.arange(10) ** 2)


@pytest.mark.parametrize("size", [0, 100, 160])
def test_a_damaged_array_is_computed_again(tmp_path, caplog, size):
    for _ in range(2):
        array = Cache(Accelerator(), tmp_path).array("key", (10, 1), np.float32, squares([]), "squaring")
        assert np.array_equal(array[:, 0], np.arange(10) ** 2)
        del array
        path = tmp_path / "key" / "array.npy"
        path.write_bytes(path.read_bytes()[:size] + b"?" * (path.stat().st_size - size))
    assert "is damaged; it is deleted and computed again" in caplog.text


def test_another_run_may_complete_the_array_meanwhile(tmp_path):
    code = f"""
import numpy as np
from accelerate import Accelerator
from animal_ldm.training.cache import Cache
compute = lambda start, stop: np.arange(start, stop, dtype=np.float32)[:, None] ** 2
Cache(Accelerator(), {str(tmp_path)!r}).array("key", (10, 1), np.float32, compute, "squaring", chunk=4)
"""

    def slow(start: int, stop: int) -> np.ndarray:
        if start == 4:
            subprocess.run([sys.executable, "-c", code], check=True)
        return squares([])(start, stop)

    array = Cache(Accelerator(), tmp_path).array("key", (10, 1), np.float32, slow, "squaring", chunk=4)
    assert np.array_equal(array[:, 0], np.arange(10) ** 2)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_fingerprints_follow_content():
    assert fingerprint("latents", 1) != fingerprint("latents", 2)
