"""The stages of a run. Each calls what the command of the same step calls, with the settings of the run."""

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.prepare import SPLITS, prepare
from ..data.prepared import has_split, load_split
from ..data.settings import PreparationSettings
from ..errors import InputError, MachineError
from ..evaluation import tuning_report
from ..evaluation.evaluate import EvaluationSettings, evaluate
from ..evaluation.extractors import load_extractor
from ..evaluation.features import Measurer
from ..evaluation.images import Images, images_of_dataset
from ..evaluation.samples import CachedSampler, classes_of_samples
from ..evaluation.tuning import COORDINATES, Tuner, TuneSettings
from ..files import cache_root
from ..loading import choose_device, load_pipeline, store_sampling_defaults
from ..perceptual import PerceptualDistance
from ..pipeline_animal_ldm import AnimalLDMPipeline
from ..publishing.datasets import dataset_title, photo_terms
from ..publishing.push import Push, push_model
from ..publishing.request import ModelSource, Statements, Target
from ..publishing.staging import stage_model
from ..sampling import Sampling
from ..training.arguments import AutoencoderArguments, TrainingArguments
from ..training.autoencoder import train as train_autoencoder
from ..training.text_to_image import train as train_text_to_image
from .settings import RunSettings

logger = logging.getLogger(__name__)

# Photos of either split below which nothing is measured: metrics look at the 10 nearest neighbours of a photo.
LEAST_PHOTOS = 12
LEAST_SECONDS = 1.0  # that a stage gets, whatever is left
# Images that are generated and measured to learn how long one takes.
TIMED_IMAGES = 8
GUIDANCE_SCALES = (1.5, 2.0, 3.0, 4.0, 6.0)
# Share of its time that the evaluation plans to use: the metrics and plots have to be computed as well.
PLANNED = 0.75
# Images in the grids during the training, but one per class at least: fewer where a CPU has less than these minutes.
GRID_IMAGES, FEW_GRID_IMAGES, FEW_MINUTES = 44, 11, 15


@dataclass
class Job:
    """What a stage works on.

    Attributes:
        seconds: for this stage.
        facts: what it finds; kept between the starts of the command, if `save` is called.
    """

    settings: RunSettings
    out: Path
    seconds: float
    facts: dict[str, Any]
    save: Callable[[], None]

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def autoencoder(self) -> Path:
        return self.out / "autoencoder"

    @property
    def model(self) -> Path:
        return self.out / "model"

    @property
    def tuning(self) -> Path:
        return self.out / "tuning"

    @property
    def evaluation(self) -> Path:
        return self.out / "evaluation"

    @property
    def published(self) -> Path:
        return self.out / "published"

    @property
    def squeezenet_weights(self) -> str | None:
        """As the trainers take it: None downloads."""
        return None if self.settings.squeezenet_weights in ("", "download") else self.settings.squeezenet_weights

    @property
    def has_squeezenet(self) -> bool:
        return self.settings.squeezenet_weights != ""

    def common(self) -> dict[str, Any]:
        """Arguments that both trainers get."""
        return {
            "data": str(self.data),
            "image_size": self.settings.image_size,
            "squeezenet_weights": self.squeezenet_weights,
            "lr_schedule": "cosine",
            "seed": self.settings.seed,
            "mixed_precision": self.settings.mixed_precision,
            "country": self.settings.country or None,
            "max_minutes": self.seconds / 60,
            "resume": True,
            "report_to": "none",
        }


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
    skipped = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in report.skipped.items())
    logger.info(
        "%d training and %d validation photos; skipped: %s", report.train, report.validation, skipped or "none"
    )


# --- train -----------------------------------------------------------------------------------------------------------


def autoencoder_of(job: Job) -> str:
    """The autoencoder for the text-to-image model."""
    return job.settings.autoencoder if job.settings.autoencoder_training == "keep" else str(job.autoencoder)


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
            equivariance=0.2 if job.settings.image_size >= 32 else 0.0,
            ema_half_life=3000,
        )
    train_autoencoder(arguments)


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


# --- tune ------------------------------------------------------------------------------------------------------------


def tune_the_guidance(job: Job) -> None:
    """Make the guidance scale that `animal-ldm tune` finds the model's default, if it is better beyond the error."""
    if not job.settings.tune_guidance or too_few_photos(job.data):
        job.facts["not_tuned"] = "the guidance scale was not searched"
        return
    minutes = job.facts.setdefault("minutes", job.seconds / 60)  # a search goes on with the time it was begun with
    job.save()
    pipeline, measurer = load_pipeline(str(job.model)), measurer_of(job)
    space = dict.fromkeys(COORDINATES, ()) | {"guidance_scale": GUIDANCE_SCALES}
    settings = TuneSettings(
        model_name=job.out.name, data_name="data", out=job.tuning, space=space, seed=0, max_minutes=minutes
    )
    try:
        tuner = Tuner(pipeline, images_of_dataset(job.data), measurer, settings)
        found = tuner.run()
    except MachineError:
        raise
    except InputError as error:  # the time does not suffice on this device
        job.facts["not_tuned"] = str(error)
        logger.info("the guidance scale stays as it is: %s", error)
        return
    tuning_report.write(found, tuner.shown(), job.tuning)
    logger.info("%s", found.verdict)
    if found.chosen not in (None, found.default):
        store_sampling_defaults(job.model, found.chosen.settings(), tuner.schedulers[found.chosen.scheduler])


