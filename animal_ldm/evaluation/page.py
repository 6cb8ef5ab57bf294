"""`report.html`: an evaluation as one file that a browser opens anywhere.

Everything comes from `Results` and `Gallery`: what they do not hold has no place on the page, and a metric that the
glossary does not know is still listed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..charts import Chart, Colour, Series
from ..files import write_text
from ..html import data_uri, render_page
from .gallery import Gallery
from .glossary import Entry, entry, explanation
from .plots import fit_name, fit_points, sizes_ticks
from .results import ClassResult, Curve, Results, Sweep
from .table import (
    HEADLINES,
    HOW_TO_READ_WORDS,
    PROMPTS,
    MetricRow,
    across_line,
    attribute_rows,
    autoencoder_rows,
    plus_minus_line,
    rows_across,
    size_warning,
    sweep_rows,
)

MOST_CONFUSED = 30  # classes of a confusion matrix that can be read
CHARTED = {*HEADLINES, ("kernel_distance", None), ("coverage", 5)}  # of a sweep; its table has every metric
GRID_SIDE = 1200  # pixels, of the plot of samples that stands in for a gallery


@dataclass(frozen=True)
class Bar:
    """Scores as shares of a common scale, 0 to 1."""

    samples: float
    photos: float


@dataclass(frozen=True)
class Figure(MetricRow):
    """A metric on the page. Its bar compares samples and real photos at equal N."""

    @property
    def entry(self) -> Entry:
        return entry(self.metric)

    @property
    def explanation(self) -> list[str]:
        return explanation(self.metric)

    @property
    def bar(self) -> Bar | None:
        samples, photos = self.metric.same_n or self.metric, self.metric.real_photos
        if samples.value is None or photos is None or photos.value is None:
            return None
        shares = self.metric.name in ("precision", "recall", "coverage", "prompt_accuracy", "nearer_than_held_out")
        scale = 1 if shares else max(samples.value, photos.value)
        if scale <= 0:
            return None
        return Bar(min(1, max(0, samples.value / scale)), min(1, max(0, photos.value / scale)))


@dataclass(frozen=True)
class Part:
    """What one extractor found."""

    results: Results

    @property
    def figures(self) -> list[Figure]:
        return [Figure(metric) for metric in self.results.metrics]

    @property
    def headlines(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.headline] or self.figures[:4]

    @property
    def equal_n(self) -> int | None:
        """The number of real photos, where there are more samples than that, and scores at both numbers."""
        first = self.results.metrics[0]
        return first.real_photos.n if first.real_photos and first.real_photos.n < first.n_generated else None

    @property
    def groups(self) -> dict[str, list[Figure]]:
        return grouped(self.figures)

    @property
    def charts(self) -> list[Chart]:
        return [chart for chart in (precision_recall_chart(self.results), fd_chart(self.results)) if chart]

    @property
    def confusion(self) -> "Confusion | None":
        return confusion(self.results.per_class or ())

    @property
    def sweep_charts(self) -> list[Chart]:
        return [*sweep_charts(self.results.sweep)] if self.results.sweep else []

    @property
    def sweep_rows(self) -> list[tuple[str, ...]]:
        return sweep_rows(self.results.sweep) if self.results.sweep else []

    @property
    def autoencoder_rows(self) -> list[tuple[str, ...]]:
        return autoencoder_rows(self.results.autoencoder, self.results) if self.results.autoencoder else []


def write_page(results: Results, images: Gallery | None, path: Path) -> None:
    """Write the report to `path`, whole or not at all.

    Args:
        images: None for an evaluation of an earlier version: the plot `samples.png` beside `path` stands in.
    """
    plot = path.with_name("samples.png")
    grid = None
    if images is None and plot.is_file():
        with Image.open(plot) as image:
            grid = data_uri(image, GRID_SIDE)
    page = render_page(
        "report.html",
        results=results,
        parts=[Part(own) for own in results.each()],
        images=images,
        grid=grid,
        warnings=size_warning(results),
        rows_across=rows_across(results) if results.more else [],
        across_line=across_line(results),
        attribute_rows=[*attribute_rows(results.per_attribute)] if results.per_attribute else [],
        how_to_read_words=HOW_TO_READ_WORDS,
        prompts_from=PROMPTS,
        plus_minus_line=plus_minus_line(results),
    )
    write_text(path, page)


def grouped(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """Figures by the group that the glossary puts them in, both in the order they come in."""
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.entry.group, []).append(figure)
    return groups


# --- charts ----------------------------------------------------------------------------------------------------------


def precision_recall_chart(results: Results) -> Chart | None:
    """The plane of precision and recall: of all samples, of as many as there are held-out photos, and of those."""
    series = []
    for precision in (metric for metric in results.metrics if metric.name == "precision"):
        recall, marks = results.find("recall", precision.k), "circle" if precision.k == 10 else "square"
        if recall is None:
            continue
        shown: list[tuple[str, int, Any, Any]] = [("samples", precision.n_generated, recall, precision)]
        if precision.same_n and precision.same_n.n < precision.n_generated:
            shown.append(("samples", precision.same_n.n, recall.same_n, precision.same_n))
        if precision.real_photos:
            shown.append(("real photos", precision.real_photos.n, recall.real_photos, precision.real_photos))
        for name, n, x, y in shown:
            if x is not None and x.value is not None and y.value is not None:
                colour, filled = "samples" if name == "samples" else "photos", y is not precision.same_n
                label = f"{name}, N = {n:,}, k = {precision.k}"
                series.append(Series(label, [(x.value, y.value)], colour, marks, filled))
    if not series:
        return None
    return Chart(
        "Precision and recall",
        "recall: variety",
        "precision: quality",
        series,
        x_range=(0, 1),
        y_range=(0, 1),
        explanation="The best corner is the upper right; real photos show how far up and right a model can get.",
    )


def fd_chart(results: Results) -> Chart | None:
    """The Frechet distance over 1/N."""
    curves, distance = results.fd_curves, results.find("frechet_distance")
    if distance is None or not curves.samples.sizes or not curves.real_photos.sizes:
        return None
    samples = "samples" if distance.repeats == 1 else f"samples, the first of {distance.repeats} sets"
    return Chart(
        f"{distance.label} against the number of samples",
        "N, on a scale of 1/N",
        distance.label,
        [
            *distance_series(samples, curves.samples, "samples"),
            *distance_series("real photos: the floor", curves.real_photos, "photos"),
        ],
        x_ticks=sizes_ticks(curves),
        x_range=(0, None),
        y_range=(0, None),
        explanation="Both distances fall as N grows, to the left, although neither images nor photos change.",
    )


def distance_series(name: str, curve: Curve, colour: Colour) -> Iterator[Series]:
    measured = [(1 / n, distance) for n, distance in zip(curve.sizes, curve.distances, strict=True)]
    yield Series(name, measured, colour, "circle")
    if fit := fit_points(curve):
        yield Series(fit_name(curve), fit, colour, line="solid")


def sweep_charts(sweep: Sweep) -> Iterator[Chart]:
    """Metrics along the swept parameter."""
    for i, first in enumerate(sweep.points[0].metrics):
        metrics = [point.metrics[i] for point in sweep.points]
        measured = [
            (point.value, metric.value)
            for point, metric in zip(sweep.points, metrics, strict=True)
            if metric.value is not None
        ]
        if (first.name, first.k) not in CHARTED or len(measured) < 2:
            continue
        series = [Series("samples", measured, marks="circle", line="solid")]
        if first.real_photos and first.real_photos.value is not None:
            ends = [(x, first.real_photos.value) for x in (measured[0][0], measured[-1][0])]
            series.append(Series(f"real photos, N = {first.real_photos.n:,}", ends, "photos", line="dotted"))
        yield Chart(f"{first.label} ({first.better} is better)", sweep.parameter, first.label, series)


# --- classes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Confusion:
    """Which class a probe assigns the samples of every class to."""

    columns: list[str]
    rows: list[tuple[str, list[tuple[int, float]]]]  # class of the prompt, (samples, share of the class's) per column


def confusion(classes: Sequence[ClassResult]) -> Confusion | None:
    """None where the results do not hold it, or there are too many classes for a table."""
    if not classes or len(classes) > MOST_CONFUSED or any(found.assigned is None for found in classes):
        return None
    labels = [found.label for found in classes]
    columns = [*labels, *sorted({label for found in classes for label in found.assigned or {}} - set(labels))]
    counts = [(found, [(found.assigned or {}).get(label, 0) for label in columns]) for found in classes]
    rows = [(found.label, [(count, count / found.n_generated) for count in row]) for found, row in counts]
    return Confusion(columns, rows)
