"""Processes that share the work."""

import os
import subprocess
import sys

import pytest
import torch

from animal_ldm.errors import InputError
from animal_ldm.processes import connected

SCRIPT = """
from accelerate import Accelerator
from animal_ldm.processes import connected

state = connected()
print(f"{state.process_index} of {state.num_processes}, {Accelerator().num_processes}\\n", end="", flush=True)
"""


@pytest.mark.skipif(torch.accelerator.is_available(), reason="with a GPU for each process, they are connected anyway")
def test_processes_on_a_cpu_find_each_other(tmp_path):
    """Accelerate alone would make each of them the only one: two trainings in one folder."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "script.py"]
    done = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert sorted(done.stdout.split("\n")[:-1]) == ["0 of 2, 2", "1 of 2, 2"], done.stderr


def test_processes_that_cannot_be_connected(monkeypatch):
    """As on a Mac, whose GPU only one process can train on."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    if torch.cuda.is_available():
        pytest.skip("accelerate connects processes on CUDA")
    with pytest.raises(InputError, match=r"2 processes were launched, but cannot share the work on .*USE_CPU"):
        connected()
