"""Metrics of sample sets against real photos, as parts of `Results`."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ..sampling import Sampling
from .features import FeatureSet
from .kernel_distance import KernelDistance, kernel_distance
from .memorisation import Memorisation, memorisation
from .metrics import Extrapolation, fd_infinity, fit_gaussian, frechet_distance_of_gaussians, neighbourhoods
from .newer_metrics import PROJECTIONS, class_coverage, cmmd, rows_of, sliced_wasserstein, vendi_score
from .probe import accuracy
from .reference import KS, Reference
from .resampling import jackknife
from .results import (
    Better,
    ClassResult,
    Curve,
    FrechetCurves,
    Metric,
    RealPhotos,
    SameN,
    Subsets,
)

K_STUDENT, K_PAPER = 10, 3  # of precision and recall: the student card's, and Kynkaanniemi's
K_COVERAGE = 5  # Naeem's
INCEPTION_MINIMUM = 2048
ABOVE_CEILING = (
    "above real photos: the large balls of outlying photos also cover samples that resemble no photo; read recall and "
    "density"
)
OTHER_CLIP = (
    "published values are of CLIP ViT-L/14 at 336 px (openai/clip-vit-large-patch14-336), not comparable with those "
    "of another CLIP"
)
VENDI = "how many distinct images, by cosine similarity; it grows with N, and noise scores high"
NOT_FINITE = "not measured: the score it is divided by is 0"
PART_OF_TRAINING = "not measured: the reference file holds a part of the training photos; copies of others stay hidden"
ONE_CLASS = "not measured: the photos are of one class, so there is nothing to tell apart"


@dataclass(frozen=True)
class Report:
    """What `measure` finds, as parts of `Results`."""

    metrics: list[Metric]
    fd_curves: FrechetCurves
    per_class: list[ClassResult] | None  # None without classes


def measure(
    reference: Reference,
    sample_sets: Sequence[FeatureSet],
    seed: int,
    sampling: Sampling | None = None,
    errors: bool = True,
) -> Report:
    """All metrics of sample sets of equal size.

    Args:
        seed: of the random subsets of samples and photos.
        sampling: settings the samples were made with, for the record; None for a folder of images.
        errors: also the standard errors that need most metrics measured ten times more.
    """
    compared = compare_all(reference, sample_sets, seed, errors)
    context = _Context(reference, sample_sets, seed, sampling, compared)
    metrics = [*distance_metrics(context), *neighbour_metrics(context)]
    if sample_sets[0].labels:
        metrics.append(prompt_accuracy(context))
    metrics += memorisation_metrics(context)
    samples, photos = (Curve(**asdict(found.curve)) for found in (compared.whole[0], compared.photos))
    curves = FrechetCurves(samples, photos)
    return Report(metrics, curves, per_class(reference, sample_sets))


# --- comparisons -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Samples, or photos in their place, against the reference as distributions."""

    values: Mapping[tuple[str, int | None], float | None]  # {(name, k): value}
    errors: Mapping[tuple[str, int | None], float | None]  # standard errors of `values`, where they are known
    curve: Extrapolation
    kernel: KernelDistance


@dataclass(frozen=True)
class Comparisons:
    """Every sample set, whole and cut to the number of photos of the other split, and those photos."""

    whole: list[Comparison]
    fewer: list[Comparison]
    photos: Comparison
    equal_n: int  # samples in each of `fewer`, and photos in `photos`


def compare_all(reference: Reference, sample_sets: Sequence[FeatureSet], seed: int, errors: bool) -> Comparisons:
    n = len(sample_sets[0])
    chosen = np.random.default_rng(seed).permutation(len(reference.other))[:n]
    equal_n = len(chosen)
    photos = compare(reference, reference.other.features[torch.from_numpy(chosen)], seed)
    whole = [compare(reference, samples.features, seed) for samples in sample_sets]
    if errors:
        found = jackknife(sample_sets[0].features, lambda features: neighbour_values(reference, features), seed)
        whole[0] = replace(whole[0], errors={**whole[0].errors, **found})
    fewer = whole
    if equal_n < n:
        fewer = [compare(reference, samples.features[:equal_n], seed) for samples in sample_sets]
    return Comparisons(whole, fewer, photos, equal_n)


