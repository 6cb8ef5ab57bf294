"""Command-line arguments: one dataclass per step, the help in the comment above each field."""

import sys
from collections.abc import Sequence
from typing import Annotated, TypeVar

import tyro

Arguments = TypeVar("Arguments")


def positional(name: str):
    """Annotation of a field that is given by position: `source: Annotated[str, *positional("SOURCE")]`."""
    return tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar=name)]]


def parse(arguments_class: type[Arguments], argv: Sequence[str] | None, prog: str) -> Arguments:
    """Read `argv` (`sys.argv[1:]` when None) into `arguments_class`; `--help` and bad flags exit as argparse does."""
    return tyro.cli(arguments_class, args=sys.argv[1:] if argv is None else argv, prog=prog, use_underscores=True)
