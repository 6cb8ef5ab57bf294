"""Evaluations on the card: staged `results.json` files and plots, the rows of the tables, the Hub's `model-index`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from huggingface_hub import EvalResult

from ..evaluation.results import BASELINE, ClassResult, ExtractorInfo, Metric, Results
from ..evaluation.table import NOT_MEASURED, MetricRow
from ..markdown import one_line
from ..sampling import beyond_defaults
from .training_record import TrainingRecord

# Ids under which the Hub lists a metric: https://huggingface.co/metrics, and for the FID
# https://huggingface.co/tasks/text-to-image. Prompt accuracy is the accuracy of a probe. Other metrics have none.
HUB_METRICS = {"prompt_accuracy": "accuracy", "precision": "precision", "recall": "recall"}
FID_ON_HUB = "FID"

SAMPLE_GRIDS = ("samples.webp", "samples.png")  # files of the plot of samples: now, and by earlier versions

COPYING = {"nearer_than_held_out", "median_distance", "nearer_than_closest_percent", "authpct"}


@dataclass(frozen=True)
class Evaluation:
    """A `results.json`, and the plots beside it as {path in the repository: caption}."""

    results: Results
    plots: dict[str, str]

    @property
    def samples(self) -> str | None:
        """The path of the grid of samples."""
        return next((path for path in self.plots if PurePosixPath(path).name in SAMPLE_GRIDS), None)


@dataclass(frozen=True)
class Row(MetricRow):
    """A metric as cells of a table, beside the baseline's figure; None: does not apply."""

    baseline: str | None


def percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.0%}"


def table_rows(evaluations: Sequence[Evaluation]) -> list[Row]:
    """The rows of the results table: every metric, beside the baseline where that has such a number."""
    return [Row(metric, baseline(metric)) for evaluation in evaluations for metric in evaluation.results.metrics]


def baseline(metric: Metric) -> str | None:
    """The baseline's figure for a metric of the same definition."""
    if metric.name == "frechet_distance" and metric.extractor.is_inception:
        return f"{BASELINE.fid:g}"
    if metric.k == BASELINE.k and metric.name in ("precision", "recall"):
        return f"{BASELINE.precision if metric.name == 'precision' else BASELINE.recall:g}"
    return None


def notes(rows: Sequence[Row]) -> dict[str, list[str]]:
    """How to read the numbers: {note: labels of the metrics}."""
    noted: dict[str, list[str]] = {}
    for row in rows:
        if row.metric.note:
            labels = noted.setdefault(row.metric.note, [])
            if row.label not in labels:
                labels.append(row.label)
    return noted


def measures_fid(evaluations: Sequence[Evaluation]) -> bool:
    return any(
        metric.name == "frechet_distance" and metric.extractor.is_inception
        for evaluation in evaluations
        for metric in evaluation.results.metrics
    )


def measures_copying(evaluations: Sequence[Evaluation]) -> bool:
    """Whether any evaluation looked for copies of training photos."""
    return any(metric.name in COPYING for evaluation in evaluations for metric in evaluation.results.metrics)


def weak_classes(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[ClassResult]]]:
    """Classes that a probe recognises clearly less often in samples than in held-out photos, by extractor."""
    return [
        (evaluation.results.extractor.name, weak)
        for evaluation in evaluations
        if (weak := [result for result in evaluation.results.per_class or () if is_weak(result)])
    ]


def is_weak(result: ClassResult) -> bool:
    return result.accuracy_held_out is not None and result.accuracy < result.accuracy_held_out - 0.1


def trained_against(extractor: ExtractorInfo, record: TrainingRecord) -> list[str]:
    """Losses of the training over features of the network that also measures the model."""
    if "squeezenet" not in extractor.name.lower():
        return []
    arguments = [stage.arguments for stage in record.autoencoder_stages]
    used = {
        "LPIPS": any(found.get("perceptual_weight") for found in arguments),
        "a feature discriminator": any(
            found.get("discriminator") == "features" and found.get("discriminator_weight") for found in arguments
        ),
        "feature alignment": bool(record.arguments.get("alignment_weight")),
    }
    return [name for name, was_used in used.items() if was_used]


# --- metadata --------------------------------------------------------------------------------------------------------


def hub_metrics(evaluations: Sequence[Evaluation]) -> list[str] | None:
    """The ids that the Hub knows of the metrics measured."""
    names = {metric.name for evaluation in evaluations for metric in evaluation.results.metrics}
    ids = {HUB_METRICS[name] for name in names & set(HUB_METRICS)}
    if measures_fid(evaluations):
        ids.add(FID_ON_HUB)
    return sorted(ids) or None


def metric_type(metric: Metric) -> str:
    if metric.name == "frechet_distance" and metric.extractor.is_inception:
        return FID_ON_HUB
    return HUB_METRICS.get(metric.name, metric.name)


def metric_name(metric: Metric) -> str:
    """The label, and the extractor unless the label implies it."""
    if metric.extractor.name in metric.label or metric.label.split(",")[0] in ("FID", "KID"):
        return metric.label
    return f"{metric.label} ({metric.extractor.name})"


def eval_results(dataset: str | None, results: Results) -> Iterator[EvalResult]:
    """Every metric with a value for the `model-index`, each with all that belongs to the number.

    Args:
        dataset: its id on the Hub.
    """
    sampling = {}
    if results.sampling:
        names = ("num_inference_steps", "guidance_scale", "scheduler", "class_mix", "prompts_from", "dtype")
        sampling = {f"sampling_{name}": getattr(results.sampling, name) for name in names}
        others = beyond_defaults(results.sampling.settings())
        sampling |= {f"sampling_{name}": value for name, value in others.items()}
    for metric in results.metrics:
        if metric.value is None:
            continue
        photos = metric.real_photos
        yield EvalResult(
            task_type="text-to-image",
            task_name="Text-to-Image",
            dataset_type=dataset or "imagefolder",
            dataset_name=one_line(results.data.name),
            dataset_split=results.data.reference,
            metric_type=metric_type(metric),
            metric_name=metric_name(metric),
            metric_value=metric.value,
            metric_args={
                "k": metric.k,
                "n_generated": metric.n_generated,
                "n_real": metric.n_real,
                "seed": metric.seed,
                "repeats": metric.repeats,
                "std": metric.std,
                "extractor": metric.extractor.name,
                "extractor_weights_sha256": metric.extractor.weights_digest,
                "resize": metric.extractor.resize,
                "real_photos_score": photos and photos.value,
                "real_photos_n": photos and photos.n,
                **sampling,
            },
        )
