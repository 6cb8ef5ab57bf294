import json
import os
import socket
import subprocess
import sys

import pytest

from animal_ldm import locks
from animal_ldm.errors import InputError
from animal_ldm.locks import locked, lost_process
from tests.conftest import held_by_another


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "folder" / ".lock"


@pytest.fixture
def holder(lock):
    with held_by_another(lock) as process:
        yield process


def test_the_second_says_who_holds_it_and_the_lock_goes_with_its_process(lock, holder):
    words = f"OUT is in use by process {holder.pid} on {socket.gethostname()} since"
    with pytest.raises(InputError, match=words), locked(lock, "OUT"):
        pass
    holder.kill()  # it leaves the file behind
    holder.wait()
    assert lock.exists()
    with locked(lock, "OUT"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_where_the_disk_has_no_locks_the_process_in_the_file_decides(lock, holder, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.raises(InputError, match=f"in use by process {holder.pid} on "), locked(lock, "OUT"):
        pass
    holder.kill()
    holder.wait()
    with locked(lock, "OUT"):
        pass
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "yesterday"}))
    with pytest.raises(InputError, match=r"process 1 on elsewhere since yesterday.*delete"), locked(lock, "OUT"):
        pass


def test_help_into_a_closed_pipe_ends_without_a_word():
    script = f"{sys.executable} -m animal_ldm train --help | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage:") and done.stderr == ""


def test_preparing_on_a_disk_that_fills_says_so_and_goes_on_later(small_disk, tmp_path):
    photos = tmp_path / "photos"
    code = """
import sys
import numpy as np
from pathlib import Path
from PIL import Image
for number in range(48):
    pixels = np.random.default_rng(number).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    path = Path(sys.argv[1], "zebra", f"{number}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
"""
    subprocess.run([sys.executable, "-c", code, str(photos)], check=True)
    command = [
        sys.executable,
        "-m",
        "animal_ldm",
        "prepare",
        str(photos),
        str(small_disk(1) / "data"),
        "--workers",
        "2",
    ]
    full = subprocess.run(command, capture_output=True, text=True)
    assert full.returncode == 2 and "error: The disk is full (No space left on device)." in full.stderr
    assert "Traceback" not in full.stderr
    small_disk(16)
    subprocess.run(command, capture_output=True, check=True)
    assert len((small_disk(16) / "data/train/metadata.jsonl").read_text().splitlines()) > 40


def test_a_lost_process_is_told_from_other_errors(monkeypatch):
    closed = RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:4242")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert lost_process(closed) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "was lost ([pair.cc:547] Connection closed by peer" in (lost_process(closed) or "")
    assert lost_process(RuntimeError("shapes do not match")) is None
