"""Batches for the denoiser: latents with noise, timesteps and captions, each a pure function of its generator."""

from dataclasses import dataclass

import numpy as np
import torch

from ..data.prepared import PreparedSplit
from .latents import draw_latents
from .text import Captions


@dataclass
class Batch:
    """One global batch, on the CPU."""

    latents: torch.Tensor  # (B, C, h, w), scaled
    noise: torch.Tensor  # (B, C, h, w)
    timesteps: torch.Tensor  # (B,)
    captions: torch.Tensor  # (B, L, D) embeddings or (B, L) token ids
    features: torch.Tensor | None  # (B, 512, s, s), what the UNet's middle is to be aligned with


class Photos:
    """A split as the denoiser sees it.

    Args:
        moments: of the split's latents, as `latent_moments` gives them.
        scaling_factor: the VAE's.
        num_train_timesteps: of the diffusion process.
    """

    def __init__(
        self,
        moments: np.ndarray,
        split: PreparedSplit,
        captions: Captions,
        scaling_factor: float,
        num_train_timesteps: int,
    ):
        self.moments, self.captions = moments, captions
        self.scaling_factor, self.num_train_timesteps = scaling_factor, num_train_timesteps
        self.numbers = captions.numbers(split.texts)
        # of the split's photos, as `classifier_features` gives them, if the UNet is to be aligned with them
        self.features: np.ndarray | None = None

    def draw(self, chosen: np.ndarray, generator: torch.Generator, caption_dropout: float) -> Batch:
        """Photos `chosen`, each with its flip, posterior draw, noise, timestep and maybe without its caption."""
        count, shape = len(chosen), (len(chosen), *self.moments.shape[3:])
        flips = torch.randint(2, (count,), generator=generator).numpy()
        posterior_noise = torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        timesteps = torch.randint(self.num_train_timesteps, (count,), generator=generator)
        dropped = torch.rand(count, generator=generator).lt(caption_dropout).numpy()
        latents = draw_latents(self.moments[chosen], flips, posterior_noise, self.scaling_factor)
        captions = self.captions.table[np.where(dropped, 0, self.numbers[chosen])]
        features = None if self.features is None else torch.from_numpy(self.features[chosen, flips])
        return Batch(latents, noise, timesteps, torch.from_numpy(captions), features)

    def validation_batch(self, seed: int, most: int = 1024) -> Batch:
        """The same at every call: posterior means, no flips, every caption, timesteps spread evenly."""
        chosen = np.linspace(0, len(self.moments) - 1, min(most, len(self.moments))).astype(int)
        generator = torch.Generator().manual_seed(seed)
        batch = self.draw(chosen, generator, caption_dropout=0.0)
        batch.latents = torch.from_numpy(self.moments[chosen, 0, 0]).float() * self.scaling_factor
        spread = (torch.arange(len(chosen)) + 0.5) * self.num_train_timesteps / len(chosen)
        batch.timesteps = spread.long()[torch.randperm(len(chosen), generator=generator)]
        return batch
