"""What surrounds a training: one run per output folder; a full disk and a lost process end in a sentence."""

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from ..errors import MachineError
from ..locks import AGAIN, locked, machine_fault
from ..processes import launched
from .arguments import RunArguments

Arguments = TypeVar("Arguments", bound=RunArguments)


def guarded(train: Callable[[Arguments], Path | None]) -> Callable[[Arguments], Path | None]:
    """`train`, while no other run may use its `output_dir`.

    Raises:
        InputError: another run holds it.
        MachineError: the disk is full, or another process of this run was lost.
    """

    @functools.wraps(train)
    def run(arguments: Arguments) -> Path | None:
        main = int(os.environ.get("RANK", 0)) == 0  # accelerate and torchrun set it
        folder = Path(arguments.output_dir)
        lock = locked(folder / ".lock", f"--output_dir {folder}") if main else contextlib.nullcontext()
        with lock, stopped_by_launcher() if launched() > 1 else contextlib.nullcontext():
            try:
                return train(arguments)
            except (OSError, RuntimeError) as error:
                if message := machine_fault(error):
                    raise MachineError(message) from error
                raise

    return run


@contextlib.contextmanager
def stopped_by_launcher() -> Iterator[None]:
    """Here SIGTERM, which a launcher sends to the others when it has lost a process, is a `MachineError`."""

    def stop(number: int, frame: object) -> NoReturn:
        raise MachineError(
            "The launcher stopped this process, as it does when another process of the run was lost. What was complete"
            f" is kept: {AGAIN}."
        )

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
