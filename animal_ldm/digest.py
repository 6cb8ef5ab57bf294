"""A name for weights that follows from the weights alone: caches, checkpoints and results are tied to it."""

import hashlib
import json
from typing import Any

import torch


def network_digest(network: Any, weights: bool) -> str:
    """SHA-256 over a network's configuration, with `weights` also over its tensors."""
    config = network.config if isinstance(network.config, dict) else network.config.to_dict()
    public = {name: value for name, value in config.items() if not name.startswith("_")}
    settings = json.dumps(public, sort_keys=True, default=str)
    return hashlib.sha256(f"{settings} {weights_digest(network) if weights else ''}".encode()).hexdigest()


def state_digest(value: Any) -> str:
    """SHA-256 over tensors and plain values, at any depth of dicts, lists and tuples."""
    digest = hashlib.sha256()

    def update(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            digest.update(f"{tuple(part.shape)} {part.dtype}".encode())
            digest.update(_bytes(part))
        elif isinstance(part, dict):
            digest.update(f"dict {len(part)}".encode())
            for name, inner in part.items():
                digest.update(repr(name).encode())
                update(inner)
        elif isinstance(part, list | tuple):
            digest.update(f"list {len(part)}".encode())
            for inner in part:
                update(inner)
        else:
            digest.update(repr(part).encode())

    update(value)
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def weights_digest(*modules: torch.nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors, whatever file or device they came from."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(_bytes(tensor))
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
