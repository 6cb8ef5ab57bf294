"""Latents of all photos, encoded once: what the diffusion model is trained on."""

# diffusers annotates configs, outputs and tensors too narrowly for a type checker.
# pyright: reportAttributeAccessIssue=false

import numpy as np
import torch
from diffusers import AutoencoderKL

from ..data.prepared import PreparedSplit
from ..digest import encoder_digest
from ..errors import InputError
from ..pixels import to_model_range
from .cache import Cache, fingerprint
from .models import downsample_factor


def latent_moments(cache: Cache, split: PreparedSplit, vae: AutoencoderKL, image_size: int) -> np.ndarray:
    """Mean and standard deviation of the latent of every photo and of its mirror image.

    Returns:
        Memory-mapped float16 `(N, 2, 2, C, h, w)`: photo, original or mirrored, mean or standard deviation, latent.
        Not yet multiplied by `scaling_factor`. Cached under a fingerprint of photos, encoder weights and size.

    Raises:
        InputError: the photos are not squares of `image_size`.
    """
    height, width = split.image(0).shape[:2]
    if (height, width) != (image_size, image_size):
        raise InputError(
            f"The photos in {split.folder} must be {image_size} x {image_size} pixels, but are {width} x {height}."
            f" Prepare them with --image_size {image_size}, or train with --image_size {height}."
        )

    @torch.no_grad()
    def encode(start: int, stop: int) -> np.ndarray:
        images = to_model_range(np.stack([split.image(i) for i in range(start, stop)])).to(vae.device)
        both = torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)  # (2 B, 3, H, W)
        posterior = vae.encode(both).latent_dist
        moments = torch.stack([posterior.mean, posterior.std], dim=1)  # (2 B, 2, C, h, w)
        return moments.unflatten(0, (-1, 2)).half().cpu().numpy()

    side = image_size // downsample_factor(vae)
    shape = (len(split), 2, 2, vae.config.latent_channels, side, side)
    key = fingerprint("latents", split.fingerprint, encoder_digest(vae), image_size)
    return cache.array(key, shape, np.float16, encode, "encoding photos", chunk=32)


def sample_latents(moments: np.ndarray, flips: np.ndarray, noise: torch.Tensor, scaling_factor: float) -> torch.Tensor:
    """A sample of each posterior, scaled to about unit variance: `(B, C, h, w)`.

    Args:
        moments: `(B, 2, 2, C, h, w)`, rows of `latent_moments`.
        flips: 0 or 1 for each, `(B,)`.
        noise: standard normal, `(B, C, h, w)`.
    """
    chosen = torch.from_numpy(moments[np.arange(len(moments)), flips]).float()  # (B, 2, C, h, w)
    return (chosen[:, 0] + chosen[:, 1] * noise) * scaling_factor
