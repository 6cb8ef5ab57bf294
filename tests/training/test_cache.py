import hashlib
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from accelerate import Accelerator

from animal_ldm.errors import MachineError
from animal_ldm.training.cache import Cache, OnTheFly, fingerprint, take_space


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


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    def broken(start: int, stop: int) -> np.ndarray:
        if start >= 68:
            raise KeyboardInterrupt
        return np.full((stop - start, 1), -1, np.float32)

    def array(compute, shape=(100, 1)) -> np.ndarray:
        return Cache(Accelerator(), tmp_path).array("key", shape, np.float32, compute, "squaring", chunk=4)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            array(broken)
        assert not (tmp_path / "key").exists()
    calls: list = []
    found = array(squares(calls))[:, 0]
    assert (found[:64] == -1).all() and np.array_equal(found[64:], np.arange(64, 100) ** 2)
    assert calls == [(start, start + 4) for start in range(64, 100, 4)]
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == ["array.npy", "array.npy.sha256"]


def test_what_was_left_of_another_array_is_not_taken_up(tmp_path):
    leftover = tmp_path / "key.partial"
    (leftover / "done").mkdir(parents=True)
    (leftover / "done" / "0-10").touch()
    (leftover / "array.npy").write_bytes(b"torn")
    array = Cache(Accelerator(), tmp_path).array("key", (10, 1), np.float32, squares([]), "squaring", chunk=4)
    assert np.array_equal(array[:, 0], np.arange(10) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_two_machines_share_the_work_on_one_disk_or_on_separate_ones(tmp_path, shared):
    code = """
import os
import sys
import numpy as np
from accelerate import Accelerator
from animal_ldm.training.cache import Cache
def compute(start, stop):
    print(start, flush=True)
    if start == int(sys.argv[2]):
        os._exit(1)
    return np.arange(start, stop, dtype=np.float32)[:, None] ** 2
array = Cache(Accelerator(cpu=True), sys.argv[1]).array("key", (20, 1), np.float32, compute, "squaring", chunk=1)
assert np.array_equal(array[:, 0], np.arange(20) ** 2)
"""
    folders = [tmp_path / ("disk" if shared else f"disk-{rank}") for rank in range(2)]

    def launch(fails_at: int) -> list[list[int]]:
        port = str(free_port())
        machines = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(folder), str(fails_at)],
                env=os.environ
                | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
                | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1"},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank, folder in enumerate(folders)
        ]
        computed = [sorted(map(int, machine.communicate(timeout=300)[0].split())) for machine in machines]
        assert all((machine.returncode == 0) == (fails_at < 0) for machine in machines)
        return computed

    assert launch(fails_at=16)[1] == list(range(8, 16))  # pieces of 8 rows; the first machine fails with the third
    again = launch(fails_at=-1)
    assert again == [list(range(16, 20)), []]
    assert all(sorted(path.name for path in folder.iterdir()) == ["key"] for folder in folders)


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def test_rows_computed_on_the_fly_are_those_of_the_array():
    array = np.random.default_rng(0).normal(size=(9, 2, 3, 4))
    calls: list[int] = []

    def compute(photos: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        calls.append(len(photos))
        return array[photos, mirrored]

    some = OnTheFly(array.shape, compute, chunk=4)
    photos, mirrored = np.array([3, 1, 3, 8, 0]), np.array([0, 1, 1, 0, 1])
    assert np.array_equal(some[photos, mirrored], array[photos, mirrored]) and calls == [4, 1]
    assert np.array_equal(some[photos, 0, 1], array[photos, 0, 1])
    assert len(some) == 9 and some.shape == array.shape


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


def test_fingerprints_are_those_of_the_json():
    for parts in ((), ("a", 1, None), ((("a", "b"), ("ä",)), ["", "x"], {"b": 1, "a": [2]}), ((), "")):
        assert fingerprint(*parts) == hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
