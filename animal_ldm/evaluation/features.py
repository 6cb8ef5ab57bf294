"""Features of images: measured once, shared among processes, kept in a cache."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..errors import InputError
from ..files import whole_file
from .extractors import Extractor, resize
from .images import Images
from .neighbours import from_all

GATHERED = 1024  # features of each process that are exchanged at a time


@dataclass(frozen=True)
class FeatureSet:
    """Features (N, D) of images and, where known, their N classes."""

    features: torch.Tensor
    labels: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.features)

    def take(self, indices: Sequence[int]) -> "FeatureSet":
        labels = self.labels and tuple(self.labels[i] for i in indices)
        return FeatureSet(self.features[torch.tensor(indices)], labels)

    def to(self, device: torch.device) -> "FeatureSet":
        return replace(self, features=self.features.to(device))

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

    def alone(self) -> "Measurer":
        """Without `more`."""
        return replace(self, more=())

    def feature_set(self, images: Images, description: str = "features") -> FeatureSet:
        """Features of all images by the first extractor, with the images' classes.

        Args:
            description: title of the progress bar.
        """
        return FeatureSet(self.features(images, description), images.labels)

    def feature_sets(self, images: Images, description: str = "features") -> list[FeatureSet]:
        """The same by every extractor, in order."""
        found = self.stored_sets(images, description)
        return [own.to(extractor.home) for own, extractor in zip(found, self.extractors, strict=True)]

    def stored_sets(self, images: Images, description: str = "features") -> list[FeatureSet]:
        """The same on the CPU; with a cache they stay on disk and are mapped into memory."""
        return [FeatureSet(own, images.labels) for own in self._features(images, self.extractors, description)]

    def features(self, images: Images, description: str = "features") -> torch.Tensor:
        """Features (N, D) of all images, float32, where distances are computed: on the extractor's GPU, or on the CPU.

        Raises:
            InputError: an image cannot be read.
        """
        return self._features(images, (self.extractor,), description)[0].to(self.extractor.home)

    def _features(self, images: Images, extractors: Sequence[Extractor], description: str) -> list[torch.Tensor]:
        if self.cache is None:
            kept: dict[Extractor, list[torch.Tensor]] = {extractor: [] for extractor in extractors}
            self._measure(images, {extractor: rows.append for extractor, rows in kept.items()}, description)
            return [torch.cat(rows) for rows in kept.values()]
        digest = images.digest()
        paths = {extractor: self.cache / f"{_fingerprint(digest, extractor)}.npy" for extractor in extractors}
        there = torch.tensor([path.is_file() for path in paths.values()])
        if self.state:  # all must find the same missing, also where they have a disk each
            there = torch.stack(from_all(there.int(), self.state)).bool().all(0)
        missing = [path for path, found in zip(paths.items(), there.tolist(), strict=True) if not found]
        if missing:
            with ExitStack() as files:
                sinks: dict[Extractor, Callable[[torch.Tensor], object]] = {x: lambda _: None for x, _ in missing}
                for extractor, path in missing if self.state is None or self.state.is_local_main_process else ():
                    file = files.enter_context(open(files.enter_context(whole_file(path)), "wb"))
                    sinks[extractor] = partial(_append, file, len(images))
                self._measure(images, sinks, description)
            if self.state:
                self.state.wait_for_everyone()
        # Mapped so that writing changes a copy: torch wants memory that can be written to.
        return [torch.from_numpy(np.load(path, mmap_mode="c")) for path in paths.values()]

    def _measure(
        self, images: Images, sinks: Mapping[Extractor, Callable[[torch.Tensor], object]], description: str
    ) -> None:
        """Give features by every extractor to its sink, in order, from one pass over the images."""
        state = self.state
        rank, processes = (state.process_index, state.num_processes) if state else (0, 1)
        mine = range(rank, len(images), processes)
        loader = DataLoader(
            _Prepared(images, mine, sorted({extractor.image_size for extractor in sinks})),
            batch_size=self.batch_size,
            num_workers=self.workers,
            collate_fn=_collate,
        )
        found = {extractor: _Rows(len(images), sink, state) for extractor, sink in sinks.items()}
        with tqdm(total=len(mine), desc=description, unit="image", disable=rank > 0, leave=False) as progress:
            for batch in loader:
                if isinstance(batch, InputError):
                    raise batch
                for extractor, rows in found.items():
                    rows.add(extractor.embed(batch[extractor.image_size]))
                progress.update(len(next(iter(batch.values()))))
        for rows in found.values():
            rows.finish()


class _Rows:
    """Gives `number` rows to `sink` in order, on every process; process p of n adds the rows p, p + n, p + 2n …

    Never more than `GATHERED` rows of each process are exchanged at a time.
    """

    def __init__(self, number: int, sink: Callable[[torch.Tensor], object], state: PartialState | None):
        self.number, self.sink, self.state = number, sink, state
        self.processes = state.num_processes if state else 1
        self.waiting: list[torch.Tensor] = []
        self.done = 0  # rows of each process

    def add(self, rows: torch.Tensor) -> None:
        """The next rows (B, D) of this process."""
        self.waiting.append(rows)
        while sum(map(len, self.waiting)) >= GATHERED:
            self._give(GATHERED)

    def finish(self) -> None:
        while (left := -(-self.number // self.processes) - self.done) > 0:
            self._give(min(left, GATHERED))

    def _give(self, number: int) -> None:
        waiting = torch.cat(self.waiting)
        own, self.waiting = waiting[:number], [waiting[number:]]
        if self.state:
            padded = torch.zeros(number, own.shape[1])  # the last processes may have a row less
            padded[: len(own)] = own
            own = torch.stack(from_all(padded, self.state), 1).flatten(0, 1)
        self.sink(own[: self.number - self.done * self.processes])
        self.done += number


def _append(file: BinaryIO, number: int, rows: torch.Tensor) -> None:
    """Write the next rows (B, D) of a .npy file that will hold (number, D)."""
    array = rows.contiguous().numpy()
    if not file.tell():
        header = np.lib.format.header_data_from_array_1_0(array) | {"shape": (number, array.shape[1])}
        np.lib.format.write_array_header_1_0(file, header)
    file.write(array.data)


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
