"""The table of choices: which settings a run gets, and why. `README.md` shows it; a run prints what it took."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..released import RELEASED_MODEL
from .machine import Machine
from .settings import SHARES, RunSettings
from .survey import Survey

SEED = 423432


@dataclass(frozen=True)
class ModelPreset:
    """The text-to-image model for a device, from a number of minutes and of photos on."""

    device: str
    minutes: float
    photos: int
    start: str  # "included" or "new"
    unet: str
    batch_size: int
    learning_rate: float


# The last row that applies counts. A new network needs time and photos to learn shapes at all; the included model
# knows animals already. The rows for a GPU have not been measured yet.
MODELS = (
    ModelPreset("cpu", 0, 0, "included", "small", 32, 5e-4),
    ModelPreset("cpu", 360, 2_000, "new", "small", 32, 1.5e-3),
    ModelPreset("gpu", 0, 0, "included", "small", 64, 5e-4),
    ModelPreset("gpu", 20, 2_000, "new", "medium", 128, 1e-3),
    ModelPreset("gpu", 240, 20_000, "new", "large", 128, 5e-4),
)

# Side of the images, from a median of the photos' shorter sides on. Larger ones than 128 are for `run.yaml`.
IMAGE_SIZES = {0: 32, 64: 64, 96: 128}
INCLUDED_SIZE = 128  # of the included model

# A decoder is tuned where it gets this many minutes.
TUNING_MINUTES = {"cpu": 4.0, "gpu": 1.0}

# The guidance scale is searched where that gets this many minutes.
SEARCH_MINUTES = {"cpu": 15.0, "gpu": 2.0}

# Photos kept for measuring: a tenth, or more of a small set, because its distances need twelve photos.
VALIDATION = {0: 0.2, 200: 0.1}

# The Hub's parts, with --hub.
HUB_AUTOENCODER, HUB_TEXT_ENCODER = "stabilityai/sd-vae-ft-mse", "openai/clip-vit-large-patch14"


@dataclass(frozen=True)
class Choice:
    """One setting, and why it has its value."""

    name: str
    value: Any
    reason: str


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the command line says about the parts of the model."""

    hub: bool = False
    squeezenet_weights: str | None = None
    image_size: int | None = None
    autoencoder_training: Literal["keep", "tune", "new"] | None = None


DEFAULTS = (
    Choice("shares", dict(SHARES), "of the time beside photos and card; what a stage leaves goes to those after it"),
    Choice("samples", 5000, "the most to measure; in fewer minutes, as many as fit"),
    Choice("country", "", "--country measures energy and CO2"),
    Choice("push", "", "--push publishes the model"),
    Choice("seed", SEED, "always the same one; edit it for another result"),
)


def choose(photos: Survey, machine: Machine, minutes: float, wishes: Wishes) -> list[Choice]:
    """The settings that follow from photos, machine and minutes; those of `RunSettings` that are missing are given."""
    size = choose_image_size(photos, wishes)
    squeezenet = choose_squeezenet(machine, wishes)
    return [
        size,
        *choose_data(photos),
        *choose_model(photos, machine, minutes, size.value, wishes),
        squeezenet,
        choose_autoencoder_training(machine, minutes, bool(squeezenet.value), wishes),
        choose_tuning(machine, minutes),
        choose_precision(machine),
        choose_extractor(machine, squeezenet.value, wishes.hub),
        *DEFAULTS,
    ]


def choose_image_size(photos: Survey, wishes: Wishes) -> Choice:
    if wishes.image_size:
        return Choice("image_size", wishes.image_size, "--image_size")
    if photos.short_side is None:
        return Choice(
            "image_size", INCLUDED_SIZE, "the size of the included model; no photo could be opened to see its own"
        )
    size = [side for least, side in IMAGE_SIZES.items() if photos.short_side >= least][-1]
    return Choice("image_size", size, f"half of the photos have a shorter side of {photos.short_side:.0f} px or more")


def choose_data(photos: Survey) -> Iterator[Choice]:
    named = [name for name in photos.classes if name]
    count = max(1, len(photos.classes))
    if named:
        words = f"all that there are: {', '.join(named[:12])}{', …' if len(named) > 12 else ''}"
    else:
        words = "the photos have no classes" + ("; they have captions" if photos.captioned else "")
    yield Choice("num_classes", count, words)
    fraction = [share for least, share in VALIDATION.items() if photos.photos >= least][-1]
    yield Choice(
        "val_fraction", fraction, f"of {photos.photos:,} photos, about {photos.photos * fraction:.0f} to measure with"
    )
    described = bool(named) and photos.captioned < photos.photos
    reason = (
        "true words from the pixels make captions richer" if described else "the photos have captions, or no class"
    )
    yield Choice("describe", described, reason)
    balance = float(len(photos.classes) > 1 and not photos.balanced)
    largest, smallest = max(photos.classes.values()), min(photos.classes.values())
    yield Choice("balance_classes", balance, f"{largest:,} photos in the largest class, {smallest:,} in the smallest")


