"""A Hub on loopback, the unmodified client, a small repository, and a trained model with its reports to publish."""

import json
import shutil
from dataclasses import replace

import huggingface_hub
import pytest
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory
from PIL import Image

from animal_ldm import AnimalLDMPipeline
from animal_ldm.digest import encoder_digest, pipeline_digest
from animal_ldm.evaluation.results import (
    ClassResult,
    Curve,
    DataInfo,
    ExtractorInfo,
    FrechetCurves,
    Metric,
    ModelInfo,
    RealPhotos,
    Results,
    SameN,
    SamplingInfo,
)
from animal_ldm.publishing.training_record import TrainingRecord, parse_training_record
from animal_ldm.publishing.transport import connect
from animal_ldm.sampling import Sampling

from ..conftest import TINY_CLASSES
from .hub_server import TOKEN, Hub

CARD = "---\nlicense: unlicense\n---\n\n# A card\n"


@pytest.fixture
def hub():
    with Hub() as server:
        yield server


@pytest.fixture
def online(monkeypatch):
    """Lets the client of this process talk to loopback. Afterwards no request is guarded any more."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield
    set_client_factory(default_client_factory)


@pytest.fixture
def no_smoke_test(monkeypatch):
    """For what does not depend on trying the staged model in a process of its own, which takes seconds."""
    monkeypatch.setattr("animal_ldm.publishing.staging.smoke_test", lambda *_: None)


@pytest.fixture
def api(hub, online) -> HfApi:
    return connect(hub.url, TOKEN)


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
            "output_dir": "runs/secret/unet",
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
def record(training_report) -> TrainingRecord:
    return parse_training_record(training_report)


EXTRACTOR = ExtractorInfo("squeezenet", "ef" * 32, "bicubic to 224 x 224")
# name, label, k, better, value, what real photos score, note
METRICS = [
    ("frechet_distance", "FD (squeezenet)", None, "lower", 12.25, 5.5, None),
    ("frechet_distance_ratio", "FD (squeezenet) / real photos'", None, "lower", 2.5, 1.0, None),
    ("frechet_distance_infinity", "FD (squeezenet), N→∞", None, "lower", 10.125, 3.5, None),
    ("kernel_distance", "KD (squeezenet)", None, "lower", 0.75, -0.25, "± 0.1 over 100 random subsets of 20"),
    ("precision", "precision, k=10", 10, "higher", 0.925, 0.875, "above real photos: read recall too"),
    ("recall", "recall, k=10", 10, "higher", 0.5, 0.9, None),
    ("precision", "precision, k=3", 3, "higher", 0.7, 0.65, "above real photos: read recall too"),
    ("recall", "recall, k=3", 3, "higher", 0.125, 0.7, None),
    ("density", "density, k=5", 5, "near real photos", 1.125, 0.95, None),
    ("prompt_accuracy", "prompt accuracy", None, "higher", 0.8, 0.95, "share of samples that a linear probe assigns"),
    ("authpct", "AuthPct", None, "near real photos", 86.5, None, "percent of samples farther from their nearest"),
]


@pytest.fixture(scope="session")
def results() -> Results:
    """As an evaluation writes it: two sample sets, features of SqueezeNet."""
    sampling = Sampling(num_inference_steps=2, guidance_scale=2.0)
    metrics = [
        Metric(
            name=name,
            label=label,
            value=value,
            std=value / 16,
            better=better,
            repeats=2,
            n_generated=48,
            n_real=80,
            k=k,
            seed=0,
            extractor=EXTRACTOR,
            sampling=sampling,
            real_photos=None if photos is None else RealPhotos(24, photos),
            same_n=SameN(24, value * 1.25, 0.5) if name in ("frechet_distance", "precision", "recall") else None,
            note=note,
        )
        for name, label, k, better, value, photos, note in METRICS
    ]
    curve = Curve(10.125, 100.0, [12, 24, 48], [20.0, 15.0, 12.25])
    return Results(
        model=ModelInfo("tiny", None),
        data=DataInfo(
            name="prepared",
            reference="train",
            held_out="validation",
            photos={"train": 80, "validation": 24},
            digests={"train": "12" * 32, "validation": "34" * 32},
            classes=dict.fromkeys(TINY_CLASSES, 20),
            image_size=16,
        ),
        extractor=EXTRACTOR,
        sampling=SamplingInfo(
            num_inference_steps=2,
            guidance_scale=2.0,
            guidance_rescale=0.0,
            guidance_interval=(0.0, 1.0),
            seed=0,
            class_mix="data",
            prompts={"zebra": "a zebra"},
            scheduler="DDIMScheduler",
            dtype="float32",
            image_size=16,
        ),
        metrics=metrics,
        fd_curves=FrechetCurves(curve, curve),
        per_class=[ClassResult(name, 12, 0.8125 - i / 100, 0.85, "wolf") for i, name in enumerate(TINY_CLASSES)],
        sweep=None,
        autoencoder=None,
        versions={},
    )


@pytest.fixture
def model(tiny_pipeline_folder, training_report, tmp_path):
    """A trained pipeline's folder, with what a training leaves beside it."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_pipeline_folder, folder)
    encoder = encoder_digest(AnimalLDMPipeline.from_pretrained(folder).vae)
    report = training_report | {"identity": training_report["identity"] | {"vae": encoder}}
    (folder / "training_report.json").write_text(json.dumps(report))
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
    digest = pipeline_digest(AnimalLDMPipeline.from_pretrained(model))
    replace(results, model=ModelInfo("tiny", digest)).write(folder / "results.json")
    for name in ("samples.webp", "precision_recall.png", "nearest.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder
