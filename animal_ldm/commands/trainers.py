"""What the doors of both trainers share: grouped arguments, and messages on the terminal."""

import logging
from collections.abc import Sequence
from dataclasses import fields, make_dataclass
from typing import TypeVar

import tyro

from ..training.arguments import RunArguments
from .parsing import parse

Arguments = TypeVar("Arguments", bound=RunArguments)


def parse_grouped(arguments_class: type[Arguments], argv: Sequence[str] | None, prog: str) -> Arguments:
    """As `parse`, with a titled section of `--help` for each of `arguments_class.GROUPS`.

    tyro makes a section of every nested dataclass, so the groups are parsed nested and put together afterwards.
    """
    groups = [(title, tyro.conf.OmitArgPrefixes[group]) for title, group in arguments_class.GROUPS.items()]
    nested = make_dataclass("Groups", groups, kw_only=True, namespace={"__doc__": arguments_class.__doc__})
    parsed = parse(nested, argv, prog)
    return arguments_class(
        **{option.name: getattr(group, option.name) for group in vars(parsed).values() for option in fields(group)}
    )


def show_progress() -> None:
    """Show what the package logs, such as losses at each validation."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("animal_ldm").setLevel(logging.INFO)
