"""The real side of an evaluation: features and moments of photos, measured once, or read from a file.

The Frechet distance is that to all photos of a split, through their moments, and copies are looked for among all
training photos. Everything else looks at a part of each split where the split is large: `subset_of`.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from ..errors import InputError
from ..files import file_sha256, whole_file
from .features import FeatureSet, Measurer
from .images import Images
from .metrics import Gaussian, Moments, as_pair, checked_gaussian, fit_gaussian, moments
from .neighbours import nearest
from .probe import Probe, fit_probe
from .results import DataInfo, ExtractorInfo, parse

SUBSET, SUBSET_SEED = 10_000, 0  # as many as in ADM's references (Dhariwal and Nichol 2021, arXiv 2105.05233)
KS = (3, 5, 10)  # neighbours
VERSION = 1  # of the file


def subset_of(number: int, most: int = SUBSET) -> Sequence[int]:
    """The photos of a split that stand for all: at most so many of the `number`, at random, in order."""
    if number <= most:
        return range(number)
    return sorted(np.random.default_rng(SUBSET_SEED).permutation(number)[:most].tolist())


def part_of(images: Images, most: int) -> Images:
    """The images of a split that stand for all, see `subset_of`."""
    return images if len(images) <= most else images.take(subset_of(len(images), most))


@dataclass(frozen=True)
class Reference:
    """The real side, measured once for any number of sample sets.

    Samples are compared with the photos of `split`. Photos of the other split take the samples' place to give the
    floor and the ceiling. The probe is always fitted to `train`, and copies are always looked for there.

    Attributes:
        train, validation: features of both splits, or of a part of each (`subset_of`).
        state: accelerate's, when every process makes the same calls and the work shall be shared among them.
        whole: by split, the features of all photos where the set above is a part; they may be mapped into memory.
        numbers: of a file, which has parts alone: by split, the number of all photos.
        stored: of a file: the Gaussian of all photos of `split`.
    """

    extractor: ExtractorInfo
    train: FeatureSet
    validation: FeatureSet
    split: str = "train"
    state: PartialState | None = None
    whole: Mapping[str, torch.Tensor] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    stored: Gaussian | None = None

    @property
    def photos(self) -> FeatureSet:
        return self.train if self.split == "train" else self.validation

    @property
    def other(self) -> FeatureSet:
        return self.validation if self.split == "train" else self.train

    def number(self, split: str) -> int:
        """All photos of a split."""
        known = self.whole.get(split, self.train.features if split == "train" else self.validation.features)
        return self.numbers.get(split, len(known))

    @cached_property
    def moments(self) -> Moments:
        """Of all photos of `split`, which must not be from a file."""
        known = self.whole.get(self.split)
        return moments(self.photos.features) if known is None else moments(known, self.state)

    @cached_property
    def gaussian(self) -> Gaussian:
        """Fitted to all photos of `split`."""
        if self.stored is not None or self.split not in self.whole:
            return self.stored or fit_gaussian(self.photos.features)
        found = self.moments.gaussian()
        return Gaussian(*(part.to(self.photos.features.device) for part in (found.mean, found.root)))

    @cached_property
    def radii(self) -> torch.Tensor:
        """(N, 1 + K): each photo's distance to the nearest of its split, and to the k-th nearest for `KS`."""
        return nearest(self.photos.features, self.photos.features, (1, *KS), state=self.state)[0]

    @property
    def all_train(self) -> torch.Tensor | None:
        """Features of all training photos; None if they are not known, as from a file that holds a part."""
        found = self.whole.get("train", self.train.features)
        return found if len(found) == self.number("train") else None

    @property
    def has_classes(self) -> bool:
        """Whether the training photos are of more than one class, which a probe can tell apart."""
        return len(set(self.train.labels or ())) > 1

    @cached_property
    def probe(self) -> Probe:
        return fit_probe(self.train.features.cpu(), self.train.labels or ())


# --- measured --------------------------------------------------------------------------------------------------------


def measure_references(
    photos: Mapping[str, Images], measurer: Measurer, split: str, subset: int = SUBSET
) -> list[Reference]:
    """The photos of both splits, measured by every extractor, with `split` for the reference.

    Their features stay in the measurer's cache: they serve every model that is compared with the photos.
    """
    splits = {}
    for name in ("train", "validation"):
        images = photos[name]
        if name not in ("train", split):  # nothing looks at the others
            images = part_of(images, subset)
        splits[name] = measurer.stored_sets(images, f"{name} photos")
    found = []
    for extractor, *sets in zip(measurer.extractors, *splits.values(), strict=True):
        of_train, of_validation = (own.take(subset_of(len(own), subset)).to(extractor.home) for own in sets)
        whole = {name: own.features for name, own in zip(splits, sets, strict=True) if len(own) > subset}
        found.append(Reference(extractor.describe(), of_train, of_validation, split, measurer.state, whole))
    return found


