"""What this machine can do, measured in seconds: for the choice of settings, and for `animal-ldm doctor`."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from ..environment import hardware
from ..evaluation.extractors import INCEPTION_FILE
from ..files import cache_root
from ..loading import choose_device
from ..training.execution import bf16_speedup

# Name of torchvision's file of SqueezeNet 1.1, below the folder of torch.hub.
SQUEEZENET_FILE = "squeezenet1_1-b8a52dc0.pth"


@dataclass(frozen=True)
class Machine:
    """The device that everything runs on.

    Attributes:
        kind: "gpu" for any accelerator, else "cpu".
        memory_gib: free memory of that device.
        disk_gib: free on the disk of the folder that is written to.
        bf16_speedup: of a convolution, over float32; 0 where it does not run.
        has_inception, has_squeezenet: whether their weights have been downloaded before.
    """

    kind: str
    name: str
    memory_gib: float
    disk_gib: float
    bf16_speedup: float
    has_inception: bool
    has_squeezenet: bool


def look_at_machine(folder: Path) -> Machine:
    """Measure this machine. `folder`, or its nearest parent that exists, says which disk."""
    device = choose_device()
    found = hardware()
    if device.type == "cuda":
        name, memory = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[0]
    else:
        name, memory = found["cpu"], psutil.virtual_memory().available
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    return Machine(
        kind="cpu" if device.type == "cpu" else "gpu",
        name=name if device.type in ("cpu", "cuda") else f"{device.type} of {name}",
        memory_gib=memory / 2**30,
        disk_gib=shutil.disk_usage(place).free / 2**30,
        bf16_speedup=bf16_speedup(device),
        has_inception=(cache_root() / INCEPTION_FILE).is_file(),
        has_squeezenet=Path(torch.hub.get_dir(), "checkpoints", SQUEEZENET_FILE).is_file(),
    )


def slowness(seconds: float = 0.2) -> float:
    """Wall-clock time over processor time: 1 on an idle machine, more where other programs want the same cores.

    Args:
        seconds: of processor time to measure it over.
    """
    start, start_wall = time.process_time(), time.perf_counter()
    while (used := time.process_time() - start) < seconds:
        pass
    return max(1.0, (time.perf_counter() - start_wall) / used)
