"""Images of an evaluation for its report: samples of every class, and the training photos nearest to some samples.

`gallery.json` holds them beside `results.json`, so that the report can be written again: under public names, without
photos.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..files import write_json
from ..html import data_uri
from .images import Images
from .neighbours import nearest_in_parts
from .results import Results, parse

PER_CLASS, MOST_TILES = 10, 240
TILE_SIDE = 160  # pixels
PAIRS, PAIRS_SEED, NEIGHBOURS = 6, 0, (1, 2, 3)


@dataclass(frozen=True)
class Tile:
    """A sample."""

    sample: int  # its number
    prompt: str | None  # None, as the seed, for a folder of images
    seed: int | None
    image: str  # data URI


@dataclass(frozen=True)
class Group:
    """The first samples of a class."""

    label: str | None
    tiles: list[Tile]

    @property
    def prompt(self) -> str | None:
        """The prompt of all, None where they differ."""
        prompts = {tile.prompt for tile in self.tiles}
        return prompts.pop() if len(prompts) == 1 else None


@dataclass(frozen=True)
class Neighbour:
    """A training photo."""

    distance: float
    image: str  # data URI


@dataclass(frozen=True)
class Pair:
    """A sample and the training photos nearest to it, the nearest first."""

    label: str | None
    tile: Tile
    photos: list[Neighbour]


@dataclass(frozen=True)
class Gallery:
    """The content of `gallery.json`."""

    groups: list[Group]
    extractor: str  # whose features tell what is near
    closest: list[Pair]  # the samples that are nearest of all to a photo
    others: list[Pair]  # samples at random

    def without_photos(self) -> "Gallery":
        return replace(self, closest=[], others=[])

    def write(self, path: Path) -> None:
        write_json(path, asdict(self), indent=None)


def read_gallery(path: Path) -> Gallery | None:
    """Read a `gallery.json`; None if there is none, as beside evaluations of earlier versions.

    Raises:
        InputError: the file is not what `animal-ldm evaluate` wrote.
    """
    if not path.is_file():
        return None
    try:
        return parse(Gallery, json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a gallery.json of `animal-ldm evaluate`; evaluate again.") from error


@dataclass(frozen=True)
class SamplesAndPhotos:
    """Samples and, where they are at hand, training photos with their features (N, D)."""

    samples: Images
    sample_features: torch.Tensor
    train: Images
    train_features: torch.Tensor | None

    def nearest_photos(self) -> tuple[list["Nearest"], list["Nearest"]]:
        """For the samples that are nearest of all to a training photo, and for as many others at random."""
        assert self.train_features is not None
        distances, index = nearest_in_parts(self.sample_features, self.train_features, NEIGHBOURS)
        closest = distances[:, 0].argsort()[:PAIRS].tolist()
        rest = sorted(set(range(len(self.samples))) - set(closest))
        others = np.random.default_rng(PAIRS_SEED).permutation(rest)[: len(closest)].tolist()

        def found(samples: list[int]) -> list[Nearest]:
            return [Nearest(i, index[i].tolist(), distances[i].tolist()) for i in samples]

        return found(closest), found(others)


@dataclass(frozen=True)
class Nearest:
    """A sample, and the training photos nearest to it."""

    sample: int
    photos: list[int]
    distances: list[float]


def first_of_every_class(samples: Images, number: int) -> dict[str | None, list[int]]:
    """The first samples of every class, sorted by class; all have class None where classes are not known."""
    groups: dict[str | None, list[int]] = {}
    for index, label in enumerate(samples.labels or [None] * len(samples)):
        if len(groups.setdefault(label, [])) < number:
            groups[label].append(index)
    return dict(sorted(groups.items(), key=lambda group: group[0] or ""))


def gallery(
    results: Results, compared: SamplesAndPhotos, found: tuple[Sequence[Nearest], Sequence[Nearest]]
) -> Gallery:
    """The images of a report.

    Args:
        found: from `SamplesAndPhotos.nearest_photos`.
    """
    samples, train, sampling = compared.samples, compared.train, results.sampling
    groups = first_of_every_class(samples, PER_CLASS)
    per_class = max(1, min(PER_CLASS, MOST_TILES // len(groups)))

    def tile(index: int) -> Tile:
        prompt = samples.captions[index][0] if samples.captions else None
        seed = sampling.seed + index if sampling else None
        return Tile(index, prompt, seed, data_uri(samples[index], TILE_SIDE))

    def pairs(chosen: Sequence[Nearest]) -> Iterator[Pair]:
        for one in chosen:
            photos = [
                Neighbour(distance, data_uri(train[photo], TILE_SIDE))
                for photo, distance in zip(one.photos, one.distances, strict=True)
            ]
            yield Pair(samples.labels[one.sample] if samples.labels else None, tile(one.sample), photos)

    return Gallery(
        [
            Group(label, [tile(index) for index in indices[:per_class]])
            for label, indices in [*groups.items()][:MOST_TILES]
        ],
        results.extractor.name,
        *([*pairs(chosen)] for chosen in found),
    )
