"""The machine and the library versions that a result was made with."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil
import torch


def hardware() -> dict:
    """The machine this process runs on: processor, cores, memory in GiB, GPUs, threads and load."""
    cuda = torch.cuda.is_available()
    return {
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else "not measured",
    }


def _cpu_name() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def library_versions(*libraries: str) -> dict[str, str]:
    """Versions of Python and of the installed `libraries`, by name."""
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}
