"""The schema of `results.json`: what an evaluation found, and all that is needed to read its numbers.

Dataclasses are the schema. `Results.write` and `read_results` are the only ways to and from the file; files of
earlier schema versions are converted when they are read. What could not be measured is None, with the reason in a
note; NaN and infinity, which are not JSON, are never written.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import InputError
from ..files import write_json
from ..sampling import Sampling, settings_of
from .earlier_results import from_version_1

SCHEMA_VERSION = 3

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
    reference_file: str | None = None  # SHA-256 of the file that the photos' statistics come from; None: from photos


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
    def is_clip(self) -> bool:
        """Whether it embeds images as a CLIP does, by its name: "clip", or an id or a folder such as clip-vit-base."""
        return re.search(r"\bclip\b", self.name, re.IGNORECASE) is not None

    @property
    def distance_name(self) -> str:
        """Name of its Frechet distance: only Inception's features give an FID."""
        return "FID" if self.is_inception else f"FD ({self.name})"

    @property
    def kernel_name(self) -> str:
        """Name of its kernel distance: only Inception's features give a KID."""
        return "KID" if self.is_inception else f"KD ({self.name})"

    @property
    def sliced_name(self) -> str:
        """Name of its sliced squared Wasserstein distance: only Inception's features give a MIND."""
        return "MIND" if self.is_inception else f"SW ({self.name})"


