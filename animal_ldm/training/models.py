"""Networks: size presets of the autoencoder and of the UNet, loading of trained ones, and facts about them."""

# diffusers annotates configs, outputs and tensors too narrowly for a type checker.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel

from ..errors import InputError
from ..inspection import described_network
from ..loading import load_component
from ..released import model_folder

# Group normalisation needs several channels per group. It removes the mean and scale of each group over the image, so
# a channel that is a group of its own would lose the brightness and colour of the image.

# Channels from full resolution down; the last number is for the latent resolution and the middle block.
AUTOENCODERS = {
    "tiny": {"block_out_channels": (16, 48, 96, 128), "layers_per_block": 1, "norm_num_groups": 4},
    "small": {"block_out_channels": (32, 64, 128, 256), "layers_per_block": 1, "norm_num_groups": 8},
    "medium": {"block_out_channels": (64, 128, 256, 256), "layers_per_block": 2, "norm_num_groups": 16},
    "large": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
}

# Channels from the resolution of the latent down, which halves from one to the next. Attention is used where the side
# is at most `attention`; one resolution higher, it would nearly double the time of a step on a CPU.
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
        raise InputError(f"The downsample factor must be 2, 4 or 8, but is {downsample_factor}.")
    if image_size % downsample_factor:
        raise InputError(
            f"--image_size must be a multiple of the autoencoder's downsample factor, {downsample_factor}, but is"
            f" {image_size}."
        )
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
            f"The UNet halves its latents {len(channels) - 1} times, so their side must be a multiple of {smallest},"
            f" but it is {latent_size}. Choose another --image_size."
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
        # The caption is also added to the timestep embedding, and both scale and shift the normalised features: this
        # is learned faster than cross-attention alone.
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
        InputError: there is no such UNet, or it does not fit the autoencoder or the text encoder.
    """
    if name in UNETS:
        return build_unet(name, latent_size, latent_channels, cross_attention_dim, dropout)
    unet: Any
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise InputError(f"--unet {name}: no such file; expected the config.json of a UNet2DConditionModel.")
        unet = UNet2DConditionModel.from_config(described_network(Path(name), "unet").config)
    else:
        new = f"a new UNet needs no download: --unet {', '.join(UNETS)}"
        unet = load_component(UNet2DConditionModel, name, "unet", offline=new)
    check_unet(unet, f"--unet {name}", latent_size, latent_channels, cross_attention_dim)
    return unet


def check_unet(
    unet: UNet2DConditionModel, name: str, latent_size: int, latent_channels: int, cross_attention_dim: int
) -> None:
    """Raise an `InputError` unless a UNet fits the autoencoder and the text encoder."""
    expected = {
        "sample_size": latent_size,
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "cross_attention_dim": cross_attention_dim,
    }
    found = {key: unet.config[key] for key in expected}
    if found != expected:
        raise InputError(
            f"{name} does not fit the autoencoder and the text encoder: expected a UNet with {expected}, but it has"
            f" {found}. Choose another UNet, autoencoder or text encoder."
        )


def check_prediction_type(base: str, prediction_type: str) -> None:
    """Raise an `InputError` unless the pipeline `base` predicts `prediction_type`, which training starts from."""
    try:
        found = DDIMScheduler.load_config(model_folder(base), subfolder="scheduler").get("prediction_type", "epsilon")
    except OSError:  # not a pipeline, but a folder with a UNet
        return
    if found != prediction_type:
        raise InputError(
            f"{base} was trained with --prediction_type {found}, not {prediction_type}. Pass"
            f" --prediction_type {found}."
        )


def use_attention(unet: UNet2DConditionModel, attention: str, device: torch.device) -> None:
    """Choose the attention kernels: "sdpa" (PyTorch's, the default) or "xformers".

    On a CPU, "sdpa" means plain matrix products: the backward pass of the fused kernel would take a third of a step.

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
                f"xformers attention cannot be used here ({str(error).strip().splitlines()[0]}). Install"
                " `animal-ldm[xformers]` on a machine with a CUDA GPU that its kernels support, or leave --attention"
                " at sdpa."
            ) from error


def downsample_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent, along each side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def autoencoder_architecture(vae: AutoencoderKL) -> dict[str, Any]:
    """Facts for the report, from the network itself: arguments do not describe an autoencoder that was loaded."""
    return {
        "block_out_channels": list(vae.config.block_out_channels),
        "layers_per_block": vae.config.layers_per_block,
        "latent_channels": vae.config.latent_channels,
        "downsample_factor": downsample_factor(vae),
        "parameters": parameters(vae),
    }


def unet_architecture(unet: UNet2DConditionModel) -> dict[str, Any]:
    """Facts for the report, from the network itself."""
    return {
        "block_out_channels": list(unet.config.block_out_channels),
        "layers_per_block": unet.config.layers_per_block,
        "sample_size": unet.config.sample_size,
        "cross_attention_dim": unet.config.cross_attention_dim,
        "parameters": parameters(unet),
    }


def text_encoder_architecture(text_encoder: CLIPTextModel) -> dict[str, Any]:
    """Facts for the report, from the network itself."""
    return {
        "hidden_size": text_encoder.config.hidden_size,
        "num_hidden_layers": text_encoder.config.num_hidden_layers,
        "max_position_embeddings": text_encoder.config.max_position_embeddings,
        "parameters": parameters(text_encoder),
    }
