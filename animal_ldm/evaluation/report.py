"""Everything that is measured on a set of samples, as the content of `results.json`.

`results.json`, schema version 1:

    schema_version   1
    model            name; digest: SHA-256 over weights and scheduler, None for a folder of pictures
    data             name; reference, held_out: the splits; photos: {split: number}; digests: {split: SHA-256};
                     classes: {name: photos of the reference split}; image_size in pixels
    extractor        name, weights_digest, resize
    sampling         seed, class_mix, prompts {class: prompt}, scheduler, dtype, image_size and the fields of
                     `draw.Sampling`; None for a folder of pictures
    metrics          list of records, below
    fd_curve         FD against N, of the first draw: {value, slope, sizes, distances}, and the same of photos of the
                     other split as `real_photos`
    per_class        list of {label, n_generated, recognised, recognised_held_out, mistaken_for}, None without labels
    sweep            None, or {parameter, points: [{value, metrics}]}
    autoencoder      None, or what `reconstruction.measure_reconstructions` returns: PSNR, LPIPS and the probe's
                     accuracy on reconstructed held-out photos among others
    environment      versions of Python and of the libraries

A record is complete in itself, so that no number can be torn from its context:

    name             frechet_distance, frechet_distance_infinity, kernel_distance, precision, recall, density,
                     coverage, faithfulness, nearer_than_held_out, median_distance, nearer_than_closest_percent,
                     authpct; and frechet_distance_ratio, precision_ratio, recall_ratio: what the samples score over
                     what photos of the other split score, at the N that both have (n_generated says which; absent
                     where those photos score 0)
    label            what to print; "FID" and "KID" for Inception's features alone
    value, std       mean over the repeated draws and standard deviation over them (None for a single draw)
    better           "higher", "lower" or "near real photos"
    repeats, n_generated, n_real, k, seed, extractor
    sampling         the fields of `draw.Sampling`; None for a folder of pictures
    real_photos      {n, value}: what real photos of the other split score in place of samples. For precision and
                     recall the ceiling, for distances the floor
    same_n           None, or {n, value, std}: the samples themselves, no more of them than of those photos
    note             None, or how the number must be read
    subsets          of kernel_distance alone: {number, size, std}, std over the random subsets of a draw
"""

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version

import numpy as np
import torch
from accelerate import PartialState

from .draw import Sampling
from .features import Extractor
from .memorisation import memorisation
from .metrics import (
    Extrapolation,
    Gaussian,
    KernelDistance,
    fd_infinity,
    fit_gaussian,
    frechet_distance_of_gaussians,
    kernel_distance,
    neighbourhoods,
)
from .neighbours import nearest
from .probe import Probe, accuracy, fit_probe

SCHEMA_VERSION = 1
K_STUDENT, K_PAPER = 10, 3  # of precision and recall: the student card's, and Kynkaanniemi's
K_COVERAGE = 5  # Naeem's
KS = (3, 5, 10)
INCEPTION_MINIMUM = 2048
ABOVE_CEILING = (
    "above real photos: the wide balls of outlying photos take in samples that resemble none; read recall and density"
)


@dataclass(frozen=True)
class Photos:
    """Features (N, D) of pictures and, where known, their classes."""

    features: torch.Tensor
    labels: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Reference:
    """The real side, measured once for any number of sample sets.

    Samples are compared with the photos of `split`. Photos of the other split take the samples' place to give the
    floor and the ceiling. The probe is always fitted to `train`, and copies are always looked for there.
    """

    extractor: Extractor
    train: Photos
    validation: Photos
    split: str = "train"
    state: PartialState | None = None

    @property
    def photos(self) -> Photos:
        return self.train if self.split == "train" else self.validation

    @property
    def other(self) -> Photos:
        return self.validation if self.split == "train" else self.train

    @cached_property
    def gaussian(self) -> Gaussian:
        return fit_gaussian(self.photos.features)

    @cached_property
    def radii(self) -> torch.Tensor:
        """(N, 1 + K): each photo's distance to the nearest of its split, and to the k-th nearest for `KS`."""
        return nearest(self.photos.features, self.photos.features, (1, *KS), state=self.state)[0]

    @cached_property
    def probe(self) -> Probe:
        return fit_probe(self.train.features.cpu(), self.train.labels)


