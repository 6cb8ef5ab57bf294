"""A Hub on loopback, the unmodified client, a small repository, and a trained model with its reports to publish."""

import json
import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image

from animal_ldm import AnimalLDMPipeline
from animal_ldm.evaluation.draw import model_digest
from animal_ldm.evaluation.features import Extractor
from animal_ldm.evaluation.report import SCHEMA_VERSION, Photos, Reference, measure

from ..conftest import TINY_CLASSES
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
def no_smoke_test(monkeypatch):
    """For what does not depend on trying the staged model in a process of its own, which takes seconds."""
    monkeypatch.setattr("animal_ldm.publishing.staging.smoke_test", lambda *_: None)


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


@pytest.fixture(scope="session")
def training_report() -> dict:
    """As the training writes it, with paths of the machine it ran on."""
    return {
        "arguments": {
            "data": "/home/me/prepared",
            "vae": "stabilityai/sd-vae-ft-mse",
            "text_encoder": "scratch",
            "image_size": 16,
            "learning_rate": 1e-4,
            "snr_gamma": None,
            "country": "FRA",
        },
        "identity": {"data": "ab" * 32, "vae": "cd" * 32},
        "images_seen": 4800,
        "training_photos": 1234,
        "classes": TINY_CLASSES,
        "wall_time_seconds": 5400.0,
        "energy_kwh": 0.25,
        "co2_kg": 0.0125,
        "co2_source": "codecarbon 3.3.2, offline tracker, whole machine",
        "hardware": {"cpu": "A CPU", "cpu_cores": 4, "gpus": [], "processes": 1},
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "history": [{"images_seen": 100, "train/loss": 0.5}, {"images_seen": 4800, "validation/loss": 0.44}],
    }


@pytest.fixture(scope="session")
def results() -> dict:
    """results.json as the evaluation makes it, of features drawn from a normal distribution."""
    generator = torch.Generator().manual_seed(0)

    def photos(n: int) -> Photos:
        labels = tuple(TINY_CLASSES[i % len(TINY_CLASSES)] for i in range(n))
        return Photos(torch.randn(n, 6, generator=generator), labels)

    extractor = Extractor("squeezenet", "ef" * 32, 128, None, torch.device("cpu"))
    measured = measure(Reference(extractor, photos(80), photos(24)), [photos(48), photos(48)], seed=0)
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {"name": "tiny", "digest": None},
        "data": {
            "name": "prepared",
            "reference": "train",
            "held_out": "validation",
            "photos": {"train": 80, "validation": 24},
            "digests": {"train": "12" * 32, "validation": "34" * 32},
            "classes": dict.fromkeys(TINY_CLASSES, 20),
        },
        "extractor": extractor.describe(),
        "sampling": {
            "guidance_scale": 2.0,
            "num_inference_steps": 2,
            "guidance_rescale": 0.0,
            "guidance_interval": [0.0, 1.0],
            "seed": 0,
            "class_mix": "data",
            "prompts": {"zebra": "a zebra"},
            "scheduler": "DDIMScheduler",
            "dtype": "float32",
            "image_size": 16,
        },
        "sweep": None,
        "autoencoder": None,
        "environment": {},
        **measured,
    }


@pytest.fixture
def model(tiny_pipeline_folder, training_report, tmp_path):
    """A trained pipeline's folder, with what a training leaves beside it."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_pipeline_folder, folder)
    (folder / "training_report.json").write_text(json.dumps(training_report))
    for name in ("checkpoints/images-0000004800.pt", "logs/events.out.tfevents.1", "samples/samples-0000004800.png"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"not to be published")
    (folder / ".env").write_text("HF_TOKEN=" + TOKEN)
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"_name_or_path": "/home/me/unet"}))
    return folder


@pytest.fixture
def evaluation(model, results, tmp_path):
    """A folder that an evaluation of `model` wrote."""
    folder = tmp_path / "evaluation" / "tiny"
    folder.mkdir(parents=True)
    digest = model_digest(AnimalLDMPipeline.from_pretrained(model))
    measured = results | {"model": {"name": "tiny", "digest": digest}}
    (folder / "results.json").write_text(json.dumps(measured, ensure_ascii=False))
    for name in ("samples.png", "precision_recall.png", "nearest.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder
