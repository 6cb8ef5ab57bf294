"""`training_report.json` as dataclasses: what the card says about the training.

Reports of earlier versions lack fields; each has a default that means "not recorded".
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..data.records import ATTRIBUTES, MODEL_PREFIX, NO_CAPTION, OWN, TEMPLATE
from ..errors import InputError

NOT_MEASURED = "not measured"  # in the file, in place of a number
REQUIRED = ("arguments", "images_seen", "classes", "wall_time_seconds", "co2_kg", "hardware", "versions")

# Arguments that a trainer ignores once it starts from trained weights: the weights' own configuration holds.
OVERRIDDEN_BY_PRETRAINED = ("preset", "latent_channels", "downsample_factor")
OVERRIDDEN_BY_DECODER_ONLY = ("kl_weight",)
OVERRIDDEN_BY_FORK = ("unet", "dropout")

# What --unet may be for a UNet with random weights, beside a .json file with its configuration.
UNET_PRESETS = ("tiny", "small", "medium", "large")

# Models on the Hub that training can start from by default. Any other name may be a local folder.
KNOWN_MODELS = ("stabilityai/sd-vae-ft-mse", "openai/clip-vit-large-patch14")


@dataclass(frozen=True)
class Hardware:
    cpu: str
    cpu_cores: int
    gpus: tuple[str, ...]
    processes: int

    def __str__(self) -> str:
        gpus = f"{len(self.gpus)} x {self.gpus[0]}" if self.gpus else f"{self.cpu}, {self.cpu_cores} cores, no GPU"
        return gpus + (f", {self.processes} processes" if self.processes > 1 else "")


@dataclass(frozen=True)
class Validation:
    """Figures of an autoencoder on held-out photos of its own training data."""

    psnr: float  # dB
    lpips_squeeze: float | None
    images: int


@dataclass(frozen=True)
class CaptionRecord:
    """The captions of the training photos."""

    sources: dict[str, int]  # captions by source, as `animal_ldm.data.records.MetadataLine.caption_sources`
    examples: tuple[str, ...]  # of validation photos; none where all are templates

    def describe(self) -> str:
        """How many there are of each kind, after "captions: "."""
        kinds = {
            TEMPLATE: "from templates around the class name",
            ATTRIBUTES: "with words measured from the pixels",
            OWN: "that came with the photos",
            NO_CAPTION: "empty",
        }
        by_models = sum(number for source, number in self.sources.items() if source.startswith(MODEL_PREFIX))
        parts = [f"{self.sources[source]:,} {words}" for source, words in kinds.items() if self.sources.get(source)]
        return ", ".join(parts + [f"{by_models:,} by a captioning model"] * (by_models > 0))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training run."""

    arguments: dict[str, Any]  # as given on the command line
    defaults: dict[str, Any] | None  # of the same arguments; None: not recorded
    images_seen: int
    seconds: float
    energy_kwh: float | None  # None: not measured, here and below
    co2_kg: float | None
    cost_source: str | None
    hardware: Hardware
    # When it ran, as (start, end) of each uninterrupted stretch; None: not recorded.
    periods: tuple[tuple[datetime, datetime], ...] | None

    @property
    def pretrained(self) -> str | None:
        """Where its weights were initialised from, None for random weights."""
        return self.arguments.get("pretrained")

    @property
    def metered_beyond_itself(self) -> bool:
        """Whether the meter counted what other processes consumed: of the whole machine, or of a part in full."""
        return any(words in (self.cost_source or "") for words in ("whole machine", "in full"))


def effective_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a training that had an effect."""
    ignored = OVERRIDDEN_BY_PRETRAINED if arguments.get("pretrained") else ()
    ignored += OVERRIDDEN_BY_DECODER_ONLY if arguments.get("decoder_only") else ()
    ignored += OVERRIDDEN_BY_FORK if arguments.get("fork") else ()
    return {name: value for name, value in arguments.items() if name not in ignored}


@dataclass(frozen=True, kw_only=True)
class AutoencoderStage(Stage):
    validation: Validation
    started_from: "AutoencoderStage | None"  # the run before it, where its report was at hand


@dataclass(frozen=True, kw_only=True)
class TrainingRecord(Stage):
    """The text-to-image training, and the autoencoder's before it."""

    classes: tuple[str, ...]
    training_photos: int | None
    data_digest: str | None  # SHA-256 over the photos
    # See `digest`. Those of the saved model are of its weights loaded as float32; earlier reports lack them.
    trained_encoder_digest: str | None  # of the encoder in training, before it was rounded to be saved
    encoder_digest: str | None
    pipeline_digest: str | None
    versions: dict[str, str]
    validation_loss: tuple[int, float] | None  # images seen, loss
    autoencoder: AutoencoderStage | None
    captions: CaptionRecord | None  # None: not recorded; then they are from templates
    raw: dict[str, Any] = field(repr=False)  # the file's whole content

    @property
    def autoencoder_stages(self) -> list[AutoencoderStage]:
        """In the order they ran in."""
        stages, stage = [], self.autoencoder
        while stage:
            stages.insert(0, stage)
            stage = stage.started_from
        return stages

    @property
    def trains_text_encoder(self) -> bool:
        return self.arguments.get("text_encoder") == "scratch" or bool(self.arguments.get("train_text_encoder"))

    @property
    def unet_from_scratch(self) -> bool:
        unet = str(self.arguments.get("unet", "medium"))
        return not self.arguments.get("fork") and (unet in UNET_PRESETS or unet.endswith(".json"))

    @property
    def random_parts(self) -> list[str]:
        """The networks that were trained from random weights, as far as known."""
        stages = self.autoencoder_stages
        parts = {
            "UNet": self.unet_from_scratch,
            "text encoder": self.arguments.get("text_encoder") == "scratch" and not self.arguments.get("fork"),
            "autoencoder": bool(stages) and stages[0].pretrained is None,
        }
        return [name for name, from_scratch in parts.items() if from_scratch]

    @property
    def country(self) -> str | None:
        return self.arguments.get("country")

    def named_stages(self) -> Iterator[tuple[str, Stage]]:
        """Every stage with its name, in the order they ran in."""
        stages = self.autoencoder_stages
        for number, stage in enumerate(stages, start=1):
            yield "autoencoder" + (f", stage {number} of {len(stages)}" if len(stages) > 1 else ""), stage
        yield "text-to-image model", self

    def base_models(self) -> tuple[str, ...]:
        """Known models on the Hub that trained parts were initialised from."""
        stages = self.autoencoder_stages
        origins = [stages[0].pretrained] if stages else []
        return tuple(name for name in KNOWN_MODELS if name in origins)

    def frozen_models(self) -> tuple[str, ...]:
        """Known models on the Hub of which parts were used as they are."""
        return tuple(name for name in KNOWN_MODELS if name in map(self.arguments.get, ("vae", "text_encoder")))


def read_training_record(folder: Path) -> TrainingRecord:
    """Read `training_report.json` of a pipeline folder.

    Raises:
        InputError: the file is missing, is not JSON or lacks a field.
    """
    path = folder / "training_report.json"
    try:
        return parse_training_record(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise InputError(f"{path} not found; expected a folder that `animal-ldm train` wrote.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a training report ({error!r}). Copy it again.") from error


def parse_training_record(content: dict[str, Any]) -> TrainingRecord:
    """The record in the content of a `training_report.json`.

    Raises:
        InputError: a field is missing that every report has.
    """
    if missing := [name for name in REQUIRED if name not in content]:
        raise InputError(f"training_report.json lacks {', '.join(missing)}; it must be the file that training wrote.")
    identity, digests = content.get("identity") or {}, content.get("digests") or {}
    losses = [point for point in content.get("history", []) if "validation/loss" in point]
    return TrainingRecord(
        **_stage(content),
        classes=tuple(content["classes"]),
        training_photos=content.get("training_photos"),
        data_digest=identity.get("data"),
        trained_encoder_digest=identity.get("vae"),
        encoder_digest=digests.get("encoder"),
        pipeline_digest=digests.get("pipeline"),
        versions=content["versions"],
        validation_loss=(losses[-1]["images_seen"], losses[-1]["validation/loss"]) if losses else None,
        autoencoder=_autoencoder(content.get("autoencoder")),
        captions=_captions(content.get("captions")),
        raw=content,
    )


def _captions(content: dict[str, Any] | None) -> CaptionRecord | None:
    return CaptionRecord(content["sources"], tuple(content["examples"])) if content else None


def _autoencoder(content: dict[str, Any] | None) -> AutoencoderStage | None:
    if not content:
        return None
    validation = Validation(**{name: content["validation"].get(name) for name in ("psnr", "lpips_squeeze", "images")})
    return AutoencoderStage(
        **_stage(content), validation=validation, started_from=_autoencoder(content.get("pretrained"))
    )


def _stage(content: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Stage`."""
    hardware = content["hardware"]
    return {
        "arguments": content["arguments"],
        "defaults": content.get("defaults"),
        "images_seen": content["images_seen"],
        "seconds": content["wall_time_seconds"],
        "energy_kwh": _measured(content.get("energy_kwh")),
        "co2_kg": _measured(content["co2_kg"]),
        "cost_source": None if content.get("co2_source") == NOT_MEASURED else content.get("co2_source"),
        "hardware": Hardware(
            hardware["cpu"], hardware["cpu_cores"], tuple(hardware["gpus"]), hardware.get("processes", 1)
        ),
        "periods": _periods(content.get("stretches")),
    }


def _measured(value: Any) -> float | None:
    return None if value in (None, NOT_MEASURED) else float(value)


def _periods(stretches: list[dict[str, Any]] | None) -> tuple[tuple[datetime, datetime], ...] | None:
    """`started` and `ended` of every stretch, in ISO 8601; None if any lacks them."""
    if not stretches or not all(stretch.get("started") and stretch.get("ended") for stretch in stretches):
        return None
    return tuple(
        (datetime.fromisoformat(stretch["started"]), datetime.fromisoformat(stretch["ended"])) for stretch in stretches
    )
