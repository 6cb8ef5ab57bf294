"""Results as tables of plain text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..sampling import describe_guidance
from .results import BASELINE, AttributeResult, AutoencoderResult, ClassResult, Metric, Results, Sweep

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
        return number(self.metric.value, self.metric.plus_minus)

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


PROMPTS = {"classes": "class names", "data": "captions of the photos"}
HOW_TO_READ_WORDS = (
    "silent: images of which the measure says no colour or no background at all; the shares are of the others. "
    "Unasked: the share in samples of the same classes whose prompts ask for none. Photos: held-out ones whose "
    "captions have the word, measured in the same way, without boxes. Framing and number are not measured: their "
    "measure needs boxes. Captions of `prepare --describe` state what this measure found, so their photos score high."
)

# The same metric over the features of different extractors.
ACROSS_EXTRACTORS = {
    "frechet_distance": "Frechet distance",
    "frechet_distance_ratio": "Frechet distance / real photos'",
    "frechet_distance_infinity": "Frechet distance, N→∞",
    "kernel_distance": "kernel distance",
    "sliced_wasserstein": "sliced Wasserstein",
    "cmmd": "CMMD",
}


def table(results: Results) -> str:
    """`results` for a person to read."""
    if results.more:
        return table_of_extractors(results)
    first = results.metrics[0]
    lines = [
        f"{results.model.name} against {first.n_real:,} photos of {results.data.name} ({results.data.reference})",
        f"features: {results.extractor.name}, weights {results.extractor.weights_digest[:12]}, "
        f"{results.extractor.resize}",
        sampling_line(results),
        *size_warning(results),
        "",
        *align(metric_rows(results.metrics)),
        f"  {plus_minus_line(results)}",
        *(f"  {metric.label}: {metric.note}" for metric in results.metrics if metric.note),
    ]
    for part in own_tables(results):
        lines += ["", *part]
    return "\n".join(lines)


def own_tables(results: Results) -> Iterator[list[str]]:
    """Lines of the smaller tables: classes, the sweep, the autoencoder."""
    if results.per_class:
        yield align([*class_rows(results.per_class)])
    if results.per_attribute:
        yield [*align([*attribute_rows(results.per_attribute)]), f"  {HOW_TO_READ_WORDS}"]
    if results.sweep:
        yield align(sweep_rows(results.sweep))
    if results.autoencoder:
        yield align(autoencoder_rows(results.autoencoder, results))


def table_of_extractors(results: Results) -> str:
    """`results` of several extractors: one table with a column each."""
    each, first, rows = results.each(), results.metrics[0], rows_across(results)
    lines = [
        f"{results.model.name} against {first.n_real:,} photos of {results.data.name} ({results.data.reference})",
        *(
            f"{own.extractor.name}: weights {own.extractor.weights_digest[:12]}, {own.extractor.resize}"
            for own in each
        ),
        sampling_line(results),
        *size_warning(results),
        across_line(results),
        "",
        *align(rows),
        *(["  the three distances of inception are FID, KID and MIND"] if "inception" in rows[0] else []),
        f"  {plus_minus_line(results)}",
    ]
    for own in each:
        name = own.extractor.name
        lines += [f"  {name}, {metric.label}: {metric.note}" for metric in own.metrics if metric.note]
        for part in own_tables(own):
            lines += ["", f"{name}:", *part]
    return "\n".join(lines)


def rows_across(results: Results) -> list[tuple[str, ...]]:
    """A column for each extractor."""
    each = results.each()
    known = {(metric.name, metric.k): metric for own in reversed(each) for metric in own.metrics}
    order = sorted(known, key=lambda key: max(_place(own, key) for own in each))
    rows = [("", *(own.extractor.name for own in each), "better")]
    for name, k in order:
        cells = (across_cell(own.find(name, k)) for own in each)
        metric = known[name, k]
        rows.append((ACROSS_EXTRACTORS.get(name, metric.label), *cells, metric.better))
    return rows


def across_line(results: Results) -> str:
    """What the numbers in `rows_across` are of."""
    first = results.metrics[0]
    n, n_equal = first.n_generated, first.real_photos.n if first.real_photos else 0
    fewer = "" if n == n_equal else f"the score of {n_equal:,} of them, then "
    return f"N={n:,} samples; in brackets {fewer}that of {n_equal:,} real photos in their place"


def _place(results: Results, key: tuple[str, int | None]) -> int:
    """Position of a metric in the list, -1 where it is not."""
    return next((i for i, metric in enumerate(results.metrics) if (metric.name, metric.k) == key), -1)


def across_cell(metric: Metric | None) -> str:
    """A metric's value, in brackets that at the number of real photos and the photos' own; empty without a metric."""
    if metric is None:
        return ""
    brackets = [number(metric.same_n.value)] if metric.same_n and metric.same_n.n != metric.n_generated else []
    if metric.real_photos:
        brackets.append(number(metric.real_photos.value))
    return number(metric.value, metric.plus_minus) + (f" ({', '.join(brackets)})" if brackets else "")


def plus_minus_line(results: Results) -> str:
    """What ± covers, in a sentence."""
    repeats = results.metrics[0].repeats
    over = f"± is the standard deviation over {repeats} sample sets"
    if repeats == 1:
        over = "± is the standard error over the choice of samples"
    return (
        f"{over}, not over trainings: training again with another seed moved a Frechet distance 3.2 times as much as "
        "sampling again (arXiv 2606.20536)"
    )


def sampling_line(results: Results) -> str:
    """How the samples were made, in a sentence's length."""
    sampling, repeats = results.sampling, results.metrics[0].repeats
    if not sampling:
        return "samples: a folder of images"
    guidance = describe_guidance(sampling.settings())
    return (
        f"samples: {sampling.num_inference_steps} steps of {sampling.scheduler}, {guidance}, seed {sampling.seed}, "
        f"class mix {sampling.class_mix}, prompts: {PROMPTS[sampling.prompts_from]}, "
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
        value, of_all, real = number(metric.value, metric.plus_minus), metric.n_generated == n, metric.real_photos
        same_n = "" if of_all else value
        if metric.same_n:
            same_n = number(metric.same_n.value, metric.same_n.std)
        photos = number(real.value) + ("" if real.n == n_equal else f" (N={real.n:,})") if real else ""
        rows.append((metric.label, value if of_all else "", same_n, photos, metric.better))
    return rows if n_equal < n else [row[:2] + row[3:] for row in rows]


def class_rows(classes: Sequence[ClassResult]) -> Iterator[tuple[str, ...]]:
    covered = any(found.coverage for found in classes)
    coverage = ("coverage at equal N", "held-out photos", "N") if covered else ()
    yield "class", "samples", "prompt accuracy", "held-out photos", *coverage, "most often mistaken for"
    for found in classes:
        held_out = "" if found.accuracy_held_out is None else f"{found.accuracy_held_out:.0%}"
        if covered:
            own = found.coverage
            coverage = (f"{own.value:.0%}", f"{own.held_out:.0%}", f"{own.n:,}") if own else ("", "", "")
        share = f"{found.accuracy:.0%}"
        yield found.label, f"{found.n_generated:,}", share, held_out, *coverage, found.mistaken_for or ""


def attribute_rows(words: Sequence[AttributeResult]) -> Iterator[tuple[str, ...]]:
    yield "asked for", "samples", "silent", "shown", "unasked", "photos", "silent", "shown"
    for found in words:
        yield (
            f"{found.kind} {found.word}",
            f"{found.n_asked:,}",
            share(found.n_asked - found.n_told, found.n_asked),
            percent(found.share),
            f"{percent(found.share_unasked)} of {found.n_unasked:,}" if found.n_unasked else "",
            f"{found.n_photos_asked:,}",
            share(found.n_photos_asked - found.n_photos_told, found.n_photos_asked),
            percent(found.share_photos),
        )


def share(part: int, whole: int) -> str:
    return percent(part / whole if whole else None)


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


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
    return f"{value:.4g}" + (f" ± {float(f'{std:.2g}'):g}" if std is not None else "")


def align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines of columns: the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
