"""The settings that decide what a prepared dataset holds and how it is captioned; its report records them."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import tyro

from ..errors import InputError


class Part(NamedTuple):
    """Part `index` of `number`, counted from 1, of the photos of a preparation."""

    index: int
    number: int


@dataclass(frozen=True, kw_only=True)
class PreparationSettings:
    """Which photos are taken, and how they are cropped, split and captioned."""

    # Number of classes to take: those with the most photos, ties by name.
    num_classes: int = 11
    # Take exactly these classes instead.
    classes: tuple[str, ...] = ()
    # Side of the squares in pixels. Photos whose shorter side is below half of it are skipped.
    image_size: int = 128
    # box: the square around the labelled animals where a photo has boxes, else the centre. center: always the centre.
    crop: Literal["box", "center"] = "box"
    # With --crop box: room left around the animals, as a fraction of the longer side of their common box.
    margin: float = 0.1
    # Fraction of each class for validation; at least one photo of every class with two or more.
    val_fraction: float = 0.1
    # Seed of the split and of the captions.
    seed: int = 423432
    # folders: a PNG per photo, in a folder per class. shards: Parquet files of some 256 MB that hold the images, for
    # large sets and the Hub's viewer. Default: folders for fewer than 20,000 photos, else shards.
    format: Literal["folders", "shards"] | None = None
    # Measure words that are true of each square (colour of the animal, background, close-up, number) and add captions
    # with them to photos captioned by a template: "a white horse on a green background". Makes no network requests.
    describe: bool = False
    # License of the photos for the dataset card, as the Hub spells it (cc-by-4.0). Default: unknown.
    license: Annotated[str | None, tyro.conf.arg(aliases=["--licence"])] = None
    # Column with the images, for a dataset of the `datasets` library. Default: image.
    image_column: str | None = None
    # Column with the class names. Default: label, if there is one. Without it, photos have no class.
    label_column: str | None = None
    # Column with your own captions, a text or a list of texts each. Default: texts or text, if there is one.
    text_column: str | None = None

    def check(self) -> None:
        """Raise an `InputError` for a value out of range."""
        for name, holds, expected in (
            ("num_classes", self.num_classes >= 1, "at least 1"),
            ("image_size", self.image_size >= 8, "at least 8 pixels"),
            ("margin", self.margin >= 0, "at least 0"),
            ("val_fraction", 0 <= self.val_fraction < 1, "at least 0 and below 1"),
        ):
            if not holds:
                raise InputError(f"--{name} must be {expected}, but is {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class CaptioningSettings:
    """How a model writes captions, and which photos get them."""

    # Instruction for the model, such as "Describe the animal and its surroundings in one sentence.". For BLIP and GIT,
    # which take no instructions, the beginning of every caption ("a photo of"); for Florence-2 a task such as
    # "<DETAILED_CAPTION>". Default: one short sentence; none for BLIP and GIT.
    prompt: str | None = None
    # Captions per photo. 1: the best by beam search. More: sampled at random, each from a seed of its own.
    num_captions: int = 1
    # Width of the beam search for one caption; 1 is greedy search, the fastest.
    num_beams: int = 3
    # With --num_captions above 1: the sampling temperature; lower is safer and less varied.
    temperature: float = 1.0
    # With --num_captions above 1: sample from the most likely tokens that make up this probability together.
    top_p: float = 0.9
    # Longest caption, in tokens of the model.
    max_new_tokens: int = 50
    # Put the class name before a caption that lacks it: "a zebra: a horse in a field".
    keep_class: bool = False
    # Caption the photos with captions of your own as well, after yours. Otherwise they are left as they are.
    add_to_own: bool = False
    # Keep the captions that other models wrote earlier. Otherwise the new ones replace them.
    keep_others: bool = False
    # Seed of the sampling, with --num_captions above 1.
    seed: int = 0
    # Number type of weights and activations; the small ones are for accelerators.
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def check(self) -> None:
        """Raise an `InputError` for a value out of range."""
        for name, holds, expected in (
            ("num_captions", self.num_captions >= 1, "at least 1"),
            ("num_beams", self.num_beams >= 1, "at least 1"),
            ("temperature", self.temperature > 0, "above 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("prompt", self.prompt is None or self.prompt.strip(), "a text that is not empty"),
        ):
            if not holds:
                raise InputError(f"--{name} must be {expected}, but is {getattr(self, name)!r}.")
