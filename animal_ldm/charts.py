"""Charts for web pages, as geometry that the template `chart.html` draws in SVG.

A chart is written in words too: readers of a screen reader get a summary of every series.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 400, 290  # of the whole drawing; on a phone it has about this width in pixels
RIGHT, TOP, BOTTOM = 28, 14, 46  # margins; the left one depends on the labels
CHARACTER = 7.4  # width of a digit
MOST_POINTS = 150  # of a line

Colour = Literal["samples", "photos", "quiet"]


@dataclass(frozen=True)
class Series:
    """Points of one kind, with a place in the legend.

    Attributes:
        marks: shape of the points; None draws none.
        line: style of the line through them; None draws none.
        band: (x, lowest, highest), drawn as an area.
        words: beside each point.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: Colour = "samples"
    marks: Literal["circle", "square", "diamond"] | None = None
    filled: bool = True
    line: Literal["solid", "dotted"] | None = None
    band: Sequence[tuple[float, float, float]] = ()
    words: Sequence[str] = ()

    def summary(self) -> str:
        """The series in a sentence."""
        pairs = [f"{label(y)} at {label(x)}" for x, y in self.points]
        if len(pairs) <= 8:
            return f"{self.name}: {', '.join(pairs)}."
        values = [y for _, y in self.points]
        low, high = pairs[int(np.argmin(values))], pairs[int(np.argmax(values))]
        return f"{self.name}: from {pairs[0]} to {pairs[-1]}; lowest {low}, highest {high}."


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        y_label: empty where the title says it.
        x_ticks: (value, label); by default round numbers.
        x_range, y_range: the least that the axes cover, as (low, high); None leaves an end to the points.
        y_limit: above it the drawing is cut off.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_ticks: Sequence[tuple[float, str]] | None = None
    x_range: tuple[float | None, float | None] = (None, None)
    y_range: tuple[float | None, float | None] = (None, None)
    y_limit: float | None = None
    explanation: str = ""


@dataclass(frozen=True)
class Shape:
    """A series in the drawing's coordinates."""

    series: Series
    path: str  # SVG path data of the line
    area: str  # and of the band
    marks: list[tuple[float, float, str, str]]  # x, y, words beside it, what it says when pointed at


@dataclass(frozen=True)
class Drawing:
    """A chart, laid out."""

    chart: Chart
    left: float
    x_ticks: list[tuple[float, str]]  # position, label
    y_ticks: list[tuple[float, str]]
    shapes: list[Shape]
    summary: str
    width: int = WIDTH
    height: int = HEIGHT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Axis:
    """A range of values, and ticks within it."""

    low: float
    high: float
    ticks: list[tuple[float, str]] = field(default_factory=list)

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)


def label(value: float) -> str:
    """A number in few characters."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:,.4g}"


def axis(values: Sequence[float], least: tuple[float | None, float | None], most: float | None = None) -> Axis:
    """An axis with round numbers for ticks, which covers all values up to `most`."""
    low = min(value for value in (*values, least[0]) if value is not None)
    high = max(value for value in (*values, least[1]) if value is not None)
    high = high if most is None else min(high, most)
    ticks = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    low, high = (ticks[0] if least[0] is None else low), (ticks[-1] if least[1] is None else high)
    return Axis(low, high, [(tick, label(round(tick, 12))) for tick in ticks if low <= tick <= high])


def draw(chart: Chart) -> Drawing:
    """Lay a chart out."""
    points = [point for series in chart.series for point in series.points]
    x_axis = axis([x for x, _ in points], chart.x_range)
    if chart.x_ticks:
        x_axis = Axis(x_axis.low, x_axis.high, [*chart.x_ticks])
    y_axis = axis([y for _, y in points], chart.y_range, chart.y_limit)
    left = (30 if chart.y_label else 10) + CHARACTER * max(len(text) for _, text in y_axis.ticks)

    def across(x: float) -> float:
        return round(left + x_axis.share(x) * (WIDTH - RIGHT - left), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - y_axis.share(y) * (HEIGHT - BOTTOM - TOP), 1)

    def shape(series: Series) -> Shape:
        words = series.words or [""] * len(series.points)
        return Shape(
            series,
            path([(across(x), down(y)) for x, y in series.points]) if series.line else "",
            path(
                [(across(x), down(high)) for x, _, high in series.band]
                + [(across(x), down(low)) for x, low, _ in reversed(series.band)]
            ),
            [
                (across(x), down(y), word, f"{series.name}: {word + ': ' if word else ''}{label(y)} at {label(x)}")
                for (x, y), word in zip(series.points, words, strict=True)
            ]
            if series.marks
            else [],
        )

    return Drawing(
        chart,
        left,
        [(across(x), text) for x, text in x_axis.ticks],
        [(down(y), text) for y, text in y_axis.ticks],
        [shape(series) for series in chart.series if series.points],
        " ".join(series.summary() for series in chart.series if series.points),
    )


def path(points: Sequence[tuple[float, float]]) -> str:
    """SVG path data of a line through the points."""
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points) if points else ""


def curve(name: str, points: Sequence[tuple[float, float]], colour: Colour = "samples") -> Series:
    """Any number of points as one line: means over blocks, within the band of their lowest and highest values."""
    if len(points) <= MOST_POINTS:
        few = len(points) <= 30
        return Series(name, points, colour, line="solid", marks="circle" if few else None)
    blocks = [*_blocks(points)]
    means = [(float(block[:, 0].mean()), float(block[:, 1].mean())) for block in blocks]
    band = [
        (x, float(block[:, 1].min()), float(block[:, 1].max())) for (x, _), block in zip(means, blocks, strict=True)
    ]
    return Series(name, means, colour, line="solid", band=band)


def _blocks(points: Sequence[tuple[float, float]]) -> Iterator[np.ndarray]:
    """(B, 2) each."""
    yield from np.array_split(np.array(points), MOST_POINTS)
