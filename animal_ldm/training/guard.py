"""What surrounds a training: one run per output folder; a full disk and a lost process end in a sentence."""

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import InputError, MachineError
from ..locks import full_disk, locked
from .arguments import RunArguments

Arguments = TypeVar("Arguments", bound=RunArguments)

# In the errors of gloo and NCCL when another process of the run is gone.
LOST = ("closed by peer", "reset by peer", "Broken pipe", "imed out", "NCCL", "ECONNRESET", "store->")


def guarded(train: Callable[[Arguments], Path | None]) -> Callable[[Arguments], Path | None]:
    """`train`, while no other run may use its `output_dir`.

    Raises:
        InputError: another run holds it.
        MachineError: the disk is full, or another process of this run was lost.
    """

    @functools.wraps(train)
    def run(arguments: Arguments) -> Path | None:
        main = int(os.environ.get("RANK", 0)) == 0  # set by accelerate and torchrun
        folder = Path(arguments.output_dir)
        lock = locked(folder / ".lock", f"--output_dir {folder}") if main else contextlib.nullcontext()
        with lock:
            try:
                return train(arguments)
            except InputError:
                raise
            except OSError as error:
                if message := full_disk(error):
                    raise MachineError(message) from error
                raise
            except RuntimeError as error:
                if int(os.environ.get("WORLD_SIZE", 1)) > 1 and any(words in str(error) for words in LOST):
                    raise MachineError(
                        "Another process of this run was lost. Start the run again with --resume: it continues from"
                        f" the newest checkpoint. ({str(error).strip().splitlines()[0][:200]})"
                    ) from error
                raise

    return run
