"""The schema of `results.json`: what an evaluation found, and all that is needed to read its numbers.

Dataclasses are the schema. `Results.write` and `read_results` are the only ways to and from the file; files of
earlier schema versions are converted when they are read. What could not be measured is None, with the reason in a
note; NaN and infinity, which are not JSON, are never written.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import InputError
from ..files import write_json
from ..sampling import Sampling

SCHEMA_VERSION = 2

Better = Literal["higher", "lower", "near real photos"]


@dataclass(frozen=True)
class Baseline:
    """Figures of the student model card this project goes back to. It states neither extractor nor N."""

    fid: float
    precision: float
    recall: float
    k: int  # of precision and recall


BASELINE = Baseline(fid=172.5, precision=0.55, recall=0.225, k=10)


@dataclass(frozen=True)
class ModelInfo:
    """What was measured."""

    name: str  # last part of its folder's or repository's name
    digest: str | None  # SHA-256 over weights and scheduler; None for a folder of images


@dataclass(frozen=True)
class DataInfo:
    """The real photos."""

    name: str
    reference: str  # the split that samples are compared with, "train" or "validation"
    held_out: str  # the other split
    photos: dict[str, int]  # {split: number of photos}
    digests: dict[str, str]  # {split: SHA-256 over the photos}
    classes: dict[str, int]  # {class: photos in the reference split}, most common first
    image_size: int  # side, in pixels


@dataclass(frozen=True)
class ExtractorInfo:
    """The feature extractor: no number means anything without it."""

    name: str
    weights_digest: str  # SHA-256
    resize: str  # resize rule, in words

    @property
    def is_inception(self) -> bool:
        return self.name == "inception"

    @property
    def distance_name(self) -> str:
        """Name of its Frechet distance: only Inception's features give an FID."""
        return "FID" if self.is_inception else f"FD ({self.name})"

    @property
    def kernel_name(self) -> str:
        """Name of its kernel distance: only Inception's features give a KID."""
        return "KID" if self.is_inception else f"KD ({self.name})"


@dataclass(frozen=True)
class SamplingInfo:
    """How the samples were made."""

    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float  # 0 to 1
    guidance_interval: tuple[float, float]  # fractions of the steps
    seed: int  # sample i starts from the noise of seed + i
    class_mix: str  # "data" or "balanced"
    prompts: dict[str, str]  # {class: prompt}
    scheduler: str  # class name
    dtype: str
    image_size: int  # side, in pixels


@dataclass(frozen=True)
class RealPhotos:
    """The score of real photos of the other split, in place of samples: floor of a distance, ceiling of the rest."""

    n: int
    value: float | None  # None: not measured


@dataclass(frozen=True)
class SameN:
    """The score of the samples, no more of them than there are of those photos."""

    n: int
    value: float | None  # None: not measured
    std: float | None


@dataclass(frozen=True)
class Subsets:
    """Random subsets that a kernel distance was averaged over."""

    number: int
    size: int
    std: float  # over the subsets of one sample set


@dataclass(frozen=True)
class Metric:
    """One number, complete in itself: it cannot be separated from its context.

    `name` is one of frechet_distance, frechet_distance_infinity, kernel_distance, precision, recall, density,
    coverage, prompt_accuracy, nearer_than_held_out, median_distance, nearer_than_closest_percent, authpct; or of
    frechet_distance_ratio, precision_ratio, recall_ratio: the samples' score over that of real photos at the N that
    both have (`n_generated` states it; absent where the photos score 0).
    """

    name: str
    label: str  # for tables; "FID" and "KID" with Inception's features only
    value: float | None  # mean over the sample sets; None: not measured, `note` says why
    std: float | None  # standard deviation over the sample sets; None for a single one
    better: Better
    repeats: int  # number of sample sets
    n_generated: int  # samples in each set
    n_real: int  # photos compared with
    k: int | None  # neighbours
    seed: int
    extractor: ExtractorInfo
    sampling: Sampling | None  # None for a folder of images
    real_photos: RealPhotos | None = None
    same_n: SameN | None = None
    note: str | None = None  # how to read the number
    subsets: Subsets | None = None  # of kernel_distance only
    standard_error: float | None = None  # of the first sample set's value, where the method gives one


