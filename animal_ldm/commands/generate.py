"""`animal-ldm generate`: images of a prompt, as a grid or a file each."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from ..errors import InputError
from ..released import RELEASED_MODEL
from ..sampling import SamplingOptions, sample_images
from .parsing import parse

# Arguments that the text fields of a PNG record, beside the seed.
PNG_FIELDS = (
    "prompt",
    "negative_prompt",
    "model",
    "dtype",
    "num_inference_steps",
    "guidance_scale",
    "guidance_rescale",
    "guidance_interval",
    "pag_scale",
    "pag_applied_layers",
)


@dataclass(frozen=True, kw_only=True)
class GenerateArguments(SamplingOptions):
    """Generate images of a prompt.

    Image i depends on seed + i alone: --number and --batch_size change none of them. The text fields of the PNG hold
    its settings. An existing file is overwritten.
    """

    # What to generate, such as "a zebra"; "" leaves the choice to the model.
    prompt: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PROMPT")]]
    # Number of images.
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    # Seed of the first image; the others take the seeds after it.
    seed: int = 0
    # What to guide away from.
    negative_prompt: str = ""
    # PNG to write: all images in a grid, or with --separate the stem of their names.
    out: Path = Path("images.png")
    # Write one file per image, named like images-000.png, instead of a grid.
    separate: bool = False
    # Pipeline folder, as `animal-ldm train` writes it, or the id of a model on the Hub.
    model: str = RELEASED_MODEL
    # Device to run on, such as cpu, cuda or mps; auto is the accelerator if there is one.
    device: str = "auto"
    # Number type of weights and activations; the small ones are for accelerators.
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    # Images generated at a time: more are faster and take more memory.
    batch_size: int = 8


def check(arguments: GenerateArguments) -> None:
    """Raise an `InputError` for what can be told without the model."""
    for name in ("number", "batch_size"):
        if (value := getattr(arguments, name)) < 1:
            raise InputError(f"--{name} must be at least 1, but is {value}.")
    arguments.check()
    if arguments.out.suffix.lower() != ".png":
        raise InputError(f"--out must be the name of a PNG file, such as zebra.png, but is {arguments.out}.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse(GenerateArguments, argv, prog="animal-ldm generate")
    check(arguments)
    from ..loading import load_pipeline

    pipeline = load_pipeline(arguments.model, arguments.device, arguments.dtype)
    pipeline.set_progress_bar_config(desc="steps", leave=False)
    sampling = arguments.settings(pipeline)
    arguments = replace(arguments, **asdict(sampling))  # for the text of the PNG
    prompts = [arguments.prompt] * arguments.number
    seeds = range(arguments.seed, arguments.seed + arguments.number)
    sampled = sample_images(pipeline, prompts, seeds, sampling, arguments.batch_size, arguments.negative_prompt)
    images = [*tqdm(sampled, total=arguments.number, desc="images", unit="image")]
    for path in save(images, arguments):
        print(path)


def save(images: Sequence[Image.Image], arguments: GenerateArguments) -> list[Path]:
    """Write the images as `arguments` say; returns the paths."""
    out, seed = arguments.out, arguments.seed
    out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.separate:
        digits = max(3, len(str(len(images) - 1)))
        paths = [out.with_stem(f"{out.stem}-{i:0{digits}}") for i in range(len(images))]
        for i, (path, image) in enumerate(zip(paths, images, strict=True)):
            image.save(path, pnginfo=png_text(arguments, str(seed + i)))
        return paths
    seeds = str(seed) if len(images) == 1 else f"{seed} to {seed + len(images) - 1}"
    grid(images).save(out, pnginfo=png_text(arguments, seeds))
    return [out]


def grid(images: Sequence[Image.Image]) -> Image.Image:
    """The images in reading order, in the layout near a square that leaves the fewest cells empty (white)."""
    columns = grid_columns(len(images))
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def grid_columns(count: int) -> int:
    """Columns for `count` cells: from as many as rows to four times as many, with the fewest cells empty."""
    root = math.sqrt(count)
    return min(range(math.ceil(root), math.floor(2 * root) + 1), key=lambda columns: -count % columns)


def png_text(arguments: GenerateArguments, seed: str) -> PngInfo:
    """PNG text fields with everything that determines the image."""
    info = PngInfo()
    for name in PNG_FIELDS:
        info.add_text(name, str(getattr(arguments, name)))
    info.add_text("seed", seed)
    return info