def choose_model(photos: Survey, machine: Machine, minutes: float, size: int, wishes: Wishes) -> Iterator[Choice]:
    fits = [
        row for row in MODELS if row.device == machine.kind and minutes >= row.minutes and photos.photos >= row.photos
    ]
    preset, hub, new = fits[-1], wishes.hub, wishes.autoencoder_training == "new"
    included = preset.start == "included" and size == INCLUDED_SIZE and not hub and not new
    given = f"{minutes:g} minutes on a {machine.kind.upper()} with {photos.photos:,} photos"
    if included:
        reason = f"{given}: too little to teach a new network shapes"
    elif preset.start == "included":
        other = "parts from the Hub" if hub else "a new autoencoder" if new else f"images of {size} px"
        reason = f"a new network: the included model does not fit {other}"
    else:
        reason = f"{given}: enough for a new network"
    yield Choice("start_from", RELEASED_MODEL if included else "", reason)
    unet = preset.unet if included or preset.start == "new" or machine.kind == "gpu" else "tiny"
    yield Choice("unet", unet, "as in the included model" if included else "for this device and time")
    rate = preset.learning_rate if included or preset.start == "new" else 1e-3
    batch_size, why = preset.batch_size, "for this device"
    while batch_size > max(4, photos.photos // 2):
        batch_size, why = batch_size // 2, "no more than half of the photos"
    if machine.memory_gib < 3:
        batch_size, why = min(batch_size, 16), f"only {machine.memory_gib:.1f} GiB of memory are free"
    yield Choice("batch_size", batch_size, why)
    yield Choice("learning_rate", rate, "lower, to keep what is learned already" if included else "for a new network")
    yield Choice(
        "autoencoder", HUB_AUTOENCODER if hub else RELEASED_MODEL, "--hub" if hub else "included, no download"
    )
    words = "frozen CLIP, --hub" if hub else "a small one, trained jointly; no download"
    yield Choice("text_encoder", HUB_TEXT_ENCODER if hub else "scratch", words)


def choose_squeezenet(machine: Machine, wishes: Wishes) -> Choice:
    if wishes.squeezenet_weights:
        return Choice("squeezenet_weights", wishes.squeezenet_weights, "--squeezenet_weights")
    if machine.has_squeezenet:
        return Choice("squeezenet_weights", "download", "downloaded before, so it needs no network")
    if wishes.hub:
        return Choice("squeezenet_weights", "download", "--hub: 5 MB from PyTorch")
    return Choice("squeezenet_weights", "", "not here; --squeezenet_weights or --hub adds LPIPS and alignment")


def choose_autoencoder_training(machine: Machine, minutes: float, squeezenet: bool, wishes: Wishes) -> Choice:
    name, share = "autoencoder_training", minutes * SHARES["autoencoder"] / 100
    least = TUNING_MINUTES[machine.kind]
    if wished := wishes.autoencoder_training:
        blurs = wished != "keep" and not squeezenet
        return Choice(name, wished, "--autoencoder_training" + ("; without LPIPS its images are blurred" * blurs))
    if wishes.hub:
        return Choice(name, "keep", "the Hub's autoencoder was trained on millions of photos")
    if not squeezenet:
        return Choice(name, "keep", "tuning needs LPIPS, and SqueezeNet's weights are not here")
    if share < least:
        return Choice(name, "keep", f"its share of the time is {share:.1f} minutes; tuning takes {least:g} or more")
    return Choice(name, "tune", f"its share of the time is {share:.1f} minutes")


def choose_tuning(machine: Machine, minutes: float) -> Choice:
    share, least = minutes * SHARES["tuning"] / 100, SEARCH_MINUTES[machine.kind]
    reason = f"its share of the time is {share:.1f} minutes"
    return Choice(
        "tune_guidance", share >= least, reason + ("" if share >= least else f"; the search takes {least:g}")
    )


def choose_precision(machine: Machine) -> Choice:
    faster = machine.bf16_speedup > 1.2
    return Choice(
        "mixed_precision", "bf16" if faster else "no", f"bf16 convolutions: {machine.bf16_speedup:.2g} times as fast"
    )


def choose_extractor(machine: Machine, squeezenet: str, hub: bool) -> Choice:
    if machine.has_inception or hub:
        return Choice("extractor", "inception", "its weights are here" if machine.has_inception else "--hub: 90 MB")
    if squeezenet:
        return Choice("extractor", "squeezenet", "Inception's weights are not here; the distance is not called FID")
    return Choice("extractor", "vae", "no other weights are here; it compares colour and layout, barely content")


def settings_of(choices: list[Choice], photos: str, minutes: float) -> RunSettings:
    """Settings with these choices."""
    return RunSettings(photos=photos, minutes=minutes, **{choice.name: choice.value for choice in choices})


def table(settings: RunSettings, choices: list[Choice]) -> str:
    """Setting, value and reason, one per line; settings that were not chosen here say where they come from."""
    reasons = {choice.name: (choice.value, choice.reason) for choice in choices}
    rows, given = [], "as the command line or run.yaml says"
    for name, value in asdict(settings).items():
        chosen, reason = reasons.get(name, (value, given))
        shown = ", ".join(f"{part} {share:g} %" for part, share in value.items()) if name == "shares" else value
        rows.append((name, str(shown) or "none", reason if value == chosen else given))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    widths[1] = min(widths[1], 36)
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {why}".rstrip() for name, value, why in rows)
