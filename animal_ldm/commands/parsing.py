"""Command-line arguments from a dataclass: the comment above each field is its help."""

import sys
from collections.abc import Sequence
from typing import TypeVar

import tyro

Arguments = TypeVar("Arguments")


def parse(arguments_class: type[Arguments], argv: Sequence[str] | None, prog: str) -> Arguments:
    """Read `argv` (`sys.argv[1:]` when None) into `arguments_class`; `--help` and bad flags exit as argparse does.

    Dashes and underscores are the same in option names.
    """
    return tyro.cli(arguments_class, args=sys.argv[1:] if argv is None else argv, prog=prog, use_underscores=True)