Values = dict[tuple[str, int | None], float]  # {(name, k): value}


@dataclass(frozen=True)
class Comparison:
    """Samples, or photos in their place, against the reference as distributions."""

    values: Values
    curve: Extrapolation
    kernel: KernelDistance


def compare(reference: Reference, features: torch.Tensor, seed: int) -> Comparison:
    real = reference.photos.features
    kernel = kernel_distance(real, features, seed=seed)
    curve = fd_infinity(reference.gaussian, features, seed=seed)
    values: Values = {
        ("frechet_distance", None): frechet_distance_of_gaussians(reference.gaussian, fit_gaussian(features)),
        ("frechet_distance_infinity", None): curve.value,
        ("kernel_distance", None): kernel.mean,
    }
    for near in neighbourhoods(real, features, KS, reference.radii[:, 1:], state=reference.state):
        values |= {(name, near.k): value for name, value in asdict(near).items() if name != "k"}
    return Comparison(values, curve, kernel)


def measure(reference: Reference, draws: Sequence[Photos], seed: int, sampling: Sampling | None = None) -> dict:
    """`metrics`, `fd_curve` and `per_class` of `results.json`, for repeated draws of equally many samples."""
    n = len(draws[0])
    chosen = np.random.default_rng(seed).permutation(len(reference.other))[:n]
    equal_n = len(chosen)
    photos = compare(reference, reference.other.features[torch.from_numpy(chosen)], seed)
    whole = [compare(reference, draw.features, seed) for draw in draws]
    fewer = whole if equal_n == n else [compare(reference, draw.features[:equal_n], seed) for draw in draws]
    metrics = []

    def add(name: str, label: str, better: str, values: Sequence[float], k: int | None = None, **more) -> None:
        record = {"name": name, "label": label, **mean_and_std(values), "better": better, "repeats": len(draws)}
        record |= {"n_generated": n, "n_real": len(reference.photos), "k": k, "seed": seed}
        record |= {"extractor": reference.extractor.describe(), "sampling": sampling and asdict(sampling)}
        metrics.append(record | {"real_photos": None, "same_n": None, "note": None} | more)

    def add_comparison(name: str, label: str, better: str, k: int | None = None, **more) -> None:
        add(
            name,
            label if k is None else f"{label}, k={k}",
            better,
            [found.values[name, k] for found in whole],
            k,
            real_photos={"n": equal_n, "value": photos.values[name, k]},
            same_n={"n": equal_n, **mean_and_std([found.values[name, k] for found in fewer])},
            **more,
        )

    def add_ratio(name: str, label: str, better: str, k: int | None = None) -> None:
        ceiling = photos.values[name, k]
        if ceiling > 0:
            ratios = [found.values[name, k] / ceiling for found in fewer]
            more = {"n_generated": equal_n, "real_photos": {"n": equal_n, "value": 1.0}}
            add(f"{name}_ratio", f"{label} / real photos'", better, ratios, k, **more)

    distance, kernel = reference.extractor.distance_name, reference.extractor.kernel_name
    small = small_sample_note(reference.extractor.name, *draws[0].features.shape)
    add_comparison("frechet_distance", distance, "lower", note=small)
    add_ratio("frechet_distance", distance, "lower")
    add_comparison("frechet_distance_infinity", f"{distance}, N→∞", "lower")
    subsets = {"number": whole[0].kernel.subsets, "size": whole[0].kernel.subset_size}
    subsets["std"] = float(np.mean([found.kernel.std for found in whole]))
    spread = f"± {subsets['std']:.3g} over {subsets['number']} random subsets of {subsets['size']:,}"
    add_comparison("kernel_distance", kernel, "lower", subsets=subsets, note=spread)
    for k in (K_STUDENT, K_PAPER):
        above = np.mean([found.values["precision", k] for found in fewer]) > photos.values["precision", k]
        add_comparison("precision", "precision", "higher", k, note=ABOVE_CEILING if above else None)
        add_comparison("recall", "recall", "higher", k)
    for name in ("precision", "recall"):
        add_ratio(name, f"{name}, k={K_STUDENT}", "higher", K_STUDENT)
    add_comparison("density", "density", "near real photos", K_COVERAGE)
    add_comparison("coverage", "coverage", "higher", K_COVERAGE)

    if draws[0].labels:
        held_out = share_recognised(reference, reference.validation)
        add(
            "faithfulness",
            "drawn as asked",
            "higher",
            [share_recognised(reference, draw) for draw in draws],
            n_real=len(reference.train),
            real_photos={"n": len(reference.validation), "value": held_out},
            note="share of samples in which a linear probe, fitted to training photos, sees the class of the prompt",
        )

    gap = reference.radii[:, 0] if reference.split == "train" else None
    copies = [
        memorisation(reference.train.features, reference.validation.features, draw.features, gap, reference.state)
        for draw in draws
    ]
    for name, label, expected, note in (
        (
            "nearer_than_held_out",
            "nearer to training",
            0.5,
            "chance that a sample lies nearer to its nearest training photo than a held-out photo does",
        ),
        (
            "median_distance",
            "distance to training",
            1.0,
            "median distance of samples to the nearest training photo, over that of held-out photos",
        ),
        (
            "nearer_than_closest_percent",
            "nearest hundredth",
            0.01,
            "share of samples nearer to a training photo than all but the nearest hundredth of held-out photos",
        ),
        (
            "authpct",
            "AuthPct",
            copies[0].held_out_authpct,
            "percent of samples farther from their nearest training photo than that is from its own nearest",
        ),
    ):
        add(
            name,
            label,
            "near real photos",
            [getattr(copy, name) for copy in copies],
            n_real=len(reference.train),
            real_photos={"n": len(reference.validation), "value": expected},
            note=note,
        )
    curve = asdict(whole[0].curve) | {"real_photos": asdict(photos.curve)}
    return {"metrics": metrics, "fd_curve": curve, "per_class": per_class(reference, draws)}


