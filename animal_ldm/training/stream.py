"""The order in which a run sees its photos, as a pure function of (seed, images seen).

Nothing here keeps state: the batch at position `images_seen` is the same whether the run got there in one stretch or
was killed and resumed, and on any number of processes.
"""

from collections.abc import Sequence

import numpy as np
import torch


class ImageStream:
    """Endless stream of dataset indices: a fresh permutation per epoch.

    Args:
        labels: class of each image; only its length matters unless `balanced`.
        seed: of the permutations.
        balanced: every class comes equally often; within a class, each image comes once before any comes again.
    """

    def __init__(self, labels: Sequence[str], seed: int, balanced: bool = False):
        self.groups = [np.arange(len(labels))]
        if balanced:
            _, classes = np.unique(np.array(tuple(labels)), return_inverse=True)
            self.groups = np.split(np.argsort(classes, kind="stable"), np.cumsum(np.bincount(classes))[:-1])
        self.seed = seed
        # Permutations in use: computing one for every image would cost O(dataset).
        self._recent: dict[tuple[int, int, int], np.ndarray] = {}

    def indices(self, images_seen: int, count: int) -> np.ndarray:
        """Dataset indices of images `images_seen` … `images_seen + count - 1` of the stream, int64 `(count,)`."""
        positions = np.arange(images_seen, images_seen + count)
        # In each round every group comes once; the order of the groups is new in each round.
        rounds, slots = np.divmod(positions, len(self.groups))
        chosen = np.empty(count, np.int64)
        for i, (round_, slot) in enumerate(zip(rounds, slots, strict=True)):
            group = int(self._permutation(len(self.groups), round_, 0)[slot]) if len(self.groups) > 1 else 0
            members = self.groups[group]
            epoch, rank = divmod(int(round_), len(members))
            chosen[i] = members[self._permutation(len(members), epoch, 1 + group)[rank]]
        return chosen

    def _permutation(self, size: int, epoch: int, stream: int) -> np.ndarray:
        key = (size, int(epoch), int(stream))
        if key not in self._recent:
            if len(self._recent) > 4 * len(self.groups) + 4:
                self._recent.clear()
            self._recent[key] = np.random.default_rng((self.seed, stream, int(epoch))).permutation(size)
        return self._recent[key]


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
