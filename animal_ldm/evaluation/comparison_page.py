"""A comparison as plain text, Markdown, one HTML file and a picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ..files import whole_file, write_text
from ..html import data_uri, render_page
from ..markdown import plain
from .compare import RETRAINING, SURE, Cell, Comparison, Row, Table
from .comparison_sources import SampleRow
from .glossary import explanation
from .plots import QUIET, REAL, SAMPLES
from .table import ARROWS, align

PICTURE_SIDE = 2400  # pixels
# Metrics in the picture, with their k.
PICTURED = (
    ("frechet_distance", None),
    ("kernel_distance", None),
    ("sliced_wasserstein", None),
    ("cmmd", None),
    ("precision", 10),
    ("recall", 10),
    ("density", 5),
    ("coverage", 5),
    ("vendi_score", None),
    ("prompt_accuracy", None),
)
PER_LINE = 5  # of them
EXPLAINED = (
    "↓ lower is better, ↑ higher is better, ≈ near real photos is better.",
    "± is the standard error over the choice of samples or, over several sample sets, their standard deviation. It "
    "does not cover training the model again.",
    f"* marks the best value and those within {SURE:g} standard errors of it: the results do not tell them apart. "
    f"'Within a retraining': the difference is larger, but below {RETRAINING:g} times that. Training again with "
    "another seed moved an FID by so much more than sampling again did (arXiv 2606.20536, at 50,000 samples): it says "
    "nothing about the recipes. Settings of one and the same model are exempt.",
    "† marks what cannot be compared with the first model, for the reason below the table.",
    "'Real photos' is the score of held-out photos in place of samples: a distance's floor, the others' ceiling.",
)


def write_comparison(comparison: Comparison, samples: Sequence[SampleRow], out: Path) -> None:
    """compare.png, compare.md and compare.html in `out`."""
    save_picture(comparison, samples, out / "compare.png")
    write_text(out / "compare.md", as_markdown(comparison))
    write_text(out / "compare.html", as_html(comparison, out / "compare.png"))


def rows_of_cells(table: Table, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The table's cells as text, its header first."""
    yield "", "real photos", *names, "verdict"
    for row in table.rows:
        yield f"{row.label} {ARROWS[row.metric.better]}", row.real_photos, *map(marked, row.cells), row.verdict


def marked(cell: Cell) -> str:
    return cell.text + ("*" if cell.leads else "") + ("†" if cell.reasons else "")


def as_text(comparison: Comparison) -> str:
    """The comparison for a terminal."""
    lines = align([("", *comparison.names), *((label, *values) for label, values in comparison.settings)])
    for table in comparison.tables:
        *rows, verdicts = zip(*rows_of_cells(table, comparison.names), strict=True)
        aligned = align([*zip(*rows, strict=True)])
        lines += ["", f"features of {table.extractor}"]
        lines += [f"{line}  {verdict}" for line, verdict in zip(aligned, verdicts, strict=True)]
        lines += [f"  † {name}: {reason}" for name, reason in table.reasons]
    return "\n".join([*lines, "", *(f"  {text}" for text in EXPLAINED)])


def as_markdown(comparison: Comparison) -> str:
    names = [plain(name) for name in comparison.names]
    lines = ["# " + " / ".join(names), "", "![Metrics and samples of the models](compare.png)", ""]
    settings = [(label, *values) for label, values in comparison.settings]
    lines += [*markdown_table([("", *comparison.names), *settings]), ""]
    for table in comparison.tables:
        lines += [f"## Features of {plain(table.extractor)}", ""]
        lines += [*markdown_table([*rows_of_cells(table, comparison.names)]), ""]
        lines += [*(f"- † {plain(name)}: {plain(reason)}" for name, reason in table.reasons), ""]
    return "\n".join([*lines, *(f"- {plain(text)}" for text in EXPLAINED)]) + "\n"


def markdown_table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(map(plain, row))} |"
        if number == 0:
            yield "|" + "---|" * len(row)


def as_html(comparison: Comparison, picture: Path) -> str:
    """One file that loads nothing."""
    with Image.open(picture) as image:
        uri = data_uri(image, PICTURE_SIDE)
    return render_page(
        "compare.html",
        comparison=comparison,
        picture=uri,
        explained=EXPLAINED,
        arrows=ARROWS,
        marked=marked,
        explanation=explanation,
    )


# --- the picture -----------------------------------------------------------------------------------------------------


def save_picture(comparison: Comparison, samples: Sequence[SampleRow], path: Path) -> None:
    """Metrics of every model with ± and the score of real photos, then samples of the same prompts and seeds."""
    parts: list[tuple[Table, list[Row]]] = []
    for table in comparison.tables:
        rows = [row for row in table.rows if (row.metric.name, row.metric.k) in PICTURED]
        parts += [(table, rows[start : start + PER_LINE]) for start in range(0, len(rows), PER_LINE)]
    models = len(comparison.names)
    sampled = [i for i in range(models) if any(row.images[i] is not None for row in samples)]
    heights = [0.9 + 0.3 * models] * len(parts) + [1.2 * len(sampled) + 0.5] * bool(samples)
    figure = Figure(figsize=(2.7 * PER_LINE, sum(heights) + 0.4), layout="constrained")
    figure.suptitle("bars: ± 2 standard errors over samples; dotted: real photos; hollow: not comparable", color=QUIET)
    strips = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for strip, (table, rows) in zip(strips, parts, strict=False):
        plots = strip.subplots(1, PER_LINE, sharey=True, squeeze=False)[0]
        plots[0].set_ylabel(table.extractor, color=QUIET)
        for axes, row in zip(plots, rows, strict=False):
            plot_metric(axes, row)
        for axes in plots[len(rows) :]:
            axes.set_visible(False)
    if samples:
        grid = strips[-1].subplots(len(sampled), len(samples), squeeze=False)
        for line, model in zip(grid, sampled, strict=True):
            for axes, row in zip(line, samples, strict=True):
                image = row.images[model]
                axes.imshow(np.full((1, 1, 3), 255, np.uint8) if image is None else image)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            line[0].set_ylabel(comparison.names[model], rotation=0, ha="right", va="center")
        for axes, row in zip(grid[0], samples, strict=True):
            axes.set_title(f"{row.prompt}\nseed {row.seed}", fontsize="small")
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=130)


def plot_metric(axes: Axes, row: Row) -> None:
    for place, cell in enumerate(row.cells):
        if cell.metric is None or cell.metric.value is None:
            continue
        error = cell.error
        axes.errorbar(
            cell.metric.value,
            place,
            xerr=None if error is None else SURE * error,
            marker="o",
            color=QUIET if cell.reasons else SAMPLES,
            fillstyle="none" if cell.reasons else "full",
            capsize=3,
        )
    photos = row.metric.real_photos
    if photos and photos.value is not None:
        axes.axvline(photos.value, color=REAL, linestyle=":")
    axes.set_title(f"{row.label} {ARROWS[row.metric.better]}", fontsize="medium")
    axes.set_yticks(range(len(row.names)), row.names)
    axes.set_ylim(len(row.names) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.25)
