"""`animal-ldm VERB …`: one verb per step of the flow, each a module with `main(argv)`."""

import importlib
import sys
from collections.abc import Callable

from . import __version__
from .errors import InputError

# verb -> (module, what it does). Modules are imported when their verb is called, so that `--help` answers at once.
VERBS = {
    "prepare": ("animal_ldm.data.prepare", "photos -> captioned squares, split into train and validation"),
    "train-autoencoder": ("animal_ldm.training.autoencoder", "squares -> an AutoencoderKL"),
    "train": ("train_text_to_image", "squares and autoencoder -> a text-to-image pipeline"),
    "generate": ("animal_ldm.generate", "a prompt -> pictures"),
    "evaluate": ("animal_ldm.evaluation.evaluate", "a pipeline and real photos -> results.json and pictures"),
    "demo": ("animal_ldm.serve", "a pipeline -> a page in the browser that draws"),
    "push": ("push_to_hub", "a pipeline or a prepared dataset -> the Hugging Face Hub"),
}


def usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {help}" for verb, (_, help) in VERBS.items())
    return f"usage: animal-ldm VERB …\n\n{verbs}\n\n`animal-ldm VERB --help` explains a verb's arguments."


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
    elif argv[0] == "--version":
        print(__version__)
    elif argv[0] not in VERBS:
        sys.exit(f"animal-ldm: there is no verb {argv[0]!r}.\n\n{usage()}")
    else:
        module, _ = VERBS[argv[0]]
        exit_on_bad_input(lambda: importlib.import_module(module).main(argv[1:]))


def exit_on_bad_input(main: Callable[[], None]) -> None:
    """Call `main`; bad input ends in one sentence and exit code 2, not in a traceback."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