def measure_reference(photos: Mapping[str, Images], measurer: Measurer, split: str) -> Reference:
    """`measure_references` by the first extractor."""
    return measure_references(photos, measurer.alone(), split)[0]


# --- in a file -------------------------------------------------------------------------------------------------------


def save_reference(reference: Reference, data: DataInfo, path: Path) -> None:
    """Write a `.npz` that `read_reference` reads.

    It holds `mu` (D,) and `sigma` (D, D) of all photos of the split in float64, under the names that other programs
    use; `train` and `validation`, features (N, D) of at most a subset of each split; and `about`, the JSON of
    everything else as bytes. Features can tell much of a photo, those of an autoencoder nearly all.
    """
    parts = {"train": reference.train, "validation": reference.validation}
    about = {
        "version": VERSION,
        "extractor": asdict(reference.extractor),
        "data": asdict(data),
        "subset_seed": SUBSET_SEED,
        "labels": {name: list(part.labels or ()) for name, part in parts.items()},
    }
    arrays = {"mu": reference.moments.mean, "sigma": reference.moments.covariance}
    arrays |= {name: part.features for name, part in parts.items()}
    _write(path, about, {name: array.cpu().numpy() for name, array in arrays.items()})


def _write(path: Path, about: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, allow_pickle=False, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)


def copy_reference(path: Path, to: Path, name: str) -> None:
    """Copy a file by `save_reference`, with another name of the data in it."""
    with np.load(path, allow_pickle=False) as found:
        arrays = dict(found)
    about = json.loads(arrays.pop("about").tobytes())
    _write(to, about | {"data": about["data"] | {"name": name}}, arrays)


def read_reference(path: Path, measurer: Measurer) -> tuple[Reference, DataInfo]:
    """The reference in a file, for the measurer's first extractor.

    Raises:
        InputError: the file is missing, damaged or something else, or is of another extractor or resize rule.
    """
    try:
        # Nothing in it is unpickled.
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            mean, covariance, *sets = (torch.from_numpy(arrays[x]) for x in ("mu", "sigma", "train", "validation"))
        if about["version"] != VERSION:
            raise InputError(f"{path} has version {about['version']}; expected {VERSION}. Update animal-ldm.")
        info, data = parse(ExtractorInfo, about["extractor"]), parse(DataInfo, about["data"])
        labels = [parse(list[str], about["labels"][name]) for name in ("train", "validation")]
        if any(own and len(own) != len(features) for own, features in zip(labels, sets, strict=True)):
            raise ValueError("as many labels as features were expected")
        if data.reference not in ("train", "validation") or any(
            data.photos[name] < len(own) for name, own in zip(("train", "validation"), sets, strict=True)
        ):
            raise ValueError("the numbers of photos are wrong")
    except FileNotFoundError as error:
        raise InputError(f"--reference: {path} not found.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"--reference: {path} is not a file that `animal-ldm evaluate --save_reference` wrote ({error}). The .npz "
            "files of other programs lack what makes a number comparable: their extractor, resize rule and photos."
        ) from error
    own = measurer.extractor.describe()
    for what, expected, found in (
        ("weights", own.weights_digest, info.weights_digest),
        ("resize rule", own.resize, info.resize),
    ):
        if expected != found:
            raise InputError(
                f"--reference: {path} was measured with another {what} of the extractor: {found} ({info.name}) there, "
                f"{expected} ({own.name}) here. Pass the --extractor it was made with, or measure the photos again."
            )
    home = measurer.extractor.home
    gaussian, (train, validation) = checked_gaussian(mean, covariance, "reference's"), as_pair(*sets)
    as_pair(mean[None], train.double())
    gaussian = Gaussian(gaussian.mean.to(home), gaussian.root.to(home))
    of_train, of_validation = (
        FeatureSet(features.to(home), tuple(of) or None)
        for features, of in zip((train, validation), labels, strict=True)
    )
    numbers = {name: data.photos[name] for name in ("train", "validation")}
    reference = Reference(
        own, of_train, of_validation, data.reference, measurer.state, numbers=numbers, stored=gaussian
    )
    return reference, replace(data, reference_file=file_sha256(path))
