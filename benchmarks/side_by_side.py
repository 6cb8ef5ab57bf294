"""What every benchmark shares: things timed in turn within one run, and the machine they ran on."""

import statistics
import time
from collections.abc import Callable

import torch

from animal_ldm.environment import hardware


def seconds_in_turn(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each contestant over `rounds`, taken in turn so that a change of load meets all alike."""
    for contestant in contestants.values():
        contestant()  # warm-up
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            seconds[name].append(timed(contestant))
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(function: Callable[[], None]) -> float:
    """Seconds of one call, with the GPU's work done."""
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def describe_machine() -> str:
    machine = hardware()
    device = ", ".join(machine["gpus"]) or machine["cpu"]
    return (
        f"{device}; {machine['cpu_cores']} cores, {machine['torch_threads']} threads, "
        f"load average {machine['load_average']:.1f}; torch {torch.__version__}"
    )
