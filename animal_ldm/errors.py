"""The one exception that means "the input is at fault, not the program"."""


class InputError(ValueError):
    """Bad input. The message says what was expected, what was found and what to do.

    The command line prints the message alone; every other exception keeps its traceback.
    """


class MachineError(InputError):
    """The machine is at fault: a disk is full, or a process of the run is gone. It is reported in the same way."""
