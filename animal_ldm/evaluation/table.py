"""Results as tables of plain text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .results import BASELINE, AutoencoderResult, ClassResult, Metric, Results, Sweep

NOT_MEASURED = "not measured"
ARROWS = {"lower": "↓", "higher": "↑", "near real photos": "≈"}
HEADLINES = {
    ("frechet_distance", None),
    ("precision", BASELINE.k),
    ("recall", BASELINE.k),
    ("prompt_accuracy", None),
}


@dataclass(frozen=True)
class MetricRow:
    """A metric as cells of a table; None: does not apply."""

    metric: Metric

    @property
    def label(self) -> str:
        return self.metric.label

    @property
    def arrow(self) -> str:
        return ARROWS[self.metric.better]

    @property
    def value(self) -> str:
        return number(self.metric.value, self.metric.std)

    @property
    def same_n(self) -> str | None:
        found = self.metric.same_n
        return number(found.value, found.std) if found else None

    @property
    def photos_value(self) -> str:
        found = self.metric.real_photos
        return number(found.value) if found else NOT_MEASURED

    @property
    def photos(self) -> str:
        found = self.metric.real_photos
        return f"{number(found.value)} (N={found.n:,})" if found else NOT_MEASURED

    @property
    def n(self) -> str:
        return f"{self.metric.n_generated:,} / {self.metric.n_real:,}"

    @property
    def headline(self) -> bool:
        return (self.metric.name, self.metric.k) in HEADLINES


def table(results: Results) -> str:
    """`results` for a person to read."""
    first = results.metrics[0]
    lines = [
        f"{results.model.name} against {first.n_real:,} photos of {results.data.name} ({results.data.reference})",
        f"features: {results.extractor.name}, weights {results.extractor.weights_digest[:12]}, "
        f"{results.extractor.resize}",
        sampling_line(results),
        *size_warning(results),
        "",
        *align(metric_rows(results.metrics)),
        *(f"  {metric.label}: {metric.note}" for metric in results.metrics if metric.note),
    ]
    if results.per_class:
        lines += ["", *align([*class_rows(results.per_class)])]
    if results.sweep:
        lines += ["", *align(sweep_rows(results.sweep))]
    if results.autoencoder:
        lines += ["", *align(autoencoder_rows(results.autoencoder, results))]
    return "\n".join(lines)


def sampling_line(results: Results) -> str:
    """How the samples were made, in a sentence's length."""
    sampling, repeats = results.sampling, results.metrics[0].repeats
    if not sampling:
        return "samples: a folder of images"
    return (
        f"samples: {sampling.num_inference_steps} steps of {sampling.scheduler}, guidance "
        f"{sampling.guidance_scale:g}, seed {sampling.seed}, class mix {sampling.class_mix}, "
        + ("1 sample set" if repeats == 1 else f"{repeats} sample sets, mean ± standard deviation")
    )


def size_warning(results: Results) -> list[str]:
    sampling, photos = results.sampling, results.data.image_size
    if not sampling or sampling.image_size == photos:
        return []
    return [f"samples are {sampling.image_size} px and photos {photos} px wide: this alone adds to every distance"]


def metric_rows(metrics: Sequence[Metric]) -> list[tuple[str, ...]]:
    """Label, score of all samples, of as many as there are photos of the other split, of those photos."""
    n, n_equal = metrics[0].n_generated, metrics[0].real_photos.n if metrics[0].real_photos else 0
    rows = [("", f"N={n:,}", f"N={n_equal:,}", f"real, N={n_equal:,}", "better")]
    for metric in metrics:
        value, of_all, real = number(metric.value, metric.std), metric.n_generated == n, metric.real_photos
        same_n = "" if of_all else value
        if metric.same_n:
            same_n = number(metric.same_n.value, metric.same_n.std)
        photos = number(real.value) + ("" if real.n == n_equal else f" (N={real.n:,})") if real else ""
        rows.append((metric.label, value if of_all else "", same_n, photos, metric.better))
    return rows if n_equal < n else [row[:2] + row[3:] for row in rows]


def class_rows(classes: Sequence[ClassResult]) -> Iterator[tuple[str, ...]]:
    yield "class", "samples", "prompt accuracy", "held-out photos", "most often mistaken for"
    for found in classes:
        held_out = "" if found.accuracy_held_out is None else f"{found.accuracy_held_out:.0%}"
        yield found.label, f"{found.n_generated:,}", f"{found.accuracy:.0%}", held_out, found.mistaken_for or ""


def sweep_rows(sweep: Sweep) -> list[tuple[str, ...]]:
    rows = [(sweep.parameter, *(f"{point.value:g}" for point in sweep.points))]
    for i, first in enumerate(sweep.points[0].metrics):
        metrics = [point.metrics[i] for point in sweep.points]
        rows.append((first.label, *(number(metric.value, metric.std) for metric in metrics)))
    return rows


def autoencoder_rows(found: AutoencoderResult, results: Results) -> list[tuple[str, ...]]:
    lpips = number(found.lpips)
    if found.lpips is None:
        lpips += ": pass --squeezenet_weights FILE"
    distance = number(found.frechet_distance) + (f" ({found.note})" if found.note else "")
    return [
        ("autoencoder", f"reconstructions of held-out photos, N={found.n:,}", f"the photos, N={found.n:,}"),
        ("PSNR, dB", number(found.psnr), ""),
        ("LPIPS (squeezenet)", lpips, ""),
        (f"{results.extractor.distance_name} to the photos", distance, ""),
        (f"{results.extractor.kernel_name} to the photos", number(found.kernel_distance), ""),
        ("probe accuracy", number(found.probe_accuracy), number(found.probe_accuracy_photos)),
    ]


def number(value: float | None, std: float | None = None) -> str:
    """Four significant digits, and ± two of the standard deviation where there is one."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.4g}" + (f" ± {std:.2g}" if std is not None else "")


def align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines of columns: the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
