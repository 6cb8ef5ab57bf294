"""`animal-ldm compare`: results of several models -> one table, one picture, one page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import InputError
from .parsing import parse


@dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """Compare models by the results of their evaluations.

    Prints a table for every extractor: each metric of each model with its ±, beside the score of real photos, and
    which differences are shown. Writes it as compare.md and compare.html, and compare.png with samples of the same
    prompts and seeds side by side. What cannot be compared is marked with the reason: another extractor, number of
    samples, reference, resizing or prompts.
    """

    # Pipeline folders with their evaluation, folders that `animal-ldm evaluate` wrote, results.json files, or ids of
    # models on the Hub; at least two.
    models: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL MODEL ...")]]
    # Folder to write to.
    out: Path = Path("comparison")


def check(arguments: CompareArguments) -> None:
    """Raise an `InputError` for what can be told without the results."""
    if len(arguments.models) < 2:
        raise InputError(f"There must be at least two models to compare, but {len(arguments.models)} is given.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse(CompareArguments, argv, prog="animal-ldm compare")
    check(arguments)
    from ..evaluation.compare import compare_models
    from ..evaluation.comparison_page import as_text, write_comparison
    from ..evaluation.comparison_sources import find_sources, same_seeds

    sources = find_sources(arguments.models)
    comparison = compare_models(sources)
    write_comparison(comparison, same_seeds(sources), arguments.out)
    print(as_text(comparison))
    print(f"\ncompare.md, compare.html and compare.png: {arguments.out}")