def compare(reference: Reference, features: torch.Tensor, seed: int) -> Comparison:
    real = reference.photos.features
    kernel = kernel_distance(real, features, seed=seed)
    curve = fd_infinity(reference.gaussian, features, seed=seed)
    estimates = {"sliced_wasserstein": sliced_wasserstein(real, features), "vendi_score": vendi_score(features)}
    if reference.extractor.is_clip:
        estimates["cmmd"] = cmmd(real, features)
    values = {
        **neighbour_values(reference, features),
        ("frechet_distance_infinity", None): curve.value,
        ("kernel_distance", None): kernel.mean,
        **{(name, None): found.value for name, found in estimates.items()},
    }
    errors: dict[tuple[str, int | None], float | None] = {
        ("frechet_distance_infinity", None): curve.standard_error,
        ("kernel_distance", None): kernel.standard_error,
        **{(name, None): found.standard_error for name, found in estimates.items()},
    }
    return Comparison(values, errors, curve, kernel)


def neighbour_values(reference: Reference, features: torch.Tensor) -> dict[tuple[str, int | None], float | None]:
    """The metrics without a standard error of their own: the Frechet distance and those of neighbourhoods."""
    distance = frechet_distance_of_gaussians(reference.gaussian, fit_gaussian(features))
    values: dict[tuple[str, int | None], float | None] = {("frechet_distance", None): distance}
    real, radii = reference.photos.features, reference.radii[:, 1:]
    for near in neighbourhoods(real, features, KS, radii, state=reference.state):
        values |= {(name, near.k): value for name, value in asdict(near).items() if name != "k"}
    return values


# --- metrics ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Context:
    """What the metrics of one measurement have in common."""

    reference: Reference
    sample_sets: Sequence[FeatureSet]
    seed: int
    sampling: Sampling | None
    compared: Comparisons

    def metric(self, name: str, label: str, better: Better, values: Sequence[float | None], **more: Any) -> Metric:
        """A record of `values`, one per sample set; `more` are fields of `Metric`.

        If a value is missing, `reason` takes the place of the note.
        """
        reason = more.pop("reason", NOT_FINITE)
        value, std = mean_and_std(values)
        # No error of 0: it only says that all of these samples did the same, as for a share of 0 or 1.
        more["standard_error"] = more.get("standard_error") or None
        common = {
            "repeats": len(self.sample_sets),
            "n_generated": len(self.sample_sets[0]),
            "n_real": len(self.reference.photos),
            "k": None,
            "seed": self.seed,
            "extractor": self.reference.extractor,
            "sampling": self.sampling,
        }
        if value is None:
            more["note"] = reason
        return Metric(name=name, label=label, value=value, std=std, better=better, **(common | more))

    def comparison(self, name: str, label: str, better: Better, k: int | None = None, **more: Any) -> Metric:
        """A metric of distributions, beside the score of real photos and of the samples at the photos' number."""
        compared, reference = self.compared, self.reference
        known, number = len(reference.photos), reference.number(reference.split)
        if known < number and "n_real" not in more:
            part = f"against {known:,} of the {number:,} photos, chosen at random"
            more["note"] = "; ".join(filter(None, (more.get("note"), part)))
        fewer, fewer_std = mean_and_std([found.values[name, k] for found in compared.fewer])
        return self.metric(
            name,
            label if k is None else f"{label}, k={k}",
            better,
            [found.values[name, k] for found in compared.whole],
            k=k,
            real_photos=RealPhotos(compared.equal_n, compared.photos.values[name, k]),
            same_n=SameN(compared.equal_n, fewer, fewer_std),
            standard_error=compared.whole[0].errors.get((name, k)),
            **more,
        )

    def ratio(self, name: str, label: str, better: Better, k: int | None = None, **more: Any) -> Iterator[Metric]:
        """The samples' score over the photos', at the number that both have; nothing where the photos score 0."""
        equal_n, photos = self.compared.equal_n, self.compared.photos.values[name, k]
        if photos is not None and photos > 0:
            scores = [found.values[name, k] for found in self.compared.fewer]
            ratios = [None if score is None else score / photos for score in scores]
            title = label if k is None else f"{label}, k={k}"
            more |= {"n_generated": equal_n, "real_photos": RealPhotos(equal_n, 1.0)}
            yield self.metric(f"{name}_ratio", f"{title} / real photos'", better, ratios, k=k, **more)


