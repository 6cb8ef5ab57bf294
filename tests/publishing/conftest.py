"""A Hub on loopback, the unmodified client, and a small repository to publish."""

import huggingface_hub
import pytest
from huggingface_hub import HfApi

from .hub_server import TOKEN, Hub

CARD = "---\nlicense: unlicense\n---\n\n# A card\n"


@pytest.fixture
def hub():
    with Hub() as server:
        yield server


@pytest.fixture
def online(monkeypatch):
    """Lets the client of this process talk to loopback: by HTTP, since the Hub's Xet storage is not served here."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture
def api(hub, online) -> HfApi:
    return HfApi(endpoint=hub.url, token=TOKEN)


@pytest.fixture
def folder(tmp_path):
    """A repository's files: small ones, and large ones of one and of several parts."""
    out = tmp_path / "staged"
    contents = {
        "README.md": CARD.encode(),
        "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}\n',
        "unet/config.json": b"{}\n",
        "unet/diffusion_pytorch_model.safetensors": bytes(range(256)) * 1000,
        "vae/diffusion_pytorch_model.safetensors": b"v" * 5000,
        "samples/00-a zebra.png": b"picture",
    }
    for path, content in contents.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(content)
    return out
