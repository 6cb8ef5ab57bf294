"""Latents of all photos, encoded once: what the diffusion model trains on."""

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL

from ..data.prepared import PreparedSplit
from ..digest import weights_digest
from ..errors import InputError
from .cache import cached_array, fingerprint
from .pixels import to_model_range


def encoder_digest(vae: AutoencoderKL) -> str:
    """SHA-256 over what makes the latents: another decoder leaves them, and all that was trained on them, valid."""
    return weights_digest(*(part for part in (vae.encoder, vae.quant_conv) if part is not None))


def latent_moments(
    accelerator: Accelerator, split: PreparedSplit, vae: AutoencoderKL, image_size: int, cache_dir: str
) -> np.ndarray:
    """Mean and standard deviation of every photo's latent, as it is and mirrored.

    Returns:
        Memory-mapped float16 `(N, 2, 2, C, h, w)`: photo, mirrored or not, mean or standard deviation, latent. Not
        yet multiplied with `scaling_factor`. Cached under a fingerprint of photos, encoder weights and size.

    Raises:
        InputError: the photos are not squares of `image_size`.
    """
    height, width = split.image(0).shape[:2]
    if (height, width) != (image_size, image_size):
        raise InputError(
            f"expected photos of {image_size} x {image_size} pixels, found {width} x {height} in {split.folder}; "
            f"prepare them with --image_size {image_size}, or train with --image_size {height}"
        )

    @torch.no_grad()
    def encode(start: int, stop: int) -> np.ndarray:
        images = to_model_range(np.stack([split.image(i) for i in range(start, stop)])).to(vae.device)
        both = torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)
        posterior = vae.encode(both).latent_dist
        moments = torch.stack([posterior.mean, posterior.std], dim=1)  # (2 B, 2, C, h, w)
        return moments.unflatten(0, (-1, 2)).half().cpu().numpy()

    side = image_size // 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (len(split), 2, 2, vae.config.latent_channels, side, side)
    key = fingerprint("latents", split.fingerprint, encoder_digest(vae), image_size)
    return cached_array(accelerator, cache_dir, key, shape, np.float16, encode, "encoding photos", chunk=32)


def draw_latents(moments: np.ndarray, flips: np.ndarray, noise: torch.Tensor, scaling_factor: float) -> torch.Tensor:
    """A draw from each posterior, scaled to about unit variance.

    Args:
        moments: `(B, 2, 2, C, h, w)`, rows of `latent_moments`.
        flips: 0 or 1 for each, `(B,)`.
        noise: standard normal, `(B, C, h, w)`.
    """
    chosen = torch.from_numpy(moments[np.arange(len(moments)), flips]).float()  # (B, 2, C, h, w)
    return (chosen[:, 0] + chosen[:, 1] * noise) * scaling_factor
