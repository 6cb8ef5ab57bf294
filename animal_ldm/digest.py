"""A name for weights that follows from the weights alone: caches, checkpoints and results are tied to it."""

import hashlib
import json
from typing import Any

import torch


def weights_digest(*modules: torch.nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors, whatever file or device they came from."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def pipeline_digest(pipeline: Any) -> str:
    """SHA-256 over all weights of a pipeline and its scheduler's settings."""
    weights = weights_digest(pipeline.vae, pipeline.text_encoder, pipeline.unet)
    scheduler = json.dumps(dict(pipeline.scheduler.config), sort_keys=True, default=str)
    return hashlib.sha256(f"{weights} {type(pipeline.scheduler).__name__} {scheduler}".encode()).hexdigest()


def encoder_digest(vae: Any) -> str:
    """SHA-256 over the part of an autoencoder that makes latents: `encoder` and `quant_conv`.

    Another decoder leaves the latents, and everything that was trained on them, valid.
    """
    return weights_digest(*(part for part in (vae.encoder, vae.quant_conv) if part is not None))
