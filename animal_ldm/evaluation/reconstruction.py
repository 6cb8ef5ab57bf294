"""The autoencoder alone, on held-out photos: what it loses, no sample of the whole model can win back."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from tqdm import tqdm

from ..digest import weights_digest
from .features import Extractor, extract
from .images import Images, save_whole
from .metrics import frechet_distance_of_features, kernel_distance
from .report import Photos, Reference, share_recognised


@torch.inference_mode()
def reconstruct(vae: AutoencoderKL, photos: Images, cache: Path, batch_size: int = 32) -> Images:
    """Every photo encoded to the mean of its latents and decoded, as PNG files in `cache`; those there are kept."""
    identity = hashlib.sha256(f"{weights_digest(vae)} {photos.digest()}".encode()).hexdigest()
    folder = cache / identity[:16]
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / f"{i:06d}.png" for i in range(len(photos)))
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    for start in tqdm(range(0, len(missing), batch_size), desc="reconstructions", unit="batch", leave=False):
        batch = missing[start : start + batch_size]
        pictures = torch.from_numpy(np.stack([photos[i] for i in batch])).permute(0, 3, 1, 2)  # (B, 3, H, W)
        pictures = pictures.to(vae.device, vae.dtype) / 127.5 - 1
        decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample
        decoded = ((decoded.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        for i, picture in zip(batch, decoded, strict=True):
            save_whole(Image.fromarray(picture), files[i])
    return Images(files, photos.labels)


def measure_reconstructions(
    vae: AutoencoderKL,
    photos: Images,
    reference: Reference,
    extractor: Extractor,
    cache: Path,
    batch_size: int = 32,
    workers: int = 0,
) -> dict:
    """How far held-out photos come back changed.

    Returns:
        n: number of photos; psnr: mean over them, in dB; frechet_distance and kernel_distance between the photos and
        their reconstructions (with their label, such as "FID"); recognised, recognised_photos: shares of the
        reconstructions and of the photos in which the probe sees the class.
    """
    pictures = reconstruct(vae, photos, cache / "reconstructions", batch_size)
    features = extract(pictures, extractor, cache / "features", batch_size, workers, description="reconstructions")
    errors = (photos[i].astype(float) - pictures[i] for i in range(len(photos)))
    # One grey level of error at least: a perfect picture has no finite PSNR.
    psnr = [10 * np.log10(255**2 / max(np.square(error).mean(), 1 / error.size)) for error in errors]
    kid = kernel_distance(reference.validation.features, features)
    return {
        "n": len(photos),
        "psnr": float(np.mean(psnr)),
        "label": extractor.distance_name,
        "frechet_distance": frechet_distance_of_features(reference.validation.features, features),
        "kernel_distance": kid.mean,
        "recognised": share_recognised(reference, Photos(features, photos.labels)),
        "recognised_photos": share_recognised(reference, reference.validation),
    }
