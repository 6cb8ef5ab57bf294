"""The order in which a run sees its photos, as a pure function of (seed, images seen).

Nothing here keeps state: the batch at position `images_seen` is the same whether the run got there in one stretch or
was killed and resumed, and on any number of processes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch


class ImageStream:
    """Endless stream of dataset indices, in epochs of as many images as there are.

    Each image of a class comes once before any of them comes again.

    Args:
        labels: class of each image.
        seed: of the permutations.
        balance: a class of n images comes in proportion to n^(1 - balance). 0 shows every image equally often, 1 every
            class; 0.5 goes by the square root of the sizes.
    """

    def __init__(self, labels: Sequence[str], seed: int, balance: float = 0.0):
        self.size = len(labels)
        self.groups = [np.arange(self.size)]
        if balance:
            _, classes = np.unique(np.array(tuple(labels)), return_inverse=True)
            self.groups = np.split(np.argsort(classes, kind="stable"), np.cumsum(np.bincount(classes))[:-1])
        weights = np.array([len(group) for group in self.groups], np.float64) ** (1 - balance)
        # Images of each group are the places [bound, next bound) of an epoch before it is shuffled.
        self.bounds = np.rint(np.cumsum([0, *weights / weights.sum()]) * self.size).astype(np.int64)
        self.seed = seed
        # The newest of each kind: computing one for every image would cost O(dataset).
        self._newest: dict[int, tuple[int, np.ndarray]] = {}

    def indices(self, images_seen: int, count: int) -> np.ndarray:
        """Dataset indices of images `images_seen` … `images_seen + count - 1` of the stream, int64 `(count,)`."""
        chosen = np.empty(count, np.int64)
        for i in range(count):
            epoch, slot = divmod(images_seen + i, self.size)
            place = self._places(epoch)[slot] if len(self.groups) > 1 else slot
            group = int(np.searchsorted(self.bounds, place, side="right")) - 1
            first, last = self.bounds[group : group + 2]
            members = self.groups[group]
            round_, rank = divmod(int(epoch * (last - first) + place - first), len(members))
            chosen[i] = members[self._permutation(group, round_)[rank]]
        return chosen

    def _places(self, epoch: int) -> np.ndarray:
        """Which of the places each slot of the epoch has: groups in random order, within a group one after another."""

        def shuffled(rng: np.random.Generator) -> np.ndarray:
            drawn = np.searchsorted(self.bounds, rng.permutation(self.size), side="right")
            places = np.empty(self.size, np.int64)
            places[np.argsort(drawn, kind="stable")] = np.arange(self.size)
            return places

        return self._remembered(0, epoch, shuffled)

    def _permutation(self, group: int, round_: int) -> np.ndarray:
        return self._remembered(1 + group, round_, lambda rng: rng.permutation(len(self.groups[group])))

    def _remembered(self, kind: int, number: int, draw: Callable[[np.random.Generator], np.ndarray]) -> np.ndarray:
        if kind not in self._newest or self._newest[kind][0] != number:
            self._newest[kind] = number, draw(np.random.default_rng((self.seed, kind, number)))
        return self._newest[kind][1]


def step_seed(seed: int, images_seen: int, stream: int = 0) -> int:
    """Seed of the batch at `images_seen`. Different values of `stream` give independent seeds."""
    return int(np.random.SeedSequence((seed, images_seen, stream)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, images_seen: int) -> torch.Generator:
    """CPU generator for what is drawn for the whole batch at `images_seen`: crops, flips, timesteps, captions."""
    return torch.Generator().manual_seed(step_seed(seed, images_seen))


def image_noise(seed: int, positions: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise for the images at `positions` of the stream: float32 `(B, *shape)`.

    That of an image is a function of (seed, position) alone, so each process draws only what it needs. Philox
    (Salmon et al., 2011) makes this cheap: it can begin anywhere in its sequence, and each image has its own part.
    """
    noise = np.empty((len(positions), *shape), np.float32)
    for own, position in zip(noise, positions.tolist(), strict=True):
        philox = np.random.Philox(key=seed, counter=[0, 0, position, 0])
        np.random.Generator(philox).standard_normal(out=own, dtype=np.float32)
    return torch.from_numpy(noise)


def own_rows(batch_size: int, parts: int, process: int, processes: int) -> np.ndarray:
    """Rows of the global batch that `process` trains on, in `parts` accumulation steps: int64
    `(parts, batch_size / (parts * processes))`."""
    return np.arange(batch_size).reshape(parts, processes, -1)[:, process]
