"""The networks of a published pipeline, as its components' configurations and weights tell."""

import copy
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL

from ..digest import encoder_digest, pipeline_digest
from ..errors import InputError
from ..pipeline_animal_ldm import AnimalLDMPipeline
from .training_record import TrainingRecord


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the card says of the model itself."""

    image_size: int  # side, in pixels
    parameters: dict[str, int]  # {network: number}
    scheduler: str
    prediction_type: str
    latent_shape: tuple[int, int, int]  # channels, height, width
    downsample_factor: int
    autoencoder_channels: tuple[int, ...]
    unet_channels: tuple[int, ...]
    text_layers: int
    text_width: int
    text_tokens: int
    pipeline_digest: str  # of the weights as float32, and the scheduler
    encoder_digest: str  # of the weights as float32


def describe(pipeline: AnimalLDMPipeline) -> Architecture:
    """The architecture of a pipeline loaded in float32."""
    unet, vae, text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    side = unet.config.sample_size
    return Architecture(
        image_size=side * pipeline.vae_scale_factor,
        parameters={
            "UNet": unet.num_parameters(),
            "text encoder": text_encoder.num_parameters(),
            "autoencoder": vae.num_parameters(),
        },
        scheduler=type(pipeline.scheduler).__name__,
        prediction_type=pipeline.scheduler.config.prediction_type,
        latent_shape=(vae.config.latent_channels, side, side),
        downsample_factor=pipeline.vae_scale_factor,
        autoencoder_channels=tuple(vae.config.block_out_channels),
        unet_channels=tuple(unet.config.block_out_channels),
        text_layers=text_encoder.config.num_hidden_layers,
        text_width=text_encoder.config.hidden_size,
        text_tokens=pipeline.tokenizer.model_max_length,
        pipeline_digest=pipeline_digest(pipeline),
        encoder_digest=encoder_digest(vae),
    )


def verify_encoder(vae: AutoencoderKL, stored: torch.dtype, record: TrainingRecord) -> bool | None:
    """Whether the encoder is the one that the training report names by its digest.

    A digest of float32 weights cannot be recomputed from weights that were rounded when they were saved.

    Args:
        vae: loaded in float32.
        stored: number type of its saved weights.

    Returns:
        True; None if the report names none, or its digest cannot be recomputed.

    Raises:
        InputError: it is another encoder.
    """
    expected = record.encoder_digest
    if expected is None:
        return None
    if encoder_digest(vae) == expected:
        return True
    if stored == torch.float32:
        raise InputError(
            "The encoder in vae/ is not the one that the UNet was trained with: its digest is"
            f" {encoder_digest(vae)[:16]}…, but training_report.json has {expected[:16]}…. Copy vae/ from the output"
            " of the training again."
        )
    rounded = torch.nn.Module.to(copy.deepcopy(vae), stored)
    return True if encoder_digest(rounded) == expected else None
