"""A UNet for new latents from one trained on others: its first and last convolutions are mapped, the rest stays.

usage: python runs/warm_start.py PIPELINE NEW_VAE PREPARED_PHOTOS OUT     then: animal-ldm train --fork OUT …

Both autoencoders encode the same photos to the same grid, so the old first convolution's output can be predicted from
3 x 3 places of the new latents, and the new latents from the old ones. Both maps are ridge regressions over 1,500
photos. Text encoder and tokenizer are copied.
"""

import sys

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn import functional as F

from animal_ldm.data.prepared import load_split
from animal_ldm.loading import load_pipeline
from animal_ldm.pixels import to_model_range

PHOTOS, BATCH, PENALTY = 1500, 50, 0.05


def latents(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    return vae.encode(images).latent_dist.mean * vae.config.scaling_factor


def ridge(inputs: torch.Tensor, targets: torch.Tensor, kernel: int) -> torch.Tensor:
    """Weights `(C_out, C_in, kernel, kernel)` of the convolution that predicts `targets` best; the bias is dropped."""
    patches = F.unfold(F.pad(inputs, [kernel // 2] * 4), kernel).transpose(1, 2).flatten(0, 1)
    patches = torch.cat([patches, torch.ones(len(patches), 1)], 1).double()
    wanted = targets.permute(0, 2, 3, 1).flatten(0, 2).double()
    gram = patches.T @ patches + PENALTY * len(patches) * torch.eye(patches.shape[1])
    weights = torch.linalg.solve(gram, patches.T @ wanted)
    explained = 1 - (wanted - patches @ weights).square().sum(0) / (wanted - wanted.mean(0)).square().sum(0)
    print(f"{kernel} x {kernel}: {explained.mean():.2f} of the variance explained on average")
    return weights[:-1].T.unflatten(1, (inputs.shape[1], kernel, kernel)).float()


@torch.no_grad()
def main(pipeline_folder: str, new_vae: str, photos: str, out: str) -> None:
    pipeline = load_pipeline(pipeline_folder, "cpu")
    vae = AutoencoderKL.from_pretrained(new_vae).eval()
    split = load_split(photos, "train")
    chosen = np.linspace(0, len(split) - 1, PHOTOS).astype(int)
    batches = [to_model_range(np.stack([split.image(i) for i in part])) for part in np.split(chosen, PHOTOS // BATCH)]
    old, new = (torch.cat([latents(network, images) for images in batches]) for network in (pipeline.vae, vae))

    state = pipeline.unet.state_dict()
    first, last = state["conv_in.weight"], state["conv_out.weight"]
    state["conv_in.weight"] = ridge(new, F.conv2d(old, first, padding=1), 3)
    to_new = ridge(old, new, 1)[:, :, 0, 0]
    state["conv_out.weight"] = torch.einsum("no,ochw->nchw", to_new, last)
    state["conv_out.bias"] = to_new @ state["conv_out.bias"]
    channels = vae.config.latent_channels
    unet = UNet2DConditionModel.from_config(
        {**pipeline.unet.config, "in_channels": channels, "out_channels": channels}
    )
    unet.load_state_dict(state)
    unet.save_pretrained(f"{out}/unet")
    pipeline.text_encoder.save_pretrained(f"{out}/text_encoder")
    pipeline.tokenizer.save_pretrained(f"{out}/tokenizer")


if __name__ == "__main__":
    main(*sys.argv[1:])
