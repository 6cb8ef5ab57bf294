"""Plots of results: samples per class, the precision-recall plane, FD against 1/N, nearest photos, a sweep."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.captions import is_template
from ..files import whole_file
from .gallery import Nearest, SamplesAndPhotos, first_of_every_class
from .images import Images
from .results import BASELINE, Curve, FrechetCurves, Metric, Results
from .table import number, sampling_line

SAMPLES, REAL, QUIET = "#0072b2", "#d55e00", "#767676"  # colour-blind readers can tell them apart too
GRID_COLUMNS = 10
CAPTION_COLUMNS, CAPTION_ROWS = 5, 4


def save_sample_grid(samples: Images, results: Results, path: Path) -> None:
    """The first samples of every class, a row each: uncurated."""
    groups = first_of_every_class(samples, GRID_COLUMNS)
    rows = {label or "samples": [samples[index] for index in indices] for label, indices in groups.items()}
    figure = Figure(figsize=(1.05 * GRID_COLUMNS + 1.2, 1.08 * len(rows) + 0.4), layout="constrained")
    _caption(figure, results)
    for axes, (label, images) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        blank = [np.full_like(images[0], 255)] * (GRID_COLUMNS - len(images))
        axes.imshow(np.concatenate([*images, *blank], axis=1))
        axes.set_ylabel(label, rotation=0, ha="right", va="center", parse_math=False)
        _bare(axes)
    _save(figure, path)


def save_captioned_samples(samples: Images, results: Results, path: Path) -> None:
    """The first samples whose prompts say more than the class, below the prompts: uncurated. Without any, no file."""
    path.unlink(missing_ok=True)
    first: dict[str, int] = {}
    for index, (text,) in enumerate(samples.captions or ()):
        if samples.labels and not is_template(text, samples.labels[index]):
            first.setdefault(text, index)
    shown = list(first.items())[: CAPTION_COLUMNS * CAPTION_ROWS]
    if not shown:
        return
    rows = -(-len(shown) // CAPTION_COLUMNS)
    figure = Figure(figsize=(2 * CAPTION_COLUMNS, 2.4 * rows + 0.4), layout="constrained")
    _caption(figure, results)
    for axes in figure.subplots(rows, CAPTION_COLUMNS, squeeze=False).flat:
        _bare(axes)
        if shown:
            text, index = shown.pop(0)
            axes.imshow(samples[index])
            title = textwrap.fill(text, width=27, max_lines=3, placeholder=" …")
            axes.set_title(title, fontsize="small", parse_math=False)
    _save(figure, path)


def save_precision_recall(results: Results, path: Path) -> None:
    """Precision over recall, of the samples and of real photos in their place at the same N."""
    figure = Figure(figsize=(6.4, 6), layout="constrained")
    axes = figure.subplots()
    for k, marker in ((10, "o"), (3, "s")):
        precision, recall = _find(results, "precision", k), _find(results, "recall", k)
        axes.errorbar(
            _number(recall.value),
            _number(precision.value),
            xerr=recall.std,
            yerr=precision.std,
            marker=marker,
            color=SAMPLES,
            linestyle="",
            label=f"samples, N={precision.n_generated:,}, k={k}",
        )
        photos, same_n = (
            (_number(getattr(recall, side).value), _number(getattr(precision, side).value))
            for side in ("real_photos", "same_n")
        )  # (x, y)
        axes.plot(*zip(same_n, photos, strict=True), color=QUIET, linewidth=0.8, linestyle=":", zorder=0)
        n = precision.real_photos.n if precision.real_photos else 0
        if n < precision.n_generated:
            axes.plot(*same_n, marker, color=SAMPLES, fillstyle="none", label=f"samples, N={n:,}, k={k}")
        axes.plot(*photos, marker, color=REAL, label=f"real photos (ceiling), N={n:,}, k={k}")
    if results.extractor.is_inception:
        label = f"student card, k={BASELINE.k} (extractor and N not stated)"
        axes.plot(BASELINE.recall, BASELINE.precision, "x", color=QUIET, label=label)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", ylabel="precision", aspect="equal")
    n_real = _find(results, "precision", 10).n_real
    axes.set_title(f"{results.extractor.name} features, {n_real:,} reference photos")
    _caption(figure, results)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    _save(figure, path)


def save_fd_curve(results: Results, path: Path) -> None:
    """FD against 1/N with its extrapolation, and what real photos score."""
    curves, metric = results.fd_curves, results.metrics[0]
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    _caption(figure, results)
    axes = figure.subplots()
    samples = "samples" if metric.repeats == 1 else f"samples, the first of {metric.repeats} sets"
    _plot_curve(axes, curves.samples, SAMPLES, samples)
    _plot_curve(axes, curves.real_photos, REAL, "real photos: the floor")
    axes.set_xticks(*zip(*sizes_ticks(curves), strict=True))
    axes.set(xlabel="N, on a scale of 1/N", ylabel=metric.label, xlim=(0, None))
    axes.set_title(f"{metric.n_real:,} reference photos")
    axes.set_ylim(bottom=min(0, curves.samples.value or 0, curves.real_photos.value or 0))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    _save(figure, path)


def _plot_curve(axes: Axes, curve: Curve, colour: str, name: str) -> None:
    """Distances over 1/N, and the fit where there is one."""
    axes.plot(1 / np.array(curve.sizes), curve.distances, "o", color=colour, label=name)
    if curve.value is not None:
        axes.plot(*zip(*fit_points(curve), strict=True), color=colour, linewidth=1, label=fit_name(curve))
        axes.plot(0, curve.value, "D", color=colour, fillstyle="none", clip_on=False)


def fit_points(curve: Curve) -> list[tuple[float, float]]:
    """The fit to a curve as points (1/N, distance), from infinitely many samples to the fewest; none without a fit."""
    if curve.value is None or curve.slope is None:
        return []
    over_n = np.linspace(0, 1 / min(curve.sizes))
    fit = curve.value + curve.slope * over_n + (curve.curvature or 0) * over_n**2
    return [*zip(over_n.tolist(), fit.tolist(), strict=True)]


def fit_name(curve: Curve) -> str:
    shape = "straight line" if curve.curvature is None else "parabola"
    return f"{shape} over 1/N, {number(curve.value, curve.standard_error)} at N→∞"


def sizes_ticks(curves: FrechetCurves) -> list[tuple[float, str]]:
    """(1/N, N in words) for an axis of 1/N, far enough apart for their labels."""
    first = 1 / min(*curves.samples.sizes, *curves.real_photos.sizes)
    return [(0, "∞"), *((first / part, f"{part / first:,.0f}") for part in (1, 2, 5))]


def save_nearest_panel(
    compared: SamplesAndPhotos, found: tuple[Sequence[Nearest], Sequence[Nearest]], extractor: str, path: Path
) -> None:
    """Samples beside their three nearest training photos: on the left the nearest of all, on the right any.

    Args:
        found: from `SamplesAndPhotos.nearest_photos`.
    """
    samples, train = compared.samples, compared.train
    closest, others = found
    figure = Figure(figsize=(11, 1.38 * len(closest) + 0.8), layout="constrained")
    explained = (
        f"each sample, and the three nearest of {len(train):,} training photos with their {extractor} distances"
    )
    figure.suptitle(explained, fontsize="medium", color=QUIET)
    halves = ((closest, f"the nearest of {len(samples):,} samples"), (others, "samples at random"))
    parts: Any = figure.subfigures(1, 2)
    for part, (chosen, heading) in zip(parts, halves, strict=True):
        part.suptitle(heading, fontsize="medium")
        for row, one in zip(part.subplots(len(closest), 4, squeeze=False), chosen, strict=False):
            row[0].imshow(samples[one.sample])
            name = f"{samples.labels[one.sample]}, " if samples.labels else ""
            row[0].set_xlabel(f"{name}sample {one.sample}", color=SAMPLES, fontsize="small", parse_math=False)
            for axes, photo, distance in zip(row[1:], one.photos, one.distances, strict=True):
                axes.imshow(train[photo])
                axes.set_xlabel(f"{distance:.3g}", color=REAL, fontsize="small")
            for axes in row:
                _bare(axes)
    _save(figure, path)


def save_sweep(results: Results, path: Path) -> None:
    """The Frechet distance against precision and recall, a point for each value of the parameter."""
    sweep, sampling = results.sweep, results.sampling
    if sweep is None or sampling is None:
        raise ValueError("these results hold no sweep")
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("precision", "recall"), strict=True):
        points = []
        for point in sweep.points:
            found = {(metric.name, metric.k): metric for metric in point.metrics}
            x, y = found[name, 10], found["frechet_distance", None]
            points.append((_number(x.value), _number(y.value)))
            axes.errorbar(*points[-1], xerr=x.std, yerr=y.std, marker="o", color=SAMPLES)
            axes.annotate(f"{point.value:g}", points[-1], xytext=(5, 5), textcoords="offset points")
        axes.plot(*zip(*points, strict=True), color=SAMPLES, linewidth=1)
        axes.set(xlabel=f"{name}, k=10")
        photos = _find(results, name, 10).real_photos
        if photos and photos.value is not None:
            axes.axvline(photos.value, color=REAL, linestyle=":", linewidth=1)
        axes.set_xlim(-0.05, 1.08)
        axes.margins(y=0.12)
        axes.ticklabel_format(useOffset=False)
        axes.grid(alpha=0.25)
    distance, precision = _find(results, "frechet_distance"), _find(results, "precision", 10)
    figure.axes[0].set_ylabel(distance.label)
    n_photos = precision.real_photos.n if precision.real_photos else 0
    explained = f"{sweep.parameter} beside each point, {precision.n_generated:,} samples, seed {sampling.seed}"
    figure.suptitle(f"{explained}; dotted: real photos, N={n_photos:,}", fontsize="medium")
    _save(figure, path)


def _find(results: Results, name: str, k: int | None = None) -> Metric:
    metric = results.find(name, k)
    if metric is None:
        raise ValueError(f"these results hold no {name} at k={k}")
    return metric


def _number(value: float | None) -> float:
    """NaN, of which matplotlib plots nothing, for what was not measured."""
    return math.nan if value is None else value


def _caption(figure: Figure, results: Results) -> None:
    """How the samples were made, in as many lines as the width needs."""
    lines = textwrap.fill(sampling_line(results), width=int(11 * figure.get_figwidth()))
    figure.suptitle(lines, fontsize="small", color=QUIET)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    photographic = {"quality": 92, "method": 6} if path.suffix == ".webp" else {}
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=130, pil_kwargs=photographic)