@dataclass(frozen=True)
class Curve:
    """Frechet distance against the number N of samples, and its extrapolation to infinitely many.

    The fit is value + slope / N + curvature / N^2, in version 1 a straight line over 1 / N.
    """

    value: float | None  # extrapolated; None: not measured, `note` says why
    slope: float | None
    sizes: list[int]
    distances: list[float]  # at `sizes`
    curvature: float | None = None  # None for a straight line
    standard_error: float | None = None  # of `value`
    note: str | None = None


@dataclass(frozen=True)
class FrechetCurves:
    samples: Curve  # first sample set
    real_photos: Curve  # photos of the other split in place of samples


@dataclass(frozen=True)
class ClassResult:
    """How many samples of a class a linear probe assigns to it."""

    label: str
    n_generated: int
    accuracy: float  # 0 to 1
    accuracy_held_out: float | None  # of held-out photos; None where there are none of the class
    mistaken_for: str | None  # most frequent wrong class
    assigned: dict[str, int] | None = None  # {class: samples assigned to it}; None in earlier files


@dataclass(frozen=True)
class SweepPoint:
    value: float
    metrics: list[Metric]


@dataclass(frozen=True)
class Sweep:
    """Metrics along the values of one sampling parameter."""

    parameter: str
    points: list[SweepPoint]


@dataclass(frozen=True)
class AutoencoderResult:
    """The autoencoder alone, on photos that no part of the model was trained on."""

    n: int  # photos, for all figures below
    psnr: float  # dB, mean over photos
    lpips: float | None  # with SqueezeNet, mean over photos; None: not measured
    frechet_distance: float  # between the photos and their reconstructions
    kernel_distance: float
    probe_accuracy: float  # share of reconstructions that a linear probe classifies correctly
    probe_accuracy_photos: float  # the same of the photos themselves
    seed: int  # of the kernel distance's subsets
    note: str | None  # how to read the distances


@dataclass(frozen=True)
class Results:
    """The content of `results.json`."""

    model: ModelInfo
    data: DataInfo
    extractor: ExtractorInfo
    sampling: SamplingInfo | None  # None for a folder of images
    metrics: list[Metric]
    fd_curves: FrechetCurves
    per_class: list[ClassResult] | None  # None without classes
    sweep: Sweep | None
    autoencoder: AutoencoderResult | None
    versions: dict[str, str]  # of Python and the libraries
    schema_version: int = SCHEMA_VERSION

    def find(self, name: str, k: int | None = None) -> Metric | None:
        """The metric of that name and k, None where it was not measured."""
        return next((metric for metric in self.metrics if (metric.name, metric.k) == (name, k)), None)

    def write(self, path: str | Path) -> None:
        """Write `results.json`, whole or not at all.

        Raises:
            ValueError: a number is NaN or infinite, which JSON cannot hold.
        """
        write_json(path, asdict(self))

    def check(self) -> None:
        """Refuse results that could mislead.

        Raises:
            InputError: a value is missing without a note that says why, or not finite, or a distance over other
                features than Inception's is called FID or KID.
        """
        for metric in self.metrics:
            if metric.value is None and not metric.note:
                raise InputError(
                    f"results.json lists {metric.label}, but neither its value nor a note that says why it was not"
                    " measured. Evaluate the model again."
                )
            parts = (metric, metric.real_photos, metric.same_n)
            values = [part.value for part in parts if part and part.value is not None]
            if not all(map(math.isfinite, values)):
                raise InputError(f"results.json lists {metric.label}, but its value is not a finite number: {values}.")
            if not metric.extractor.is_inception and re.search(r"\b[FK]ID\b", metric.label):
                raise InputError(
                    f"results.json calls a distance over features of {metric.extractor.name} {metric.label}; only"
                    " Inception's features give an FID or a KID. Evaluate the model again."
                )


def read_results(path: str | Path) -> Results:
    """Read a `results.json` of this or an earlier schema version.

    Raises:
        InputError: the file is missing, is not JSON, has an unknown version or lacks a field.
    """
    path = Path(path)
    try:
        # Files of version 1 may hold NaN and infinity: nothing was measured there.
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
        version = content["schema_version"]
    except FileNotFoundError as error:
        raise InputError(f"{path} not found; expected a folder that `animal-ldm evaluate` wrote.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a results.json of `animal-ldm evaluate`; evaluate the model again."
        ) from error
    if version not in (1, SCHEMA_VERSION):
        raise InputError(
            f"{path} has schema version {version}; expected 1 to {SCHEMA_VERSION}. Evaluate the model again with this"
            " version of animal-ldm, or update animal-ldm."
        )
    try:
        return parse(Results, from_version_1(content) if version == 1 else content)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not follow the schema of results.json: {error}. Evaluate again.") from error


