"""The autoencoder alone, on held-out photos: what it loses, no sample of the whole model can win back."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL
from PIL import Image
from tqdm import tqdm

from ..digest import weights_digest
from ..perceptual import PerceptualDistance
from .features import Extractor, extract
from .images import Images, save_whole
from .metrics import frechet_distance_of_features, kernel_distance
from .report import Photos, Reference, share_recognised, small_sample_note


@torch.inference_mode()
def reconstruct(
    vae: AutoencoderKL, photos: Images, cache: Path, batch_size: int = 32, state: PartialState | None = None
) -> Images:
    """Every photo encoded to the mean of its latents and decoded, as PNG files in `cache`; those there are kept."""
    identity = hashlib.sha256(f"{weights_digest(vae)} {photos.digest()}".encode()).hexdigest()
    folder = cache / identity[:16]
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / f"{i:06d}.png" for i in range(len(photos)))
    rank, processes = (state.process_index, state.num_processes) if state else (0, 1)
    missing = [i for i in range(rank, len(photos), processes) if not files[i].is_file()]
    for start in tqdm(range(0, len(missing), batch_size), desc="reconstructions", unit="batch", leave=False):
        batch = missing[start : start + batch_size]
        decoded = vae.decode(vae.encode(_stack(photos, batch).to(vae.device, vae.dtype)).latent_dist.mode()).sample
        decoded = ((decoded.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        for i, picture in zip(batch, decoded, strict=True):
            save_whole(Image.fromarray(picture), files[i])
    if state:
        state.wait_for_everyone()
    return Images(files, photos.labels)


def _stack(images: Images, indices: Sequence[int]) -> torch.Tensor:
    """Pictures of one size as (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack([images[i] for i in indices])).permute(0, 3, 1, 2) / 127.5 - 1


def measure_reconstructions(
    vae: AutoencoderKL,
    photos: Images,
    reference: Reference,
    extractor: Extractor,
    perceptual: PerceptualDistance | None,
    seed: int,
    cache: Path,
    batch_size: int = 32,
    workers: int = 0,
) -> dict:
    """How far held-out photos come back changed.

    Args:
        perceptual: None leaves LPIPS unmeasured.
        seed: of the kernel distance's subsets.

    Returns:
        n: number of photos, from which all that follows is measured. psnr: mean over them, in dB; lpips: mean over
        them, with SqueezeNet, None where not measured; frechet_distance and kernel_distance between the photos and
        their reconstructions, with their `labels` and a `note` or None; recognised, recognised_photos: shares of the
        reconstructions and of the photos in which the probe sees the class; seed.
    """
    state = reference.state
    pictures = reconstruct(vae, photos, cache / "reconstructions", batch_size, state)
    features = extract(pictures, extractor, cache / "features", batch_size, workers, state, "reconstructions")
    real = reference.validation.features
    return {
        "n": len(photos),
        "psnr": mean_psnr(photos, pictures),
        "lpips": perceptual and mean_lpips(perceptual.to(extractor.device), photos, pictures, batch_size),
        "labels": {"frechet_distance": extractor.distance_name, "kernel_distance": extractor.kernel_name},
        "frechet_distance": frechet_distance_of_features(real, features),
        "kernel_distance": kernel_distance(real, features, seed=seed).mean,
        "recognised": share_recognised(reference, Photos(features, photos.labels)),
        "recognised_photos": share_recognised(reference, reference.validation),
        "seed": seed,
        "note": small_sample_note(extractor.name, *features.shape),
    }


def mean_psnr(photos: Images, pictures: Images) -> float:
    """In dB, the mean over pairs of pictures."""
    errors = (photos[i].astype(float) - pictures[i] for i in range(len(photos)))
    # One grey level of error at least: a perfect picture has no finite PSNR.
    return float(np.mean([10 * np.log10(255**2 / max(np.square(error).mean(), 1 / error.size)) for error in errors]))


@torch.inference_mode()
def mean_lpips(perceptual: PerceptualDistance, photos: Images, pictures: Images, batch_size: int = 32) -> float:
    """LPIPS, the mean over pairs of pictures, at the pictures' own size."""
    device = next(perceptual.parameters()).device
    distances = []
    for start in range(0, len(photos), batch_size):
        batch = range(start, min(start + batch_size, len(photos)))
        distances.append(perceptual(_stack(photos, batch).to(device), _stack(pictures, batch).to(device)).cpu())
    return float(torch.cat(distances).double().mean())
