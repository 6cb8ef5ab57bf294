"""Features of images: measured once, shared among processes, kept in a cache."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..errors import InputError
from ..files import whole_file
from .extractors import Extractor, resize
from .images import Images


@dataclass(frozen=True)
class FeatureSet:
    """Features (N, D) of images and, where known, their N classes."""

    features: torch.Tensor
    labels: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.features)

    def split(self, parts: int) -> list["FeatureSet"]:
        """As `parts` sets of equal size, in order."""
        n = len(self) // parts
        starts = range(0, n * parts, n)
        return [
            FeatureSet(self.features[start : start + n], self.labels and self.labels[start : start + n])
            for start in starts
        ]


@dataclass(frozen=True)
class Measurer:
    """An extractor, and all that says how it runs: `measurer.feature_set(images)`.

    With `more` extractors, `measurer.feature_sets(images)` reads the images once for all of them.
    """

    extractor: Extractor
    batch_size: int = 32
    # Processes that read and resize images.
    workers: int = 0
    # Accelerate's state, when every process makes the same calls and the images shall be shared among them.
    state: PartialState | None = None
    # Folder that keeps features under a fingerprint of images, extractor and resize rule; None keeps nothing.
    cache: Path | None = None
    more: tuple[Extractor, ...] = ()

    @property
    def is_main_process(self) -> bool:
        return self.state is None or self.state.is_main_process

    @property
    def extractors(self) -> tuple[Extractor, ...]:
        return (self.extractor, *self.more)

    def with_cache(self, cache: Path | None) -> "Measurer":
        return replace(self, cache=cache)

    def feature_set(self, images: Images, description: str = "features") -> FeatureSet:
        """Features of all images by the first extractor, with the images' classes.

        Args:
            description: title of the progress bar.
        """
        return FeatureSet(self.features(images, description), images.labels)

    def feature_sets(self, images: Images, description: str = "features") -> list[FeatureSet]:
        """The same by every extractor, in order."""
        return [
            FeatureSet(features, images.labels) for features in self._features(images, self.extractors, description)
        ]

    def features(self, images: Images, description: str = "features") -> torch.Tensor:
        """Features (N, D) of all images, float32, where distances are computed: on the extractor's GPU, or on the CPU.

        Raises:
            InputError: an image cannot be read.
        """
        return self._features(images, (self.extractor,), description)[0]

    def _features(self, images: Images, extractors: Sequence[Extractor], description: str) -> list[torch.Tensor]:
        digest = images.digest() if self.cache else ""
        paths = [self.cache and self.cache / f"{_fingerprint(digest, extractor)}.npy" for extractor in extractors]
        found = [torch.from_numpy(np.load(path)) if path and path.is_file() else None for path in paths]
        missing = [i for i, features in enumerate(found) if features is None]
        measured = self._measured(images, [extractors[i] for i in missing], description) if missing else []
        for i, features in zip(missing, measured, strict=True):
            found[i] = features
            if (path := paths[i]) and self.is_main_process:
                with whole_file(path) as partial:
                    np.save(partial, features.numpy())
        # Apple's GPUs have no float64, which the distances need.
        homes = (x.device if x.device.type == "cuda" else torch.device("cpu") for x in extractors)
        return [features.to(home) for features, home in zip(found, homes, strict=True) if features is not None]

    def _measured(self, images: Images, extractors: Sequence[Extractor], description: str) -> list[torch.Tensor]:
        """Features by every extractor, from one pass over the images."""
        state = self.state
        rank, processes = (state.process_index, state.num_processes) if state else (0, 1)
        mine = range(rank, len(images), processes)
        loader = DataLoader(
            _Prepared(images, mine, sorted({extractor.image_size for extractor in extractors})),
            batch_size=self.batch_size,
            num_workers=self.workers,
            collate_fn=_collate,
        )
        parts: list[list[torch.Tensor]] = [[] for _ in extractors]
        with tqdm(total=len(mine), desc=description, unit="image", disable=rank > 0, leave=False) as progress:
            for batch in loader:
                if isinstance(batch, InputError):
                    raise batch
                for extractor, own in zip(extractors, parts, strict=True):
                    own.append(extractor.embed(batch[extractor.image_size]))
                progress.update(len(parts[0][-1]))
        return [self._from_all(torch.cat(own), len(images)) for own in parts]

    def _from_all(self, found: torch.Tensor, number: int) -> torch.Tensor:
        """(N, D) features of all processes, from those of this one."""
        state = self.state
        if state is None:
            return found
        features = torch.zeros(number, found.shape[1])
        features[state.process_index :: state.num_processes] = found
        reduced = reduce(features.to(state.device), "sum")
        assert isinstance(reduced, torch.Tensor)
        return reduced.cpu()


def _fingerprint(images_digest: str, extractor: Extractor) -> str:
    described = extractor.describe()
    identity = "\n".join([images_digest, described.name, described.weights_digest, described.resize])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


class _Prepared(Dataset):
    """Images resized to every size in `sizes`; resizing takes longer than most networks, so worker processes share it.

    An image that cannot be read gives its error: raised in a worker, it would arrive buried in a traceback.
    """

    def __init__(self, images: Images, indices: range, sizes: Sequence[int]):
        self.images, self.indices, self.sizes = images, indices, sizes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[int, torch.Tensor] | InputError:
        try:
            image = self.images[self.indices[position]]
            return {size: resize(image, size) for size in self.sizes}
        except InputError as error:
            return error


def _collate(batch: list[dict[int, torch.Tensor] | InputError]) -> dict[int, torch.Tensor] | InputError:
    """{S: (B, 3, S, S)}, or the first error among the images."""
    prepared = []
    for image in batch:
        if isinstance(image, InputError):
            return image
        prepared.append(image)
    return {size: torch.stack([image[size] for image in prepared]) for size in prepared[0]}
