"""The processes that share the work of a command, as `accelerate launch` and `torchrun` start them."""

import os
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from accelerate import PartialState


def launched() -> int:
    """The number of processes that the launcher started, this one included."""
    return int(os.environ.get("WORLD_SIZE", 1))  # accelerate and torchrun set it


def connected(cpu: bool = False, **options: Any) -> "PartialState":
    """Accelerate's state of this process, connected with the others that were launched.

    Accelerate connects processes on a CPU only where it is told to use one; each of them would do all of the work, in
    the same folder. So several processes on a machine without a GPU use the CPU here.

    Args:
        cpu: use the CPU even if there is a GPU. ACCELERATE_USE_CPU=true in the environment says the same.
        options: of `torch.distributed.init_process_group`.

    Raises:
        InputError: several processes were launched, and accelerate does not connect them on this device.
    """
    # not at the top: commands that only ask how many were launched start without torch
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    without_gpu = launched() > 1 and not torch.accelerator.is_available()
    state = PartialState(cpu=cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or without_gpu, **options)
    if state.num_processes < launched():
        raise InputError(
            f"{launched()} processes were launched, but cannot share the work on {state.device}. Launch one, or set"
            " ACCELERATE_USE_CPU=true to use the CPU."
        )
    return state
