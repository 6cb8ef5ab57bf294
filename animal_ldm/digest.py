"""A name for weights that follows from the weights alone: caches, checkpoints and results are held to it."""

import hashlib

import torch


def weights_digest(*modules: torch.nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors, whatever file or device they came from."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
