"""`run.yaml`: all settings of a run. Written at the start, meant to be edited, and enough to run again."""

import types
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin

import yaml

from ..errors import InputError
from ..files import write_text

FILE = "run.yaml"

# Percent of the time that is left when the photos are prepared, and when what the card needs is set aside.
SHARES = {"autoencoder": 15.0, "text_to_image": 55.0, "tuning": 10.0, "evaluation": 20.0}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run does. The comment above a field is its comment in the file."""

    # Photos to learn from: a folder, or a dataset's name on the Hub.
    photos: str
    # Minutes in all. They count while the command runs, over all its starts.
    minutes: float
    # Percent of the time for each stage, beside the photos and the card; what a stage leaves goes to those after it.
    shares: dict[str, float]
    # Side of the images in pixels, number of classes, and the fraction of each class that is kept for measuring.
    image_size: int
    num_classes: int
    val_fraction: float
    # Add captions with words measured from the pixels.
    describe: bool
    # Autoencoder to start from (folder or Hub id), and what to do with it: keep it as it is, tune its decoder on the
    # photos, or train a new one (then "autoencoder" is not used).
    autoencoder: str
    autoencoder_training: Literal["keep", "tune", "new"]
    # Text encoder: scratch (a small one, trained jointly), or a folder or Hub id, used frozen.
    text_encoder: str
    # Model whose UNet and text encoder the training starts from (folder or Hub id); empty for new ones.
    start_from: str
    # Size of a new UNet: tiny, small, medium or large.
    unet: str
    # Optimisation of the text-to-image model.
    batch_size: int
    learning_rate: float
    # 0 shows every photo equally often, 1 every class; 0.5 lies between.
    balance_classes: float
    # Search the guidance scale that suits the model best, with `animal-ldm tune`.
    tune_guidance: bool
    # SqueezeNet's weights for LPIPS and alignment: a file, "download", or empty to do without both.
    squeezenet_weights: str
    # Number type of the forward pass in training: no (float32), bf16 or fp16.
    mixed_precision: Literal["no", "bf16", "fp16"]
    # Network that measures the images, as in `animal-ldm evaluate`, and the most samples to measure.
    extractor: str
    samples: int
    # Country of the machine (ISO code with three letters) to measure energy and CO2; empty for neither.
    country: str
    # Repository on the Hub to publish to, as user/name; empty to publish nothing.
    push: str
    # Seed of all randomness.
    seed: int

    def check(self) -> None:
        """Raise an `InputError` that names the first setting out of range."""
        if not self.minutes > 0:
            raise InputError(f"minutes must be greater than 0, but is {self.minutes}.")
        if set(self.shares) != set(SHARES) or not all(share >= 0 for share in self.shares.values()):
            raise InputError(
                f"shares must give a number of at least 0 for each of {', '.join(SHARES)}, but is {self.shares}."
            )
        if not self.shares["text_to_image"] > 0:
            raise InputError("shares must leave some time for text_to_image, but gives it 0.")
        if self.autoencoder_training == "new" and self.start_from:
            raise InputError(
                "autoencoder_training is new, so start_from must be empty, but is"
                f" {self.start_from}: the latents of a new autoencoder mean nothing to that model."
            )
        if self.push and self.push.count("/") != 1:
            raise InputError(f"push must be the name of a repository such as user/name, but is {self.push!r}.")

    def write(self, folder: Path) -> None:
        """Write `run.yaml` into `folder`, each setting below its comment."""
        comments, values = field_comments(), asdict(self)
        parts = ["# Settings of `animal-ldm run`. Edit them and give the same command again.\n"]
        for field in fields(self):
            parts += [f"\n{comments[field.name]}\n"] if field.name in comments else []
            parts.append(yaml.safe_dump({field.name: values[field.name]}, sort_keys=False, allow_unicode=True))
        write_text(folder / FILE, "".join(parts))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The settings in `folder/run.yaml`; None if there is no such file.

        Raises:
            InputError: the file is not YAML, lacks a setting, or has one that is unknown or of another type.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} is not YAML: {error}. Correct it, or delete it to have it written again."
            ) from error
        if not isinstance(content, dict):
            raise InputError(f"{path} must hold settings, one per line, but holds {content!r}.")
        known = {field.name: field for field in fields(cls)}
        if wrong := sorted(map(str, set(content) ^ set(known))):
            raise InputError(
                f"{path} lacks these settings, or does not know them: {', '.join(wrong)}. Correct the file, or delete"
                " it to have it written again."
            )
        for name, value in content.items():
            content[name] = _typed(path, name, value, known[name].type)
        return cls(**content)

    def changed(self, **given: Any) -> Self:
        """With the values that are not None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


def field_comments() -> dict[str, str]:
    """{name of a field: the comment lines above it}, from this file's text: the comments are written only once."""
    comments, lines = {}, []
    names = {field.name for field in fields(RunSettings)}
    for line in Path(__file__).read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("#"):
            lines.append(line)
            continue
        name = line.partition(":")[0]
        if lines and name in names:
            comments.setdefault(name, "\n".join(lines))
        lines = []
    return comments


def _typed(path: Path, name: str, value: Any, kind: Any) -> Any:
    """`value` as a field of type `kind` holds it."""
    origin = get_origin(kind)
    if origin is Literal:
        if value is False and "no" in get_args(kind):  # YAML reads a bare no as false
            value = "no"
        if value not in get_args(kind):
            raise InputError(f"{path}: {name} must be one of {', '.join(get_args(kind))}, but is {value!r}.")
        return value
    if origin in (Union, types.UnionType):
        return value
    if kind is str and value is None:
        return ""
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:  # YAML reads 1e-3 as text
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, origin or kind) or (kind is int and isinstance(value, bool)):
        expected = getattr(origin or kind, "__name__", kind)
        raise InputError(f"{path}: {name} must be of type {expected}, but is {value!r}.")
    return value
