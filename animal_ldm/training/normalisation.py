"""Statistics of an autoencoder's latents, and their normalisation within its weights."""

# diffusers annotates the convolutions as optional, and outputs too narrowly.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOperatorIssue=false

import numpy as np
import torch
from diffusers import AutoencoderKL

from ..pixels import to_model_range
from .crops import center_crop


@torch.no_grad()
def latent_statistics(
    vae: AutoencoderKL, pixels: np.ndarray, size: int, seed: int, most: int = 4096
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each latent channel over samples of the posteriors: two `(C,)`, float64.

    Args:
        pixels: uint8 `(N, H, W, 3)`; their central squares of side `size` are encoded.
        most: of more photos than that, an evenly spaced selection is measured.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = pixels[np.linspace(0, len(pixels) - 1, min(most, len(pixels))).astype(int)]
    moments = []
    for start in range(0, len(pixels), 64):
        images = to_model_range(center_crop(pixels[start : start + 64], size)).to(vae.device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        latents = posterior.mean.cpu() + posterior.std.cpu() * noise
        latents = latents.double().transpose(0, 1).flatten(1)  # (C, B h w)
        moments.append(
            torch.stack([latents.sum(1), latents.square().sum(1), torch.full((len(latents),), latents.shape[1])])
        )
    total, squares, count = torch.stack(moments).sum(0)
    mean = total / count
    return mean, (squares / count - mean.square()).sqrt()


@torch.no_grad()
def normalize_latents(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Fold `(z - mean) / std` into the 1x1 convolutions on both sides of the latent; reconstructions do not change.

    Args:
        mean, std: `(C,)`, of the latents before normalisation.
    """
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    mean, std = mean.to(quant.weight), std.to(quant.weight)
    # encoder side: mean' = (mean - m) / s and logvar' = logvar - 2 log s
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    # decoder side: post(s z' + m); the bias first, because it needs the old weight
    post.bias += (post.weight.flatten(1) * mean).sum(1)
    post.weight *= std[None, :, None, None]
