"""The networks of a published pipeline, as its components' configurations and weights tell."""

from dataclasses import dataclass

import torch

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


def verify_digests(pipeline: AnimalLDMPipeline, stored: torch.dtype, record: TrainingRecord) -> tuple[str, ...]:
    """Compare a pipeline with the digests in its training report.

    A digest of the float32 weights in training cannot be recomputed from weights that were rounded when they were
    saved: earlier reports have no other.

    Args:
        pipeline: loaded in float32.
        stored: number type of its saved autoencoder.

    Returns:
        The names in the report of the digests that hold.

    Raises:
        InputError: a digest is that of other weights.
    """
    encoder = encoder_digest(pipeline.vae)
    compared = [
        ("identity.vae", "encoder weights", encoder, record.trained_encoder_digest),
        ("digests.encoder", "encoder weights", encoder, record.encoder_digest),
        ("digests.pipeline", "weights or scheduler settings", pipeline_digest(pipeline), record.pipeline_digest),
    ]
    verified = []
    for name, part, found, expected in compared:
        if found == expected:
            verified.append(name)
        elif expected is not None and (name != "identity.vae" or stored == torch.float32):
            raise InputError(
                f"The {part} of this model are not those of its training: the digest is {found[:16]}…, but {name} in"
                f" training_report.json is {expected[:16]}…. Copy the model again from the output of the training,"
                " and use the same version of diffusers."
            )
    return tuple(verified)