@dataclass(frozen=True)
class SamplingInfo:
    """How the samples were made."""

    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float  # 0 to 1
    guidance_interval: tuple[float, float]  # fractions of the steps
    seed: int  # sample i starts from the noise of seed + i
    class_mix: str  # "data" or "balanced"
    prompts: dict[str, str]  # {class: prompt}; empty for prompts from the data
    scheduler: str  # class name
    dtype: str
    image_size: int  # side, in pixels
    prompts_from: Literal["classes", "data"] = "classes"  # the class names, or captions of the reference photos
    distinct_prompts: int | None = None  # None: not recorded
    pag_scale: float = 0.0
    pag_applied_layers: tuple[str, ...] = Sampling.pag_applied_layers

    def settings(self) -> Sampling:
        """What `animal-ldm generate` needs for the same images."""
        return settings_of(self)


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

    `name` is one of frechet_distance, frechet_distance_infinity, kernel_distance, sliced_wasserstein, cmmd (with a
    CLIP's features only), precision, recall, density, coverage, vendi_score, prompt_accuracy, nearer_than_held_out,
    median_distance, nearer_than_closest_percent, authpct, clip_score (with a CLIP only), colour_accuracy,
    background_accuracy; or of
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
    # Of the first sample set's value, where known: over the choice of samples, of kernel_distance also of photos. It
    # says nothing of training the model again.
    standard_error: float | None = None

    @property
    def plus_minus(self) -> float | None:
        """What stands after ±: over several sample sets their standard deviation, else the standard error."""
        return self.standard_error if self.std is None else self.std


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
class ClassCoverage:
    """Share of a class's reference photos whose neighbourhood (k=5, among them alone) holds an image of the class."""

    value: float  # by samples
    held_out: float  # by held-out photos
    n: int  # of both


@dataclass(frozen=True)
class ClassResult:
    """How many samples of a class a linear probe assigns to it."""

    label: str
    n_generated: int
    accuracy: float  # 0 to 1
    accuracy_held_out: float | None  # of held-out photos; None where there are none of the class
    mistaken_for: str | None  # most frequent wrong class
    coverage: ClassCoverage | None = None  # None: not measured, or fewer photos than neighbours
    assigned: dict[str, int] | None = None  # {class: samples assigned to it}; None in earlier files


@dataclass(frozen=True)
class AttributeResult:
    """How many samples show a word that their prompt asks for, of those of which `attributes.measure` says any.

    Held-out photos are measured in the same way, without boxes: those that have a caption with the word.
    """

    kind: Literal["colour", "background"]  # of the animal, of its surroundings; others need boxes
    word: str
    n_asked: int  # samples whose prompt asks for the word
    n_told: int  # those of them of which the measure says a word of this kind
    share: float | None  # of `n_told`, those that show the word; None where there are none
    # Samples of the same classes whose prompts ask for no word of this kind, of which the measure says any, and the
    # share of the word there: what the classes alone give.
    n_unasked: int
    share_unasked: float | None
    n_photos_asked: int  # the same of held-out photos
    n_photos_told: int
    share_photos: float | None


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
    probe_accuracy: float | None  # share of reconstructions that a linear probe classifies correctly; None: one class
    probe_accuracy_photos: float | None  # the same of the photos themselves
    seed: int  # of the kernel distance's subsets
    note: str | None  # how to read the distances


@dataclass(frozen=True)
class Measurement:
    """What one extractor found. Its fields are those of `Results`."""

    extractor: ExtractorInfo
    metrics: list[Metric]
    fd_curves: FrechetCurves
    per_class: list[ClassResult] | None
    sweep: Sweep | None
    autoencoder: AutoencoderResult | None


@dataclass(frozen=True)
class Results:
    """The content of `results.json`: what the first extractor found, then the others in `more`."""

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
    per_attribute: list[AttributeResult] | None = None  # None without prompts that ask for a colour or background
    schema_version: int = SCHEMA_VERSION
    more: list[Measurement] = field(default_factory=list)  # by further extractors, of the same samples and photos

    def each(self) -> list["Results"]:
        """Results of one extractor each, in order."""
        others = ({part.name: getattr(found, part.name) for part in fields(found)} for found in self.more)
        return [replace(self, more=[]), *(replace(self, more=[], **found) for found in others)]

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
                features than Inception's is called FID, KID or MIND.
        """
        for metric in (metric for results in self.each() for metric in results.metrics):
            if metric.value is None and not metric.note:
                raise InputError(
                    f"results.json lists {metric.label}, but neither its value nor a note that says why it was not"
                    " measured. Evaluate the model again."
                )
            parts = (metric, metric.real_photos, metric.same_n)
            values = [part.value for part in parts if part and part.value is not None]
            if not all(map(math.isfinite, values)):
                raise InputError(f"results.json lists {metric.label}, but its value is not a finite number: {values}.")
            if not metric.extractor.is_inception and re.search(r"\b([FK]ID|MIND)\b", metric.label):
                raise InputError(
                    f"results.json calls a distance over features of {metric.extractor.name} {metric.label}; only"
                    " Inception's features give an FID, a KID or a MIND. Evaluate the model again."
                )


def folder_name(extractor: str) -> str:
    """An extractor's name as the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", extractor).strip(".") or "extractor"


def plots_folder(out: Path, results: Results, own: Results) -> Path:
    """Where the plots of `own`, one of `results.each()`, lie in the folder of an evaluation."""
    return out if own.extractor == results.extractor else out / folder_name(own.extractor.name)


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
    if version not in (1, 2, SCHEMA_VERSION):
        raise InputError(
            f"{path} has schema version {version}; expected 1 to {SCHEMA_VERSION}. Evaluate the model again with this"
            " version of animal-ldm, or update animal-ldm."
        )
    try:
        content = from_version_1(content) if version == 1 else content
        return parse(Results, content | {"schema_version": SCHEMA_VERSION})
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
        present = [part.name for part in fields(kind) if part.name in value]
        constructor: Any = kind
        return constructor(**{name: parse(hints[name], value[name]) for name in present})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else parse(next(part for part in arguments if part is not type(None)), value)
    if origin is list:
        return [parse(arguments[0], part) for part in value]
    if origin is tuple:
        kinds = (arguments[0] for _ in value) if arguments[-1] is Ellipsis else arguments
        return tuple(parse(part_kind, part) for part_kind, part in zip(kinds, value, strict=True))
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
