"""Features of images: measured once, shared among processes, kept in a cache."""

import hashlib
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
    """An extractor, and all that says how it runs: `measurer.feature_set(images)`."""

    extractor: Extractor
    batch_size: int = 32
    # Processes that read and resize images.
    workers: int = 0
    # Accelerate's state, when every process makes the same calls and the images shall be shared among them.
    state: PartialState | None = None
    # Folder that keeps features under a fingerprint of images, extractor and resize rule; None keeps nothing.
    cache: Path | None = None

    @property
    def is_main_process(self) -> bool:
        return self.state is None or self.state.is_main_process

    def with_cache(self, cache: Path | None) -> "Measurer":
        return replace(self, cache=cache)

    def feature_set(self, images: Images, description: str = "features") -> FeatureSet:
        """Features of all images, with the images' classes.

        Args:
            description: title of the progress bar.
        """
        return FeatureSet(self.features(images, description), images.labels)

    def features(self, images: Images, description: str = "features") -> torch.Tensor:
        """Features (N, D) of all images, float32, where distances are computed: on the extractor's GPU, or on the CPU.

        Raises:
            InputError: an image cannot be read.
        """
        path = self.cache and self.cache / f"{self._fingerprint(images)}.npy"
        # Apple's GPUs have no float64, which the distances need.
        home = self.extractor.device if self.extractor.device.type == "cuda" else torch.device("cpu")
        if path and path.is_file():
            return torch.from_numpy(np.load(path)).to(home)
        features = self._measured(images, description)
        if path and self.is_main_process:
            with whole_file(path) as partial:
                np.save(partial, features.numpy())
        return features.to(home)

    def _fingerprint(self, images: Images) -> str:
        described = self.extractor.describe()
        identity = "\n".join([images.digest(), described.name, described.weights_digest, described.resize])
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    def _measured(self, images: Images, description: str) -> torch.Tensor:
        state = self.state
        rank, processes = (state.process_index, state.num_processes) if state else (0, 1)
        mine = range(rank, len(images), processes)
        loader = DataLoader(
            _Prepared(images, mine, self.extractor.image_size),
            batch_size=self.batch_size,
            num_workers=self.workers,
            collate_fn=_collate,
        )
        parts = []
        with tqdm(total=len(mine), desc=description, unit="image", disable=rank > 0, leave=False) as progress:
            for batch in loader:
                if isinstance(batch, InputError):
                    raise batch
                parts.append(self.extractor.embed(batch))
                progress.update(len(batch))
        found = torch.cat(parts)
        features = torch.zeros(len(images), found.shape[1])
        features[rank::processes] = found
        if state is None:
            return features
        reduced = reduce(features.to(state.device), "sum")
        assert isinstance(reduced, torch.Tensor)
        return reduced.cpu()


class _Prepared(Dataset):
    """Resized images; resizing takes longer than most networks, so worker processes share it.

    An image that cannot be read gives its error: raised in a worker, it would arrive buried in a traceback.
    """

    def __init__(self, images: Images, indices: range, size: int):
        self.images, self.indices, self.size = images, indices, size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> torch.Tensor | InputError:
        try:
            return resize(self.images[self.indices[position]], self.size)
        except InputError as error:
            return error


def _collate(batch: list[torch.Tensor | InputError]) -> torch.Tensor | InputError:
    """(B, 3, S, S), or the first error among the images."""
    tensors = []
    for image in batch:
        if isinstance(image, InputError):
            return image
        tensors.append(image)
    return torch.stack(tensors)
