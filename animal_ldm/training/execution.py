"""What a run computes with on its device: chosen here, said when it starts, and written into its report."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

# From this compute capability on (Ampere), an NVIDIA GPU has matrix units for bfloat16 and TensorFloat-32.
MATRIX_UNITS = (8, 0)

# Compiling takes a minute or two: "auto" does it in runs of at least so many steps, or minutes where those are given.
LEAST_STEPS, LEAST_MINUTES = 2000, 20


@dataclass(frozen=True)
class Execution:
    """How the steps of a run are computed; the CPU's is the plain one, in float32.

    Attributes:
        device: its type, such as "cpu" or "cuda".
        mixed_precision: number type of the forward pass: "no" (float32), "bf16" or "fp16".
        tf32: whether float32 matrix products are rounded to TensorFloat-32.
        fused_adamw: whether one kernel updates all weights.
        pinned_memory: whether batches lie in page-locked memory, from which they are copied while the device computes.
        prepares_ahead: whether a thread prepares the next batch during a step.
        compiled: whether the step is compiled by torch.compile; validation and sampling never are, because each of
            their shapes would be compiled anew.
    """

    device: str = "cpu"
    mixed_precision: str = "no"
    tf32: bool = False
    fused_adamw: bool = False
    pinned_memory: bool = False
    prepares_ahead: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        numbers = "float32" if self.mixed_precision == "no" else self.mixed_precision
        named = {
            "TF32 matrix products": self.tf32,
            "fused AdamW": self.fused_adamw,
            "pinned memory": self.pinned_memory,
            "next batch prepared during the step": self.prepares_ahead,
            "compiled": self.compiled,
        }
        return ", ".join([f"{self.device}: {numbers}", *(name for name, used in named.items() if used)])


def chosen_for(device: str, capability: tuple[int, int] | None, mixed_precision: str = "auto") -> Execution:
    """What suits a device.

    On the CPU the cores that would prepare batches are those that train. `channels_last` is not among the choices:
    PyTorch's group normalisation on CUDA has long turned every input back into the other layout
    (pytorch/pytorch#111824), and `torch.compile` chooses the layout of convolutions itself. `benchmarks/training.py`
    measures it.

    Args:
        device: type of the device.
        capability: compute capability of a CUDA device.
        mixed_precision: as --mixed_precision; with "no", matrix products keep the bits of float32.
    """
    cuda = device == "cuda"
    has_units = cuda and capability is not None and capability >= MATRIX_UNITS
    tf32 = has_units and mixed_precision != "no"
    if mixed_precision == "auto":
        mixed_precision = "bf16" if has_units else "no"
    return Execution(
        device=device,
        mixed_precision=mixed_precision,
        tf32=tf32,
        fused_adamw=cuda,
        pinned_memory=cuda,
        prepares_ahead=device != "cpu",
    )


def begin_on(device: torch.device, mixed_precision: str) -> Execution:
    """The choice for this device; PyTorch is set to its number types."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    execution = chosen_for(device.type, capability, mixed_precision)
    if execution.tf32:
        torch.set_float32_matmul_precision("high")
    return execution


def compiles(choice: str, device: str, steps: int, minutes: float | None) -> bool:
    """Whether the step is compiled.

    Args:
        choice: as --compile.
        device: its type.
        steps: length of the run, if `minutes` does not say it.
    """
    if choice != "auto":
        return choice == "yes"
    return device == "cuda" and (steps >= LEAST_STEPS if minutes is None else minutes >= LEAST_MINUTES)


def obstacle_to_compiling(device: torch.device) -> str | None:
    """Why `torch.compile` does not work on this machine, such as a missing compiler; None: it does."""
    try:
        torch.compile(torch.nn.functional.silu)(torch.ones(8, device=device))
    except Exception as error:  # of many kinds, some of them private
        return " ".join(str(error).strip().partition("\n\n")[0].split()) or type(error).__name__
    return None


@torch.no_grad()
def bf16_speedup(device: torch.device) -> float:
    """Time of a convolution in float32 over its time in bfloat16; 0 where it does not run in bfloat16."""
    # a CPU's own time, because other programs would lengthen the slower call more than the faster one
    timer, seconds = time.process_time if device.type == "cpu" else time.perf_counter, []
    for dtype in (torch.float32, torch.bfloat16):
        layer = nn.Conv2d(128, 128, 3, padding=1).to(device, dtype)
        images = torch.zeros(4, 128, 16, 16, device=device, dtype=dtype)
        try:
            seconds.append(best_seconds(lambda layer=layer, images=images: layer(images), device, 5, timer))
        except RuntimeError:
            return 0.0
    return seconds[0] / seconds[1]


def best_seconds(
    call: Callable[[], object], device: torch.device, times: int = 3, timer: Callable[[], float] = time.perf_counter
) -> float:
    """The shortest of several calls, after one that is not timed."""
    measured = []
    for _ in range(times + 1):
        start = timer()
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        measured.append(timer() - start)
    return min(measured[1:])
