"""Latents of all photos, encoded once: what the diffusion model is trained on."""

# diffusers annotates configs, outputs and tensors too narrowly for a type checker.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKL

from ..data.prepared import PreparedSplit
from ..digest import encoder_digest
from ..errors import InputError
from ..pixels import to_model_range
from .cache import Cache, OnTheFly, fingerprint
from .models import downsample_factor

Kept = Literal["disk", "memory", "none"]  # where what was computed of the photos is


def latent_moments(
    cache: Cache, split: PreparedSplit, vae: AutoencoderKL, image_size: int, kept: Kept = "disk"
) -> np.ndarray | OnTheFly:
    """Mean and standard deviation of the latent of every photo and of its mirror image.

    Returns:
        float16 `(N, 2, 2, C, h, w)`: photo, original or mirrored, mean or standard deviation, latent. Not yet
        multiplied by `scaling_factor`. Cached under a fingerprint of photos, encoder weights and size, and
        memory-mapped or in memory; or encoded whenever it is asked for.

    Raises:
        InputError: the photos are not squares of `image_size`.
    """
    height, width = split.image(0).shape[:2]
    if (height, width) != (image_size, image_size):
        raise InputError(
            f"The photos in {split.folder} must be {image_size} x {image_size} pixels, but are {width} x {height}."
            f" Prepare them with --image_size {image_size}, or train with --image_size {height}."
        )

    def moments(images: torch.Tensor) -> torch.Tensor:  # (B, 3, H, W) -> (B, 2, C, h, w)
        posterior = vae.encode(images).latent_dist
        return torch.stack([posterior.mean, posterior.std], dim=1).half()

    @torch.no_grad()
    def encode(start: int, stop: int) -> np.ndarray:
        images = read_photos(split, range(start, stop), vae.device)
        both = torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)  # (2 B, 3, H, W)
        return moments(both).unflatten(0, (-1, 2)).cpu().numpy()

    @torch.no_grad()
    def encode_some(numbers: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        return moments(mirror(read_photos(split, numbers.tolist(), vae.device), mirrored)).cpu().numpy()

    side = image_size // downsample_factor(vae)
    shape = (len(split), 2, 2, vae.config.latent_channels, side, side)
    if kept == "none":
        return OnTheFly(shape, encode_some)
    key = fingerprint("latents", split.fingerprint, encoder_digest(vae), image_size)
    array = cache.array(key, shape, np.float16, encode, "encoding photos", chunk=32)
    return array if kept == "disk" else np.array(array)


def read_photos(split: PreparedSplit, numbers: Iterable[int], device: torch.device) -> torch.Tensor:
    """The photos with these numbers, float32 `(B, 3, H, W)` from -1 to 1, on `device`."""
    return to_model_range(np.stack([split.image(number) for number in numbers])).to(device)


def mirror(images: torch.Tensor, mirrored: np.ndarray) -> torch.Tensor:
    """`(B, 3, H, W)` images, those that are `mirrored`, `(B,)`, from right to left."""
    return torch.where(torch.from_numpy(mirrored > 0).to(images.device)[:, None, None, None], images.flip(-1), images)


def sample_latents(moments: np.ndarray, noise: torch.Tensor, scaling_factor: float) -> torch.Tensor:
    """A sample of each posterior, scaled to about unit variance: `(B, C, h, w)`.

    Args:
        moments: `(B, 2, C, h, w)`, of `latent_moments` the photos and flips of a batch.
        noise: standard normal, `(B, C, h, w)`.
    """
    chosen = torch.from_numpy(moments).float()
    return (chosen[:, 0] + chosen[:, 1] * noise) * scaling_factor
