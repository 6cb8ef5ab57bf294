"""Batches for the denoiser: latents with noise, timesteps and captions, functions of (seed, images seen) alone."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from ..data.prepared import PreparedSplit
from .cache import OnTheFly
from .execution import Execution
from .latents import sample_latents
from .stream import ImageStream, image_noise, step_generator
from .text import Captions


@dataclass(frozen=True)
class Batch:
    """One process's rows of a global batch, on the CPU."""

    latents: torch.Tensor  # (B, C, h, w), scaled
    noise: torch.Tensor  # (B, C, h, w)
    timesteps: torch.Tensor  # (B,)
    captions: torch.Tensor  # (B, L, D) embeddings or (B, L) token ids
    features: torch.Tensor | None = None  # (B, 512, s, s), what the middle of the UNet learns to predict
    # (B,): with token ids in a piece of a batch, which of its distinct captions, then (K, L), each sample has
    texts: torch.Tensor | None = None

    def pieces(self, size: int) -> list["Batch"]:
        """In pieces of `size` samples, in order.

        Captions repeat: of token ids each distinct caption stands once in a piece. They are found here, on the CPU,
        because a device would have to stop until their number is known.
        """
        found = []
        for start in range(0, len(self.latents), size):
            piece = self._each(lambda tensor, start=start: tensor[start : start + size])
            if piece.captions.ndim == 2:
                distinct, texts = torch.unique(piece.captions, dim=0, return_inverse=True)
                piece = replace(piece, captions=distinct, texts=texts)
            found.append(piece)
        return found

    def to(self, device: torch.device) -> "Batch":
        """On `device`; copied there while the CPU goes on if the batch is `pinned`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pinned(self) -> "Batch":
        """In page-locked memory, from which CUDA copies asynchronously."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        tensors = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return Batch(**{name: change(tensor) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class DiffusionProcess:
    """What batches need to know of the autoencoder and of the noise schedule."""

    scaling_factor: float  # of the latents
    num_timesteps: int


class EncodedPhotos:
    """A split of the dataset as the denoiser sees it.

    Args:
        moments: of the latents, from `latent_moments`.
        features: from `classifier_features`, for representation alignment.
    """

    def __init__(
        self,
        split: PreparedSplit,
        moments: np.ndarray | OnTheFly,
        captions: Captions,
        process: DiffusionProcess,
        features: np.ndarray | OnTheFly | None = None,
    ):
        self.moments, self.captions, self.process, self.features = moments, captions, process, features
        # numbers[i, j]: caption j of photo i, of which there are counts[i]
        self.counts = np.array([len(texts) for texts in split.captions])
        self.numbers = np.zeros((len(self.counts), self.counts.max()), np.int64)
        for photo, texts in enumerate(split.captions):
            self.numbers[photo, : len(texts)] = captions.numbers(texts)

    def batch(
        self,
        chosen: np.ndarray,
        generator: torch.Generator,
        caption_dropout: float,
        noise: torch.Tensor,
        rows: np.ndarray | None = None,
    ) -> Batch:
        """The photos `chosen`, each with a random flip, latent, noise, timestep and caption, some without caption.

        Args:
            noise: of the returned rows, `(B, 2, C, h, w)`: for the sample of the posterior, and for the diffusion.
            rows: which of them to return, int64; all by default. The generator draws a few numbers for all, so that
                they do not depend on the number of processes; nothing else is read or computed for the others.
        """
        count = len(chosen)
        flips = torch.randint(2, (count,), generator=generator).numpy()
        timesteps = torch.randint(self.process.num_timesteps, (count,), generator=generator)
        dropped = torch.rand(count, generator=generator).lt(caption_dropout).numpy()
        numbers = np.where(dropped, 0, self.numbers[chosen, self._views(chosen, generator)])
        if rows is not None:
            chosen, flips, numbers, timesteps = chosen[rows], flips[rows], numbers[rows], timesteps[rows]
        latents = sample_latents(self.moments[chosen, flips], noise[:, 0], self.process.scaling_factor)
        captions = torch.from_numpy(self.captions.table[numbers])
        features = None if self.features is None else torch.from_numpy(self.features[chosen, flips])
        return Batch(latents, noise[:, 1], timesteps, captions, features)

    def _views(self, chosen: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Which of its captions each photo gets, int64 `(B,)`. Without a choice, nothing is drawn."""
        if self.numbers.shape[1] == 1:
            return np.zeros(len(chosen), np.int64)
        shares = torch.rand(len(chosen), generator=generator, dtype=torch.float64).numpy()
        return (shares * self.counts[chosen]).astype(np.int64)

    def validation_batch(self, seed: int, most: int = 1024) -> Batch:
        """The same at every call: posterior means, no flips, all captions, timesteps spread evenly.

        Args:
            most: of more photos than that, an evenly spaced selection is taken.
        """
        chosen = np.linspace(0, len(self.moments) - 1, min(most, len(self.moments))).astype(int)
        count, shape = len(chosen), (len(chosen), *self.moments.shape[3:])
        generator = torch.Generator().manual_seed(seed)
        # Also what is not used here is drawn, as it always was: losses stay comparable with those of earlier versions.
        torch.randint(2, (count,), generator=generator)
        _, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        torch.randint(self.process.num_timesteps, (count,), generator=generator)
        torch.rand(count, generator=generator)
        numbers = self.numbers[chosen, self._views(chosen, generator)]
        latents = torch.from_numpy(self.moments[chosen, 0, 0]).float() * self.process.scaling_factor
        spread = (torch.arange(count) + 0.5) * self.process.num_timesteps / count
        timesteps = spread.long()[torch.randperm(count, generator=generator)]
        return Batch(latents, noise, timesteps, torch.from_numpy(self.captions.table[numbers]))


@dataclass(frozen=True)
class Batches:
    """The batches of a run, each a function of (seed, images seen)."""

    photos: EncodedPhotos
    stream: ImageStream
    batch_size: int
    caption_dropout: float
    rows: np.ndarray  # of each batch, that this process trains on: (accumulation steps, B), see `own_rows`
    execution: Execution

    def at(self, images_seen: int) -> list[Batch]:
        """A piece of the batch for each accumulation step."""
        seed, rows = self.stream.seed, self.rows.reshape(-1)
        chosen = self.stream.indices(images_seen, self.batch_size)
        noise = image_noise(seed, images_seen + rows, (2, *self.photos.moments.shape[3:]))
        batch = self.photos.batch(chosen, step_generator(seed, images_seen), self.caption_dropout, noise, rows)
        pieces = batch.pieces(self.rows.shape[1])
        return [piece.pinned() for piece in pieces] if self.execution.pinned_memory else pieces


Prepared = TypeVar("Prepared")


def prepared_along(
    steps: Iterable[int], prepare: Callable[[int], Prepared], batch_size: int, execution: Execution
) -> Iterator[tuple[int, Prepared]]:
    """Yield (images seen, what `prepare` makes for it) for all `steps`, which begin one batch after another.

    Where the device suits it, a thread prepares the next batch while the caller trains on this one. After the last
    step one batch is left over.
    """
    if not execution.prepares_ahead:
        yield from ((images_seen, prepare(images_seen)) for images_seen in steps)
        return
    with ThreadPoolExecutor(1, "batches") as thread:
        following = None
        for images_seen in steps:
            batch = (following or thread.submit(prepare, images_seen)).result()
            following = thread.submit(prepare, images_seen + batch_size)
            yield images_seen, batch
