"""Give a trained autoencoder more latent channels: `python runs/widen_latents.py PHOTOS VAE OUT CHANNELS 0,2,3,…`.

The listed channels of VAE are kept, in their order; channels that carry nothing are left out. The new ones start as a
linear readout of the encoder's last features (ridge regression) that predicts what its reconstructions lack most: the
largest principal components of the residual in patches of 8 x 8 pixels. They carry information from the first step on,
so the KL term does not switch them off before the decoder has learned to use them. OUT needs further training.
"""

import sys

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from animal_ldm.data.prepared import load_split
from animal_ldm.pixels import to_model_range
from animal_ldm.training.crops import center_crop

PATCH = 8


@torch.no_grad()
def readout(vae: AutoencoderKL, images: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `(channels, C, 3, 3)` and biases of a convolution over the encoder's last features, unit variance."""
    features, residuals = [], []
    hook = vae.encoder.conv_out.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    for part in images.split(32):
        residuals.append(part - vae.decode(vae.encode(part).latent_dist.mode()).sample)
    hook.remove()
    h = torch.cat(features)  # (N, C, 16, 16)
    patches = F.unfold(torch.cat(residuals), PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1).double()
    _, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    wanted = patches @ vectors.flip(1)[:, :channels]
    seen = F.unfold(h, 3, padding=1).transpose(1, 2).flatten(0, 1)
    chosen = torch.randperm(len(seen))[:60_000]
    x, y = seen[chosen].double(), wanted[chosen]
    mean = x.mean(0)
    gram = (x - mean).T @ (x - mean)
    gram += torch.eye(len(gram)) * gram.diagonal().mean() * 1e-3
    weights = torch.linalg.solve(gram, (x - mean).T @ (y - y.mean(0)))
    weights /= ((x - mean) @ weights).std(0)
    bias = -(mean @ weights)
    return weights.T.reshape(channels, h.shape[1], 3, 3).float(), bias.float()


@torch.no_grad()
def widen(vae: AutoencoderKL, images: torch.Tensor, channels: int, kept: list[int]) -> AutoencoderKL:
    old, count = vae.config.latent_channels, len(kept)
    wide = AutoencoderKL.from_config({**vae.config, "latent_channels": channels, "scaling_factor": 1.0})
    state = wide.state_dict()
    replaced = ("encoder.conv_out", "quant_conv", "post_quant_conv", "decoder.conv_in")
    for name, tensor in vae.state_dict().items():
        if not name.startswith(replaced):
            state[name].copy_(tensor)

    # the 1x1 convolutions on both sides of the latent are folded into their neighbours and become the identity
    quant = vae.quant_conv.weight.flatten(1)
    into = torch.einsum("oi,ihyx->ohyx", quant, vae.encoder.conv_out.weight)
    bias = quant @ vae.encoder.conv_out.bias + vae.quant_conv.bias
    encoder, encoder_bias = state["encoder.conv_out.weight"], state["encoder.conv_out.bias"]
    encoder[channels:] *= 0.05
    encoder_bias[channels:] = -4  # log variance of the new channels
    rows = kept + [old + channel for channel in kept]
    places = [*range(count), *range(channels, channels + count)]
    encoder[places], encoder_bias[places] = into[rows], bias[rows]
    encoder[count:channels], encoder_bias[count:channels] = readout(vae, images, channels - count)
    for name in ("quant_conv", "post_quant_conv"):
        size = len(state[f"{name}.bias"])
        state[f"{name}.weight"].copy_(torch.eye(size)[:, :, None, None])
        state[f"{name}.bias"].zero_()
    post = vae.post_quant_conv
    decoder = state["decoder.conv_in.weight"]
    decoder *= 0.5
    decoder[:, :count] = torch.einsum("oiyx,ij->ojyx", vae.decoder.conv_in.weight, post.weight.flatten(1))[:, kept]
    shift = torch.einsum("oiyx,i->o", vae.decoder.conv_in.weight, post.bias)
    state["decoder.conv_in.bias"].copy_(vae.decoder.conv_in.bias + shift)
    wide.load_state_dict(state)
    return wide


def main() -> None:
    photos, source, out, channels, kept = sys.argv[1:]
    torch.manual_seed(1)
    split = load_split(photos, "train")
    pixels = np.stack([split.image(i) for i in range(0, len(split), 24)])
    vae = AutoencoderKL.from_pretrained(source).eval()
    images = to_model_range(center_crop(pixels, vae.config.sample_size))
    widen(vae, images, int(channels), [int(channel) for channel in kept.split(",")]).save_pretrained(out)


if __name__ == "__main__":
    main()