def distance_metrics(context: _Context) -> Iterator[Metric]:
    """Frechet distance, as measured, over that of real photos and extrapolated, and the kernel distance."""
    extractor, compared = context.reference.extractor, context.compared
    distance, curve, kernel = extractor.distance_name, compared.whole[0].curve, compared.whole[0].kernel
    small = small_sample_note(extractor.name, *context.sample_sets[0].features.shape)
    n_real = context.reference.number(context.reference.split)
    yield context.comparison("frechet_distance", distance, "lower", note=small, n_real=n_real)
    yield from context.ratio("frechet_distance", distance, "lower", n_real=n_real)
    yield context.comparison(
        "frechet_distance_infinity",
        f"{distance}, N→∞",
        "lower",
        note=extrapolation_note(curve, compared.photos.curve),
        reason=curve.note or NOT_FINITE,
        n_real=n_real,
    )
    std = float(np.mean([found.kernel.std for found in compared.whole]))
    yield context.comparison(
        "kernel_distance",
        extractor.kernel_name,
        "lower",
        subsets=Subsets(kernel.subsets, kernel.subset_size, std),
        note=kernel_note(kernel, std),
    )
    fewest = min(len(context.reference.photos), len(context.sample_sets[0]))
    sliced = f"over {fewest:,} images of each side and {PROJECTIONS:,} random directions; compare at equal N only"
    yield context.comparison("sliced_wasserstein", extractor.sliced_name, "lower", note=sliced)
    if extractor.is_clip:
        yield context.comparison("cmmd", f"CMMD ({extractor.name})", "lower", note=OTHER_CLIP)


def extrapolation_note(samples: Extrapolation, photos: Extrapolation) -> str | None:
    parts = []
    if samples.standard_error is not None:
        parts.append(f"standard error {samples.standard_error:.2g}, over the choice of samples")
    if photos.note:
        parts.append(f"real photos: {photos.note}")
    return "; ".join(parts) or None


def kernel_note(kernel: KernelDistance, std: float) -> str:
    parts = [f"mean over {kernel.subsets} random subsets of {kernel.subset_size:,}"]
    if std > 0:
        parts.append(f"± {std:.3g} between them")
    if kernel.standard_error is not None:
        parts.append(f"standard error {kernel.standard_error:.2g}")
    if kernel.note:
        parts.append(kernel.note)
    return "; ".join(parts)


def neighbour_metrics(context: _Context) -> Iterator[Metric]:
    """Precision, recall, density, coverage and the Vendi score."""
    compared = context.compared
    for k in (K_STUDENT, K_PAPER):
        precision, _ = mean_and_std([found.values["precision", k] for found in compared.fewer])
        ceiling = compared.photos.values["precision", k]
        above = precision is not None and ceiling is not None and precision > ceiling
        yield context.comparison("precision", "precision", "higher", k, note=ABOVE_CEILING if above else None)
        yield context.comparison("recall", "recall", "higher", k)
    for name in ("precision", "recall"):
        yield from context.ratio(name, name, "higher", K_STUDENT)
    yield context.comparison("density", "density", "near real photos", K_COVERAGE)
    yield context.comparison("coverage", "coverage", "higher", K_COVERAGE)
    yield context.comparison("vendi_score", "Vendi score", "near real photos", note=VENDI)


def prompt_accuracy(context: _Context) -> Metric:
    """How often a probe assigns samples to the class of their prompt."""
    reference = context.reference
    shares = [share_recognised(reference, samples) for samples in context.sample_sets]
    first = shares[0]
    return context.metric(
        "prompt_accuracy",
        "prompt accuracy",
        "higher",
        shares,
        standard_error=None if first is None else (first * (1 - first) / len(context.sample_sets[0])) ** 0.5,
        n_real=len(reference.train),
        real_photos=RealPhotos(len(reference.validation), share_recognised(reference, reference.validation)),
        note="share of samples that a linear probe, fitted to training photos, assigns to the class of the prompt",
        reason=NOT_FINITE if reference.has_classes else ONE_CLASS,
    )


