"""The autoencoder alone, on held-out photos: no sample of the whole model can win back what it loses."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL
from PIL import Image
from tqdm import tqdm

from ..digest import weights_digest
from ..files import whole_file
from ..perceptual import PerceptualDistance
from ..pixels import to_model_range, to_uint8
from .features import Measurer
from .images import Images
from .kernel_distance import kernel_distance
from .metrics import frechet_distance_of_features
from .reference import Reference
from .report import share_recognised, small_sample_note
from .results import AutoencoderResult


@torch.inference_mode()
def reconstruct(
    vae: AutoencoderKL, photos: Images, cache: Path, batch_size: int = 32, state: PartialState | None = None
) -> Images:
    """Every photo encoded to the mean of its latents and decoded, as PNG files in `cache`. Existing files are kept."""
    identity = hashlib.sha256(f"{weights_digest(vae)} {photos.digest()}".encode()).hexdigest()
    folder = cache / identity[:16]
    files = tuple(folder / f"{i:06d}.png" for i in range(len(photos)))
    rank, processes = (state.process_index, state.num_processes) if state else (0, 1)
    missing = [i for i in range(rank, len(photos), processes) if not files[i].is_file()]
    for start in tqdm(range(0, len(missing), batch_size), desc="reconstructions", unit="batch", leave=False):
        batch = missing[start : start + batch_size]
        encoded: Any = vae.encode(to_model_range(photos.stack(batch)).to(vae.device, vae.dtype))
        decoded: Any = vae.decode(encoded.latent_dist.mode())
        for i, pixels in zip(batch, to_uint8(decoded.sample), strict=True):
            with whole_file(files[i]) as partial:
                Image.fromarray(pixels).save(partial, format="png")
    if state:
        state.wait_for_everyone()
    return Images(files, photos.labels)


def measure_reconstructions(
    photos: Images,
    images: Images,
    references: Sequence[Reference],
    measurer: Measurer,
    perceptual: PerceptualDistance | None,
    seed: int,
) -> Iterator[AutoencoderResult]:
    """How much the autoencoder changes held-out photos, by every extractor.

    Args:
        photos: the validation photos, whose features `references` hold.
        images: their reconstructions, in the same order.
        perceptual: None leaves LPIPS unmeasured.
        seed: of the kernel distance's subsets.
    """
    psnr, lpips = mean_psnr(photos, images), None
    if perceptual is not None:
        lpips = mean_lpips(perceptual.to(measurer.extractor.device), photos, images, measurer.batch_size)
    for reference, found in zip(references, measurer.feature_sets(images, "reconstructions"), strict=True):
        real = reference.validation.features
        yield AutoencoderResult(
            n=len(photos),
            psnr=psnr,
            lpips=lpips,
            frechet_distance=frechet_distance_of_features(real, found.features),
            kernel_distance=kernel_distance(real, found.features, seed=seed).mean,
            probe_accuracy=share_recognised(reference, found),
            probe_accuracy_photos=share_recognised(reference, reference.validation),
            seed=seed,
            note=small_sample_note(reference.extractor.name, *found.features.shape),
        )


def mean_psnr(photos: Images, images: Images) -> float:
    """In dB, the mean over pairs of images."""
    errors = (photos[i].astype(float) - images[i] for i in range(len(photos)))
    # One grey level of error at least: a perfect image has no finite PSNR.
    return float(np.mean([10 * np.log10(255**2 / max(np.square(error).mean(), 1 / error.size)) for error in errors]))


@torch.inference_mode()
def mean_lpips(perceptual: PerceptualDistance, photos: Images, images: Images, batch_size: int = 32) -> float | None:
    """LPIPS, the mean over pairs of images, at the images' own size; None where they are too small for SqueezeNet."""
    device = next(perceptual.parameters()).device
    distances = []
    for start in range(0, len(photos), batch_size):
        batch = range(start, min(start + batch_size, len(photos)))
        pair = (to_model_range(part.stack(batch)).to(device) for part in (photos, images))
        distances.append(perceptual(*pair).cpu())
    mean = float(torch.cat(distances).double().mean())
    return mean if math.isfinite(mean) else None