def mean_and_std(values: Sequence[float]) -> dict[str, float | None]:
    """Over repeated draws; one draw has no standard deviation."""
    return {
        "value": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def small_sample_note(extractor: str, n: int, dim: int) -> str | None:
    """What must be said of a Frechet distance of n samples with features of `dim` numbers."""
    if extractor == "inception" and n < INCEPTION_MINIMUM:
        return f"fewer than {INCEPTION_MINIMUM:,} samples: an FID this small in N is mostly bias; read the KID"
    if n <= dim:
        return f"no more samples than the features' {dim} dimensions: mostly bias; read the kernel distance"
    return None


def share_recognised(reference: Reference, photos: Photos) -> float:
    predicted = reference.probe.predict(photos.features.cpu())
    return sum(guess == label for guess, label in zip(predicted, photos.labels, strict=True)) / len(photos)


def per_class(reference: Reference, draws: Sequence[Photos]) -> list[dict] | None:
    """Per class, over all draws: how many samples the probe recognises, and what it takes most of the others for."""
    if not draws[0].labels:
        return None
    labels = [label for draw in draws for label in draw.labels]
    predicted = [guess for draw in draws for guess in reference.probe.predict(draw.features.cpu())]
    samples = accuracy(predicted, labels)
    held_out = accuracy(reference.probe.predict(reference.validation.features.cpu()), reference.validation.labels)
    found = []
    for label, share in samples.items():
        mistakes = Counter(
            guess for guess, asked in zip(predicted, labels, strict=True) if asked == label and guess != label
        )
        found.append(
            {
                "label": label,
                "n_generated": labels.count(label),
                "recognised": share,
                "recognised_held_out": held_out.get(label),
                "mistaken_for": mistakes.most_common(1)[0][0] if mistakes else None,
            }
        )
    return found


def environment() -> dict[str, str]:
    libraries = ("torch", "diffusers", "transformers", "clean-fid", "numpy", "pillow")
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}