def memorisation_metrics(context: _Context) -> Iterator[Metric]:
    """How close samples come to training photos, beside held-out photos."""
    reference, number = context.reference, len(context.sample_sets)
    train, held_out = reference.all_train, reference.validation.features
    copies = []
    if train is not None:
        gap = reference.radii[:, 0] if reference.split == "train" and len(reference.train) == len(train) else None
        copies = [memorisation(train, held_out, own.features, gap, reference.state) for own in context.sample_sets]
    for name, label, expected, note in memorisation_rows(copies[0] if copies else None):
        yield context.metric(
            name,
            label,
            "near real photos",
            [getattr(copy, name) for copy in copies] or [None] * number,
            n_real=reference.number("train"),
            real_photos=None if expected is None else RealPhotos(len(reference.validation), expected),
            standard_error=copies[0].standard_errors.get(name) if copies else None,
            note=note,
            reason=NOT_FINITE if copies else PART_OF_TRAINING,
        )


def memorisation_rows(found: Memorisation | None) -> Iterator[tuple[str, str, float | None, str]]:
    """Field of `Memorisation`, label, what held-out photos score, and how to read it."""
    yield (
        "nearer_than_held_out",
        "nearer to training",
        0.5,
        "probability that a sample is nearer to its nearest training photo than a held-out photo is to its own",
    )
    yield (
        "median_distance",
        "distance to training",
        1.0,
        "median distance of samples to the nearest training photo, over that of held-out photos",
    )
    yield (
        "nearer_than_closest_percent",
        "nearest hundredth",
        0.01,
        "share of samples nearer to a training photo than all but the nearest hundredth of held-out photos",
    )
    yield (
        "authpct",
        "AuthPct",
        found and found.held_out_authpct,
        "percentage of samples farther from their nearest training photo than that photo is from its own nearest",
    )


def mean_and_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Over the sample sets: a single one has no standard deviation; None where a value is missing or not finite."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < len(values):
        return None, None
    return float(np.mean(finite)), float(np.std(finite, ddof=1)) if len(finite) > 1 else None


def small_sample_note(extractor: str, n: int, dim: int) -> str | None:
    """What must be said of a Frechet distance of n samples with features of `dim` numbers."""
    if extractor == "inception" and n < INCEPTION_MINIMUM:
        return f"fewer than {INCEPTION_MINIMUM:,} samples: an FID of so few is mostly bias; read the KID"
    if n <= dim:
        return f"no more samples than the features' {dim} dimensions: mostly bias; read the kernel distance"
    return None


# --- classes ---------------------------------------------------------------------------------------------------------


def share_recognised(reference: Reference, images: FeatureSet) -> float | None:
    """Share of images that the probe assigns to their class; None where all photos are of one class."""
    if not reference.has_classes:
        return None
    predicted = reference.probe.predict(images.features.cpu())
    return sum(guess == label for guess, label in zip(predicted, images.labels or (), strict=True)) / len(images)


def per_class(reference: Reference, sample_sets: Sequence[FeatureSet]) -> list[ClassResult] | None:
    """Per class, over all sample sets: the share that the probe assigns to it, and the most frequent mistake."""
    labels = [label for samples in sample_sets for label in samples.labels or ()]
    if not labels or not reference.has_classes:
        return None
    predicted = [guess for samples in sample_sets for guess in reference.probe.predict(samples.features.cpu())]
    validation = reference.validation
    held_out = accuracy(reference.probe.predict(validation.features.cpu()), validation.labels or ())
    features = torch.cat([samples.features for samples in sample_sets])
    found = []
    for label, share in accuracy(predicted, labels).items():
        assigned = Counter(guess for guess, asked in zip(predicted, labels, strict=True) if asked == label)
        mistaken_for = next((guess for guess, _ in assigned.most_common() if guess != label), None)
        photos, other = (
            side.features[rows_of(side.labels or (), label)] for side in (reference.photos, reference.other)
        )
        covered = class_coverage(photos, features[rows_of(labels, label)], other, K_COVERAGE, reference.state)
        n, counts = labels.count(label), dict(assigned.most_common())
        found.append(ClassResult(label, n, share, held_out.get(label), mistaken_for, covered, counts))
    return found