def measurer_of(job: Job) -> Measurer:
    """The extractor of the settings, on the device of this machine."""
    device = choose_device()
    weights = job.squeezenet_weights if job.settings.extractor == "squeezenet" else None
    extractor = load_extractor(job.settings.extractor, weights, device)
    return Measurer(extractor, 8 if device.type == "cpu" else 64, workers=0, cache=cache_root() / "features")


# --- evaluate --------------------------------------------------------------------------------------------------------


def measure_the_model(job: Job) -> None:
    start = time.perf_counter()
    if too_few_photos(job.data):
        train, validation = photo_counts(job.data)
        return leave_unmeasured(
            job,
            f"{train} training and {validation} validation photos are too few: the metrics need {LEAST_PHOTOS} each."
            f" About {LEAST_PHOTOS * 5} photos in all would do.",
        )
    if job.seconds <= LEAST_SECONDS and "samples" not in job.facts:
        return leave_unmeasured(job, no_time(job))
    pipeline, measurer = load_pipeline(str(job.model)), measurer_of(job)
    photos = images_of_dataset(job.data)
    if "samples" not in job.facts:
        left = job.seconds - (time.perf_counter() - start)
        job.facts |= plan_evaluation(replace(job, seconds=left), pipeline, measurer, photos)
        job.save()
    reference = photos["train"]
    if job.facts["samples"] < LEAST_PHOTOS:
        return leave_unmeasured(job, no_time(job))
    if job.facts["photos"] < len(reference):
        chosen = np.random.default_rng(job.settings.seed).permutation(len(reference))[: job.facts["photos"]]
        photos = photos | {"train": reference.take(sorted(chosen))}
    evaluate(
        pipeline,
        photos,
        measurer,
        EvaluationSettings(
            model_name=job.out.name,
            data_name="data",
            out=job.evaluation,
            number=job.facts["samples"],
            seed=job.settings.seed,
            sampling=Sampling(**pipeline.sampling_defaults),
            reconstructions=True,
            perceptual=PerceptualDistance(job.squeezenet_weights) if job.has_squeezenet else None,
        ),
    )


def leave_unmeasured(job: Job, reason: str) -> None:
    job.facts["not_measured"] = reason
    logger.info("not measured: %s", reason)


def no_time(job: Job) -> str:
    return (
        f"the time did not suffice for {LEAST_PHOTOS} samples. To measure: animal-ldm evaluate {job.model} --data"
        f" {job.data} --extractor {job.settings.extractor} --out {job.evaluation}"
    )


def photo_counts(data: Path) -> tuple[int, ...]:
    """Training and validation photos."""
    return tuple(
        len(load_split(data, split)) if has_split(data, split) else 0 for split in SPLITS
    )


def too_few_photos(data: Path) -> bool:
    """Whether the photos are too few for the evaluation."""
    return min(photo_counts(data)) < LEAST_PHOTOS


def plan_evaluation(
    job: Job, pipeline: AnimalLDMPipeline, measurer: Measurer, photos: dict[str, Images]
) -> dict[str, Any]:
    """Samples to generate and photos to compare them with, so that it takes the time of this stage.

    The images that are generated to measure the speed are the first samples of the evaluation.
    """
    labels = classes_of_samples(Counter(photos["train"].labels), TIMED_IMAGES)
    sampling = Sampling(**pipeline.sampling_defaults)
    sampler = CachedSampler(pipeline, job.evaluation / "samples", measurer.batch_size)
    sample_seconds = seconds_of(lambda: sampler.sample(labels, sampling, job.settings.seed)) / TIMED_IMAGES
    some = photos["validation"].take(range(TIMED_IMAGES))
    feature_seconds = seconds_of(lambda: measurer.with_cache(None).features(some)) / TIMED_IMAGES
    time_for_all = PLANNED * job.seconds
    reference = min(len(photos["train"]), max(LEAST_PHOTOS, int(time_for_all / 3 / feature_seconds)))
    # a reconstruction takes about as long as measuring a photo and a tenth of a sample, and is measured too
    photo_seconds = (reference + len(photos["validation"]) * 3) * feature_seconds
    photo_seconds += len(photos["validation"]) * sample_seconds / 10
    number = int((time_for_all - photo_seconds) / (sample_seconds + feature_seconds))
    number = max(0, min(job.settings.samples, number))
    logger.info(
        "%.2f s per sample: %d samples against %d of %d training photos",
        sample_seconds, number, reference, len(photos["train"]),
    )  # fmt: skip
    return {"samples": number, "photos": reference, "seconds_per_sample": sample_seconds}


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


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
