"""Networks: size presets of the autoencoder and of the UNet, and loading of trained ones."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from ..errors import InputError

# Group normalisation needs several channels in a group: it takes away each group's mean and scale over the picture,
# so a channel that is a group of its own no longer carries how bright or how colourful the picture is.

# Channels from full resolution down; the last is that of the latent resolution and of the middle block.
AUTOENCODERS = {
    "tiny": {"block_out_channels": (16, 48, 96, 128), "layers_per_block": 1, "norm_num_groups": 4},
    "small": {"block_out_channels": (32, 64, 128, 256), "layers_per_block": 1, "norm_num_groups": 8},
    "medium": {"block_out_channels": (64, 128, 256, 256), "layers_per_block": 2, "norm_num_groups": 16},
    "large": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
}

# Channels per resolution of the latent, halved from one to the next. Attention stands where the side is at most
# `attention`; one size up it would nearly double a step's time on a CPU.
UNETS = {
    "tiny": {"block_out_channels": (32, 64, 128), "layers_per_block": 1, "norm_num_groups": 8, "attention": 8},
    "small": {"block_out_channels": (64, 128, 192), "layers_per_block": 1, "norm_num_groups": 16, "attention": 8},
    "medium": {"block_out_channels": (128, 192, 256), "layers_per_block": 2, "norm_num_groups": 32, "attention": 16},
    "large": {"block_out_channels": (128, 256, 384), "layers_per_block": 2, "norm_num_groups": 32, "attention": 16},
}


def build_autoencoder(preset: str, image_size: int, downsample_factor: int, latent_channels: int) -> AutoencoderKL:
    """`AutoencoderKL` with random weights: `(B, 3, S, S)` in [-1, 1] to `(B, latent_channels, S / f, S / f)`.

    Args:
        preset: a key of `AUTOENCODERS`.
        downsample_factor: f, a power of two up to 8.
    """
    config = dict(AUTOENCODERS[preset])
    channels = config.pop("block_out_channels")
    levels = int(math.log2(downsample_factor))
    if 2**levels != downsample_factor or not 1 <= levels < len(channels):
        raise InputError(f"expected a downsample factor of 2, 4 or 8, found {downsample_factor}")
    if image_size % downsample_factor:
        raise InputError(f"expected an image size that {downsample_factor} divides, found {image_size}")
    channels = (*channels[:levels], channels[-1])
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        latent_channels=latent_channels,
        sample_size=image_size,
        scaling_factor=1.0,
        **config,
    )


def build_unet(
    preset: str, latent_size: int, latent_channels: int, cross_attention_dim: int, dropout: float
) -> UNet2DConditionModel:
    """`UNet2DConditionModel` with random weights over latents `(B, latent_channels, latent_size, latent_size)`.

    Args:
        preset: a key of `UNETS`.
        cross_attention_dim: width of the text encoder's output.
        dropout: in the residual blocks.
    """
    config = dict(UNETS[preset])
    channels = config["block_out_channels"]
    attention_side = config.pop("attention")
    attends = [latent_size >> level <= attention_side for level in range(len(channels))]
    smallest = 2 ** (len(channels) - 1)
    if latent_size % smallest:
        raise InputError(
            f"the UNet halves its latents {len(channels) - 1} times: expected a latent size that {smallest} divides, "
            f"found {latent_size}; choose another --image_size"
        )
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        cross_attention_dim=cross_attention_dim,
        # What diffusers calls attention_head_dim is the number of heads.
        attention_head_dim=tuple(max(1, width // 32) for width in channels),
        dropout=dropout,
        # The caption joins the timestep too, and both scale and shift what the normalisation leaves: it is learned
        # sooner than by cross-attention alone.
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        **config,
    )


def load_unet(
    name: str, latent_size: int, latent_channels: int, cross_attention_dim: int, dropout: float
) -> UNet2DConditionModel:
    """A new UNet from a preset's name or a `.json` config, or trained weights from a folder or the Hub.

    Raises:
        InputError: its channels or its `cross_attention_dim` fit neither the autoencoder nor the text encoder.
    """
    if name in UNETS:
        return build_unet(name, latent_size, latent_channels, cross_attention_dim, dropout)
    if name.endswith(".json"):
        unet = UNet2DConditionModel.from_config(json.loads(Path(name).read_text()))
    else:
        unet = load_component(UNet2DConditionModel, name, "unet")
    expected = {
        "sample_size": latent_size,
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "cross_attention_dim": cross_attention_dim,
    }
    found = {key: unet.config[key] for key in expected}
    if found != expected:
        raise InputError(
            f"expected a UNet with {expected}, as autoencoder and text encoder have it; {name} has {found}"
        )
    return unet


def load_component(component_class: Any, name: str, subfolder: str) -> Any:
    """`component_class.from_pretrained` from a local folder or the Hub, from its root or from `subfolder`.

    Raises:
        InputError: there is nothing of the kind under `name`.
    """
    errors = []
    for candidate in ("", subfolder):
        try:
            return component_class.from_pretrained(name, subfolder=candidate)
        except (OSError, ValueError) as error:
            errors.append(str(error).strip().splitlines()[0])
    raise InputError(
        f"expected an {component_class.__name__} in {name!r} (a folder, or a repository on the Hub), found none: "
        + "; ".join(dict.fromkeys(errors))
    )


def use_attention(unet: UNet2DConditionModel, attention: str, device: torch.device) -> None:
    """Choose the attention kernels: "sdpa" (PyTorch's, the default) or "xformers".

    On a CPU "sdpa" is plain matrix products: the backward pass of the fused kernel takes a third of a step there.

    Raises:
        InputError: xformers is not installed, or has no kernels for this machine.
    """
    if attention == "sdpa" and device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())
    if attention == "xformers":
        try:
            unet.enable_xformers_memory_efficient_attention()
        except (ImportError, ValueError, NotImplementedError, RuntimeError) as error:
            raise InputError(
                f"xformers' attention cannot be used here ({str(error).strip().splitlines()[0]}); "
                "install `animal-ldm[xformers]` on a machine with a CUDA GPU that its kernels support, "
                "or leave --attention at sdpa"
            ) from error
