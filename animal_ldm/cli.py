"""`animal-ldm COMMAND …`: one command per step, each a module in `animal_ldm.commands` with `main(argv)`."""

import importlib
import os
import sys
from collections.abc import Callable

from . import __version__
from .errors import InputError
from .locks import machine_fault

# command -> (module, what it does). A module is imported when its command is called.
COMMANDS = {
    "run": ("run", "photos -> a measured model with its card, in the minutes there are: all of the below in order"),
    "prepare": ("prepare", "photos -> captioned square images, split into train and validation"),
    "caption": ("caption", "captions by a model for the photos of a prepared dataset"),
    "train-autoencoder": ("train_autoencoder", "square images -> an AutoencoderKL"),
    "train": ("train", "square images and an autoencoder -> a text-to-image pipeline"),
    "ema": ("ema", "a finished run with snapshots -> its pipeline with averaged weights of another length"),
    "generate": ("generate", "a prompt -> images"),
    "evaluate": ("evaluate", "a pipeline and real photos -> results.json, tables and plots"),
    "tune": ("tune", "a pipeline and real photos -> the best sampling settings, stored as its defaults"),
    "compare": ("compare", "results of several models -> one table, one picture, one page"),
    "demo": ("demo", "a pipeline -> a page in the browser that generates images"),
    "doctor": ("doctor", "what this machine can do, and what to install"),
    "push": ("push", "a pipeline or a prepared dataset -> the Hugging Face Hub"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {command:<{width}}  {help}" for command, (_, help) in COMMANDS.items())
    return f"usage: animal-ldm COMMAND …\n\n{commands}\n\n`animal-ldm COMMAND --help` explains a command's arguments."


def main(argv: list[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    exit_on_bad_input(lambda: dispatch(given))


def dispatch(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
    elif argv[0] == "--version":
        print(__version__)
    elif argv[0] not in COMMANDS:
        sys.exit(f"animal-ldm: unknown command {argv[0]!r}.\n\n{usage()}")
    else:
        module, _ = COMMANDS[argv[0]]
        importlib.import_module(f"animal_ldm.commands.{module}").main(argv[1:])


def exit_on_bad_input(main: Callable[[], None]) -> None:
    """Call `main`; bad input ends in its message and exit code 2, not in a traceback."""
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (OSError, RuntimeError) as error:
        if message := machine_fault(error):
            print(f"error: {message}", file=sys.stderr)
            sys.exit(2)
        raise
    except KeyboardInterrupt:
        sys.exit(130)
