"""Results of several models side by side: what may be compared, which differences are shown, which are not.

A difference is shown where it exceeds two standard errors of the two values together. Those cover the choice of
samples (`Metric.standard_error`), so they can tell settings of one model apart. Two trainings of one recipe differ
more: by 3.2 times as much where that was measured (Dufour et al. 2026, arXiv 2606.20536: FID at 50,000 samples).
Between different weights a difference below 3.2 times those two standard errors is therefore not taken for one of the
recipes. With fewer samples that is cautious.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from .comparison_sources import Source
from .results import Metric, Results
from .table import ACROSS_EXTRACTORS, number

SURE = 2.0  # standard errors
RETRAINING = 3.2
# Metrics whose value depends on the number of samples, beside chance.
OF_N = {"frechet_distance", "sliced_wasserstein", "cmmd", "recall", "coverage", "vendi_score"}

Standing = Literal["best", "not distinguishable", "within a retraining", "worse", "no ± known", "not comparable"]


@dataclass(frozen=True)
class Cell:
    """A metric of one model."""

    metric: Metric | None  # None: not in its results
    reasons: tuple[str, ...]  # why it cannot be compared with the first model's
    standing: Standing | None  # None: nothing to compare it with

    @property
    def leads(self) -> bool:
        return self.standing in ("best", "not distinguishable")

    @property
    def error(self) -> float | None:
        return self.metric and error_of(self.metric)

    @property
    def text(self) -> str:
        metric = self.metric
        if metric is None:
            return ""
        same_n = metric.same_n if metric.same_n and metric.same_n.n < metric.n_generated else None
        at_n = f" ({number(same_n.value)} at N={same_n.n:,})" if same_n else ""
        return number(metric.value, metric.plus_minus) + at_n


@dataclass(frozen=True)
class Row:
    """One metric of every model."""

    metric: Metric  # the first model's that has it
    label: str
    cells: list[Cell]
    names: list[str]  # of the models

    @property
    def real_photos(self) -> str:
        """The score of held-out photos: the floor of a distance, the ceiling of the rest."""
        found = self.metric.real_photos
        return f"{number(found.value)} (N={found.n:,})" if found else ""

    @cached_property
    def verdict(self) -> str:
        """Which models lead, in words."""
        groups = {}
        for name, cell in zip(self.names, self.cells, strict=True):
            if cell.standing:
                groups.setdefault(cell.standing, []).append(name)
        compared = [cell for cell in self.cells if cell.standing not in (None, "not comparable")]
        if len(compared) > 1 and all(cell.leads for cell in compared):
            groups = {"no difference shown": [], **{key: groups[key] for key in groups if key == "not comparable"}}
        order = ("no difference shown", "best", "not distinguishable", "within a retraining", "worse")
        known = {key: groups[key] for key in (*order, "no ± known", "not comparable") if key in groups}
        return "; ".join(key + (f": {', '.join(found)}" if found else "") for key, found in known.items())


@dataclass(frozen=True)
class Table:
    """All metrics over the features of one extractor."""

    extractor: str
    rows: list[Row]
    reasons: list[tuple[str, str]]  # (model, why it, or some of its metrics, cannot be compared with the first)


@dataclass(frozen=True)
class Comparison:
    """Several models, side by side."""

    names: list[str]
    settings: list[tuple[str, list[str]]]  # (what, of every model)
    tables: list[Table]


def compare_models(sources: Sequence[Source]) -> Comparison:
    """Compare the results of models, each with the first that has results of the same extractor."""
    names = [source.name for source in sources]
    extractors = dict.fromkeys(name for source in sources for name in source.results)
    tables = [table_of(extractor, sources) for extractor in extractors]
    return Comparison(names, [*settings_of([source.first for source in sources])], tables)


def table_of(extractor: str, sources: Sequence[Source]) -> Table:
    found = [source.results.get(extractor) for source in sources]
    first = next(results for results in found if results)
    names = [source.name for source in sources]
    order = {
        (metric.name, metric.k): metric
        for results in reversed(found)  # the first that has a metric stays
        if results
        for metric in results.metrics
        if not metric.name.endswith("_ratio")  # the photos' score stands beside every metric
    }
    rows, reasons = [], {}
    for key, metric in sorted(order.items(), key=lambda item: place(item[0], found)):
        cells = cells_of(key, found, first)
        label = metric.label if metric.extractor.is_inception else ACROSS_EXTRACTORS.get(metric.name, metric.label)
        rows.append(Row(metric, label, cells, names))
        for name, cell in zip(names, cells, strict=True):
            reasons |= {(name, reason): None for reason in cell.reasons}
    return Table(extractor, rows, [*reasons])


def place(key: tuple[str, int | None], found: Sequence[Results | None]) -> int:
    """Where the metric stands in the lists that have it: the farthest."""
    lists = ([(metric.name, metric.k) for metric in results.metrics] for results in found if results)
    return max(keys.index(key) for keys in lists if key in keys)


def cells_of(key: tuple[str, int | None], found: Sequence[Results | None], first: Results) -> list[Cell]:
    name, k = key
    metrics = [results and results.find(name, k) for results in found]
    base = first.find(name, k)
    reasons = [
        (*differences(results, first), *of_n(metric, base)) if results and metric else ()
        for results, metric in zip(found, metrics, strict=True)
    ]
    known = [
        (i, results, metric)
        for i, (results, metric) in enumerate(zip(found, metrics, strict=True))
        if results and metric and not reasons[i] and score(metric) is not None
    ]
    standings: dict[int, Standing] = {i: "not comparable" for i, reason in enumerate(reasons) if reason}
    if len(known) > 1:
        best = min(known, key=lambda one: score(one[2]) or 0.0)
        standings |= {one[0]: "best" if one is best else standing(one[1:], best[1:]) for one in known}
    return [Cell(metric or None, reasons[i], standings.get(i)) for i, metric in enumerate(metrics)]


def differences(results: Results, first: Results) -> Iterator[str]:
    """Why nothing of these results can be compared with the first."""
    own, other = results.extractor, first.extractor
    if own.weights_digest != other.weights_digest:
        yield f"other weights of the extractor {own.name}"
    if own.resize != other.resize:
        yield f"images were resized otherwise: {own.resize}"
    if results.data.reference != first.data.reference:
        yield f"compared with the photos of split {results.data.reference}, not {first.data.reference}"
    elif results.data.digests != first.data.digests:
        yield f"compared with other photos ({results.data.name})"
    if results.sampling and first.sampling:
        if results.sampling.prompts != first.sampling.prompts:
            yield "other prompts"
        if results.sampling.class_mix != first.sampling.class_mix:
            yield f"other class mix: {results.sampling.class_mix}"


def of_n(metric: Metric, base: Metric | None) -> Iterator[str]:
    if base and metric.name in OF_N and metric.n_generated != base.n_generated:
        yield f"N={metric.n_generated:,}, not {base.n_generated:,}: metrics that depend on N"
    elif base and metric.n_real != base.n_real:
        yield f"{metric.label}: compared with {metric.n_real:,} photos, not {base.n_real:,}"


def score(metric: Metric) -> float | None:
    """The lower, the better; None without a value."""
    if metric.value is None:
        return None
    if metric.better == "near real photos":
        photos = metric.real_photos and metric.real_photos.value
        return None if photos is None else abs(metric.value - photos)
    return metric.value if metric.better == "lower" else -metric.value


def error_of(metric: Metric) -> float | None:
    """Standard error of the mean over the sample sets; None where it is not known."""
    one = metric.std if metric.standard_error is None else metric.standard_error
    return None if one is None else one / math.sqrt(metric.repeats)


def standing(own: tuple[Results, Metric], best: tuple[Results, Metric]) -> Standing:
    """How a model stands to the best one."""
    error, error_of_best = error_of(own[1]), error_of(best[1])
    if error is None or error_of_best is None:
        return "no ± known"
    difference, sure = (score(own[1]) or 0.0) - (score(best[1]) or 0.0), SURE * math.hypot(error, error_of_best)
    if difference <= sure:
        return "not distinguishable"
    digests = {results.model.digest for results, _ in (own, best)}
    same_weights = len(digests) == 1 and None not in digests
    return "worse" if same_weights or difference > RETRAINING * sure else "within a retraining"


def settings_of(found: Sequence[Results]) -> Iterator[tuple[str, list[str]]]:
    """How every model's samples were made and measured."""
    yield "model", [results.model.name for results in found]
    yield "weights", [(results.model.digest or "unknown: a folder of images")[:27] for results in found]
    yield "samples", [f"N={results.metrics[0].n_generated:,}" for results in found]
    yield "sample sets", [str(results.metrics[0].repeats) for results in found]
    for label, name in (
        ("steps", "num_inference_steps"),
        ("scheduler", "scheduler"),
        ("guidance", "guidance_scale"),
        ("guidance rescale", "guidance_rescale"),
        ("guidance interval", "guidance_interval"),
        ("PAG scale", "pag_scale"),
        ("PAG layers", "pag_applied_layers"),
        ("first seed", "seed"),
        ("class mix", "class_mix"),
        ("prompts from", "prompts_from"),
        ("number type", "dtype"),
        ("pixels", "image_size"),
    ):
        yield label, [setting(getattr(results.sampling, name)) if results.sampling else "unknown" for results in found]
    yield "photos", [f"{results.metrics[0].n_real:,} of {results.data.name}" for results in found]
    yield "split", [results.data.reference for results in found]


def setting(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):  # an interval, or names
        return ", ".join(value) if isinstance(value[0], str) else " to ".join(f"{part:g}" for part in value)
    return str(value)
