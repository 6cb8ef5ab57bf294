"""The one exception that means "the input is at fault, not the program", and checks of ranges that raise it."""


class InputError(ValueError):
    """Bad input. The message says what was expected, what was found and what to do.

    The command line prints the message alone; every other exception keeps its traceback.
    """


class MachineError(InputError):
    """The machine is at fault: a disk is full, or a process of the run is gone. It is reported in the same way."""


def check_minimum(arguments: object, minimum: int, *names: str) -> None:
    for name in names:
        if not (value := getattr(arguments, name)) >= minimum:
            raise InputError(f"--{name} must be at least {minimum}, but is {value}.")


def check_positive(arguments: object, *names: str) -> None:
    for name in names:
        if not (value := getattr(arguments, name)) > 0:
            raise InputError(f"--{name} must be greater than 0, but is {value}.")


def check_fraction(arguments: object, *names: str) -> None:
    for name in names:
        if not 0 <= (value := getattr(arguments, name)) <= 1:
            raise InputError(f"--{name} must be from 0 to 1, but is {value}.")