def table(results: dict) -> str:
    """`results` for a person to read."""
    metrics = results["metrics"]
    first = metrics[0]
    n_equal = first["real_photos"]["n"]
    extractor, data, model = results["extractor"], results["data"], results["model"]
    lines = [
        f"{model['name']} against {first['n_real']:,} photos of {data['name']} ({data['reference']})",
        f"features: {extractor['name']}, weights {extractor['weights_digest'][:12]}, {extractor['resize']}",
        sampling_line(results),
        *size_warning(results),
        "",
    ]
    rows = [("", f"N={first['n_generated']:,}", f"N={n_equal:,}", f"real, N={n_equal:,}", "better")]
    for record in metrics:
        same_n, real = record["same_n"], record["real_photos"]
        value = number(record["value"], record["std"])
        of_all = record["n_generated"] == first["n_generated"]
        rows.append(
            (
                record["label"],
                value if of_all else "",
                number(same_n["value"], same_n["std"]) if same_n else ("" if of_all else value),
                (number(real["value"]) + ("" if real["n"] == n_equal else f" (N={real['n']:,})")) if real else "",
                record["better"],
            )
        )
    if n_equal == first["n_generated"]:
        rows = [row[:2] + row[3:] for row in rows]
    lines += align(rows)
    lines += [f"  {record['label']}: {record['note']}" for record in metrics if record["note"]]
    if results["per_class"]:
        rows = [("class", "samples", "drawn as asked", "held-out photos", "most taken for")]
        for found in results["per_class"]:
            shares = (found["recognised"], found["recognised_held_out"])
            shares = ["" if share is None else f"{share:.0%}" for share in shares]
            rows.append((found["label"], f"{found['n_generated']:,}", *shares, found["mistaken_for"] or ""))
        lines += ["", *align(rows)]
    if results["sweep"]:
        lines += ["", *align(sweep_rows(results["sweep"]))]
    if results["autoencoder"]:
        lines += ["", *align(autoencoder_rows(results["autoencoder"]))]
    return "\n".join(lines)


def sampling_line(results: dict) -> str:
    sampling, repeats = results["sampling"], results["metrics"][0]["repeats"]
    if not sampling:
        return "samples: a folder of pictures"
    return (
        f"samples: {sampling['num_inference_steps']} steps of {sampling['scheduler']}, guidance "
        f"{sampling['guidance_scale']:g}, seed {sampling['seed']}, classes by {sampling['class_mix']}, "
        + ("1 draw" if repeats == 1 else f"{repeats} draws, mean ± standard deviation")
    )


def size_warning(results: dict) -> list[str]:
    sampling, photos = results["sampling"], results["data"]["image_size"]
    if not sampling or sampling["image_size"] == photos:
        return []
    return [
        f"samples have {sampling['image_size']} px and photos {photos} px: part of every distance is the size alone"
    ]


def sweep_rows(sweep: dict) -> list[tuple[str, ...]]:
    labels = [record["label"] for record in sweep["points"][0]["metrics"]]
    rows = [(sweep["parameter"], *(f"{point['value']:g}" for point in sweep["points"]))]
    for i, label in enumerate(labels):
        records = [point["metrics"][i] for point in sweep["points"]]
        rows.append((label, *(number(record["value"], record["std"]) for record in records)))
    return rows


def autoencoder_rows(found: dict) -> list[tuple[str, ...]]:
    n, labels = f"{found['n']:,}", found["labels"]
    lpips = number(found["lpips"]) if found["lpips"] is not None else "not measured: give --perceptual_weights FILE"
    distance = number(found["frechet_distance"]) + (f" ({found['note']})" if found["note"] else "")
    return [
        ("autoencoder", f"reconstructions of held-out photos, N={n}", f"the photos, N={n}"),
        ("PSNR, dB", number(found["psnr"]), ""),
        ("LPIPS (squeezenet)", lpips, ""),
        (f"{labels['frechet_distance']} to the photos", distance, ""),
        (f"{labels['kernel_distance']} to the photos", number(found["kernel_distance"]), ""),
        ("recognised by the probe", number(found["recognised"]), number(found["recognised_photos"])),
    ]


def number(value: float, std: float | None = None) -> str:
    return f"{value:.4g}" + (f" ± {std:.2g}" if std is not None else "")


def align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns under each other, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
