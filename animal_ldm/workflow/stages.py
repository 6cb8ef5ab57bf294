"""The stages of a run. Each calls what the command of the same step calls, with the settings of the run."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.prepare import prepare
from ..data.prepared import load_split
from ..data.settings import PreparationSettings
from ..loading import choose_device, load_pipeline
from ..publishing.datasets import dataset_title, photo_terms
from ..publishing.push import Push, push_model
from ..publishing.request import ModelSource, Statements, Target
from ..publishing.staging import stage_model
from ..released import RELEASED_MODEL
from ..sampling import Sampling, quiet, sample_images
from ..training.arguments import AutoencoderArguments, TrainingArguments
from ..training.autoencoder import train as train_autoencoder
from ..training.equivariance import least_image_size
from ..training.text_to_image import train as train_text_to_image
from .job import Job, seconds_of
from .measuring import measure_the_model, tune_the_guidance
from .presets import INCLUDED_SIZE

logger = logging.getLogger(__name__)

# Images in the grids during the training, but one per class at least: fewer where a CPU has less than these minutes.
GRID_IMAGES, FEW_GRID_IMAGES, FEW_MINUTES = 44, 11, 15


@dataclass(frozen=True)
class Stage:
    """A step of a run.

    Attributes:
        name: key of `settings.SHARES`; stages that are not there take the time they need.
        folder: that it writes, below the folder of the run.
        settings: those it depends on, beside the stages before it.
        cheap: made again without asking when they change.
    """

    name: str
    title: str
    folder: str
    settings: tuple[str, ...]
    run: Callable[[Job], None]
    cheap: bool = False


# --- prepare ---------------------------------------------------------------------------------------------------------


def prepare_photos(job: Job) -> None:
    settings = job.settings
    report = prepare(
        settings.photos,
        job.data,
        PreparationSettings(
            num_classes=settings.num_classes,
            image_size=settings.image_size,
            val_fraction=settings.val_fraction,
            describe=settings.describe,
            seed=settings.seed,
        ),
        os.cpu_count() or 1,
    )
    assert report is not None  # only of a part
    job.facts |= {
        "train": report.train,
        "validation": report.validation,
        "classes": {name: counts.train for name, counts in report.classes.items()},
        "skipped": report.skipped,
    }
    job.facts |= time_the_card(job)
    skipped = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in report.skipped.items())
    logger.info(
        "%d training and %d validation photos; skipped: %s", report.train, report.validation, skipped or "none"
    )


def time_the_card(job: Job) -> dict[str, Any]:
    """What says how long the card will take: seconds for one image of the included model, and the classes to come."""
    pipeline = load_pipeline(job.settings.start_from or RELEASED_MODEL)
    pipeline.set_progress_bar_config(disable=True)
    sampling = Sampling(**pipeline.sampling_defaults)
    known = pipeline.classes if job.settings.start_from else []
    with quiet(pipeline):
        seconds = seconds_of(lambda: [*sample_images(pipeline, [""], [0], sampling)])
    seconds *= (job.settings.image_size / INCLUDED_SIZE) ** 2
    return {"image_seconds": seconds, "card_classes": len({*job.facts["classes"], *(known or [])})}


# --- train -----------------------------------------------------------------------------------------------------------


def autoencoder_of(job: Job) -> str:
    """The autoencoder for the text-to-image model."""
    kept = job.settings.autoencoder_training == "keep" or bool(harm_of_tuning(job))
    return job.settings.autoencoder if kept else str(job.autoencoder)


def harm_of_tuning(job: Job) -> str:
    """Why the tuned autoencoder is not taken: it shows held-out photos worse than at its first validation."""
    if job.settings.autoencoder_training != "tune":
        return ""
    report = json.loads((job.autoencoder / "training_report.json").read_text(encoding="utf-8"))
    name = "validation/lpips_squeeze"
    measured = [entry[name] for entry in report["history"] if entry.get(name) is not None]
    if len(measured) < 2 or measured[-1] < measured[0]:
        return ""
    return (
        f"{report['images_seen']:,} images of tuning made the autoencoder worse (LPIPS of held-out photos from"
        f" {measured[0]:.4f} to {measured[-1]:.4f}), so it is used as it was."
    )


def train_the_autoencoder(job: Job) -> None:
    if job.settings.autoencoder_training == "keep":
        logger.info("the autoencoder of %s is kept as it is", job.settings.autoencoder)
        return
    on_cpu = choose_device().type == "cpu"
    # the discriminator looks at windows of features, for which smaller images have no room
    adversarial = job.has_squeezenet and job.settings.image_size >= 128
    common = job.common() | {
        "output_dir": str(job.autoencoder),
        "perceptual_weight": 1.0 if job.has_squeezenet else 0.0,
        "discriminator": "features" if adversarial else "patches",
        "discriminator_weight": 0.5 if adversarial else 0.0,
        "batch_size": min(4 if on_cpu else 16, job.settings.batch_size),
    }
    if job.settings.autoencoder_training == "tune":
        arguments = AutoencoderArguments(
            **common,
            pretrained=job.settings.autoencoder,
            decoder_only=True,
            discriminator_start=0.0,
            learning_rate=2e-4,
            discriminator_learning_rate=2e-4,
            num_warmup_steps=100,
            ema_half_life=1500,
        )
    else:
        arguments = AutoencoderArguments(
            **common,
            preset="tiny" if on_cpu else "small",
            latent_channels=8,
            kl_weight=0.1,
            equivariance=0.2 if job.settings.image_size >= least_image_size(job.has_squeezenet) else 0.0,
            ema_half_life=3000,
        )
    train_autoencoder(arguments)
    if harm := harm_of_tuning(job):
        job.facts["harm"] = harm
        logger.info("%s", harm)


def train_the_model(job: Job) -> None:
    settings = job.settings
    classes = load_split(job.data, "train").classes
    hurry = choose_device().type == "cpu" and job.seconds < 60 * FEW_MINUTES
    grid_images = FEW_GRID_IMAGES if hurry else GRID_IMAGES
    arguments = TrainingArguments(
        **job.common(),
        output_dir=str(job.model),
        vae=autoencoder_of(job),
        text_encoder=settings.text_encoder,
        unet=settings.unet,
        fork=settings.start_from or None,
        # alignment helps a network that knows nothing yet; it would disturb one that does
        alignment_weight=0.5 if job.has_squeezenet and not settings.start_from else 0.0,
        snr_gamma=None,
        balance_classes=settings.balance_classes,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        num_warmup_steps=200,
        ema_half_life=50_000 if settings.batch_size > 64 else 12_000,
        scheduler="sde_dpm",
        samples_per_class=max(1, min(4, grid_images // len(classes))),
    )
    train_text_to_image(arguments)


# --- publish ---------------------------------------------------------------------------------------------------------


def make_the_card(job: Job) -> None:
    """The files of the model's repository in `published/`, and on the Hub with `push`."""
    repo_id = job.settings.push or f"you/{repository_name(job.out)}"
    shutil.rmtree(job.published, ignore_errors=True)
    results = (job.evaluation,) if (job.evaluation / "results.json").is_file() else ()
    source = ModelSource(model=job.model, results=results, seed=job.settings.seed)
    statements = Statements(
        repo_id=repo_id,
        developed_by=repo_id.split("/")[0],
        contact=f"https://huggingface.co/{repo_id}/discussions",
        language="en",
        license="unlicense",
        photo_terms=photo_terms(job.data),
        dataset_title=dataset_title(job.data),
    )
    if job.settings.push:
        push_model(Push(Target(repo_id), False, job.published, logger.info), source, statements, job.data)
    else:
        job.published.mkdir(parents=True)
        stage_model(source, statements, job.published)


def repository_name(out: Path) -> str:
    """The folder's name with what the Hub allows in a name."""
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in out.resolve().name.lower())
    return name.strip("-") or "model"


def free_memory() -> None:
    """Give back what the last stage kept on the accelerator."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


STAGES = (
    Stage(
        "prepare",
        "photos",
        "data",
        ("image_size", "num_classes", "val_fraction", "describe", "seed"),
        prepare_photos,
    ),
    Stage(
        "autoencoder",
        "autoencoder",
        "autoencoder",
        ("autoencoder", "autoencoder_training", "squeezenet_weights", "mixed_precision"),
        train_the_autoencoder,
    ),
    Stage(
        "text_to_image",
        "text-to-image model",
        "model",
        ("text_encoder", "start_from", "unet", "batch_size", "learning_rate", "balance_classes"),
        train_the_model,
    ),
    Stage("tuning", "guidance", "tuning", ("tune_guidance",), tune_the_guidance),
    Stage("evaluation", "evaluation", "evaluation", ("extractor", "samples"), measure_the_model),
    Stage("card", "card", "published", ("push",), make_the_card, cheap=True),
)
