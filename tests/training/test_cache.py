import subprocess
import sys

import numpy as np
import pytest
from accelerate import Accelerator

from animal_ldm.errors import MachineError
from animal_ldm.training.cache import Cache, fingerprint, take_space


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


def test_another_run_that_computes_the_same_array_is_waited_for(tmp_path, caplog):
    caplog.set_level("INFO")
    code = f"""
import time
import numpy as np
from accelerate import Accelerator
from animal_ldm.training.cache import Cache
def compute(start, stop):
    print("computing", flush=True)
    time.sleep(1)
    return np.full((stop - start, 1), 7, np.float32)
Cache(Accelerator(), {str(tmp_path)!r}).array("key", (10, 1), np.float32, compute, "squaring")
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline() == b"computing\n"
    array = Cache(Accelerator(), tmp_path).array("key", (10, 1), np.float32, squares([]), "squaring")
    assert (array == 7).all() and other.wait() == 0
    assert f"is in use by process {other.pid} on " in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_disk_without_space_for_the_array_is_said_before_it_is_computed(small_disk):
    folder = small_disk(1)
    with pytest.raises(MachineError, match=r"needs 4\.0 MB, .* are missing"):
        Cache(Accelerator(), folder).array("key", (10, 100_000), np.float32, squares([]), "squaring")
    path = folder / "sparse"
    with path.open("wb") as file:
        file.truncate(4 << 20)
    with pytest.raises(OSError, match="No space left"):
        take_space(path)


def test_fingerprints_follow_content():
    assert fingerprint("latents", 1) != fingerprint("latents", 2)