def parse(kind: Any, value: Any) -> Any:
    """JSON values as the dataclass (list, dict, optional, …) `kind`.

    Raises:
        KeyError: a field without a default is missing.
        TypeError, ValueError: a value has the wrong type or is not one of those allowed.
    """
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        present = [field.name for field in fields(kind) if field.name in value]
        constructor: Any = kind
        return constructor(**{name: parse(hints[name], value[name]) for name in present})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else parse(next(part for part in arguments if part is not type(None)), value)
    if origin is list:
        return [parse(arguments[0], part) for part in value]
    if origin is tuple:
        return tuple(parse(part_kind, part) for part_kind, part in zip(arguments, value, strict=True))
    if origin is dict:
        return {name: parse(arguments[1], part) for name, part in value.items()}
    if hasattr(kind, "__metadata__"):  # Annotated
        return parse(kind.__origin__, value)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"expected one of {', '.join(map(repr, arguments))}, found {value!r}")
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value


# --- earlier versions ------------------------------------------------------------------------------------------------


STRAIGHT_LINE = (
    "not measured: an earlier version fitted a straight line over 1/N even below the features' dimension, where "
    "the distance is not linear; evaluate again"
)
NO_STANDARD_ERROR = "no standard error: measured by an earlier version, whose spread over overlapping subsets is none"
# {metric: its note in version 1, where it is worded differently today}
NOTES = {
    "precision": "above real photos: the large balls of outlying photos also cover samples that resemble no photo; "
    "read recall and density",
    "faithfulness": "share of samples that a linear probe, fitted to training photos, assigns to the class of the "
    "prompt",
}


def from_version_1(content: dict) -> dict:
    """Version 1 had other names for the probe's accuracy, and an extrapolation that does not hold."""
    curve = {key: content["fd_curve"][key] for key in ("sizes", "distances")}
    photos = {key: content["fd_curve"]["real_photos"][key] for key in ("sizes", "distances")}
    unknown = {"value": None, "slope": None, "note": STRAIGHT_LINE}
    autoencoder = content["autoencoder"]
    return content | {
        "schema_version": SCHEMA_VERSION,
        "metrics": list(metrics_from_version_1(content["metrics"])),
        "fd_curves": {"samples": curve | unknown, "real_photos": photos | unknown},
        "per_class": content["per_class"]
        and [
            {
                "label": found["label"],
                "n_generated": found["n_generated"],
                "accuracy": found["recognised"],
                "accuracy_held_out": found["recognised_held_out"],
                "mistaken_for": found["mistaken_for"],
            }
            for found in content["per_class"]
        ],
        "sweep": content["sweep"]
        and {
            "parameter": content["sweep"]["parameter"],
            "points": [
                {"value": point["value"], "metrics": list(metrics_from_version_1(point["metrics"]))}
                for point in content["sweep"]["points"]
            ],
        },
        "autoencoder": autoencoder
        and autoencoder
        | {
            "lpips": autoencoder.get("lpips"),
            "probe_accuracy": autoencoder["recognised"],
            "probe_accuracy_photos": autoencoder["recognised_photos"],
        },
        "versions": content["environment"],
    }


def metrics_from_version_1(metrics: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for metric in metrics:
        metric = {**metric, "note": metric["note"] and NOTES.get(metric["name"], metric["note"])}
        if metric["name"] == "faithfulness":
            metric |= {"name": "prompt_accuracy", "label": "prompt accuracy"}
        if metric["name"] == "frechet_distance_infinity":
            photos, same_n = metric["real_photos"], metric["same_n"]
            metric |= {"value": None, "std": None, "note": STRAIGHT_LINE}
            metric |= {"real_photos": photos | {"value": None}, "same_n": same_n | {"value": None, "std": None}}
        if metric["name"] == "kernel_distance":
            metric |= {"note": NO_STANDARD_ERROR}
        yield metric
