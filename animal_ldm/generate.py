"""`animal-ldm generate`: pictures of a prompt, as a grid or a file each."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from .arguments import parse
from .errors import InputError

if TYPE_CHECKING:  # torch and diffusers take seconds to import; `--help` needs neither
    from PIL import Image

    from .pipeline_animal_ldm import AnimalLDMPipeline

MODEL = "models/animal-ldm-128"

# Arguments that the PNG text records, beside the seed.
PNG_FIELDS = (
    "prompt",
    "negative_prompt",
    "model",
    "dtype",
    "steps",
    "guidance",
    "guidance_rescale",
    "guidance_interval",
)

# What a pipeline folder must hold beside weights, or else: transformers makes up a tokenizer where it finds no file.
PIPELINE_FILES = (
    ("model_index.json",),
    ("scheduler/scheduler_config.json",),
    ("text_encoder/config.json",),
    ("tokenizer/tokenizer.json", "tokenizer/vocab.json"),
    ("unet/config.json",),
    ("vae/config.json",),
)


@dataclass(frozen=True)
class GenerateArguments:
    """Draw pictures of a prompt.

    Picture i is drawn from seed + i alone: --number and --batch_size change none of them. The PNG's text fields hold
    the settings it was drawn with. A file that exists is overwritten.
    """

    # What to draw, such as "a zebra"; "" draws anything that the model has seen.
    prompt: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PROMPT")]]
    # How many pictures.
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    # Seed of the first picture; the next ones take the next seeds.
    seed: int = 0
    # Denoising steps: more take longer and draw better.
    steps: int = 25
    # Guidance scale: above 1 the pictures follow the prompt more closely and vary less; 1 is no guidance.
    guidance: float = 3.0
    # Share, from 0 to 1, in which guided predictions take the contrast of unguided ones; against overexposure.
    guidance_rescale: float = 0.0
    # Part of the steps that is guided, as fractions: 0 is the first step, 1 the end of the last.
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    # What to guide away from.
    negative_prompt: str = ""
    # PNG to write: all pictures in a grid, or with --separate the stem of their names.
    out: Path = Path("pictures.png")
    # Write a file each, named like pictures-000.png, instead of a grid.
    separate: bool = False
    # Pipeline folder, as `animal-ldm train` writes it, or the id of a model on the Hub.
    model: str = MODEL
    # Where to run, such as cpu, cuda or mps; auto is the accelerator if there is one.
    device: str = "auto"
    # Number type of weights and activations; the small ones are for accelerators.
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    # Pictures drawn at a time: more are faster and take more memory.
    batch_size: int = 8


def main(argv: list[str] | None = None) -> None:
    arguments = parse(GenerateArguments, argv, prog="animal-ldm generate")
    check(arguments)
    pipeline = load_pipeline(arguments.model, arguments.device, arguments.dtype)
    for path in save(draw(pipeline, arguments), arguments):
        print(path)


def check(arguments: GenerateArguments) -> None:
    """Raise an `InputError` for what can be told without the model."""
    for name in ("number", "steps", "batch_size"):
        if (value := getattr(arguments, name)) < 1:
            raise InputError(f"--{name} must be at least 1, but is {value}.")
    start, stop = arguments.guidance_interval
    if not 0 <= start <= stop <= 1:
        raise InputError(
            f"--guidance_interval must be two fractions of the steps, 0 <= START <= STOP <= 1, but is {start} {stop}."
        )
    if arguments.out.suffix.lower() != ".png":
        raise InputError(f"--out must be the name of a PNG file, such as zebra.png, but is {arguments.out}.")


def load_pipeline(model: str, device: str = "auto", dtype: str = "float32") -> "AnimalLDMPipeline":
    """The pipeline in the folder `model`, or of that id on the Hub.

    Args:
        device: a torch device, or "auto" for the accelerator if there is one.
        dtype: name of a torch dtype.

    Raises:
        InputError: no such folder or model, a folder that lacks a file, or no connection to the Hub.
    """
    model = model_folder(model)
    local = Path(model).is_dir()
    if local:
        check_folder(Path(model))
    elif model == MODEL:
        raise InputError(
            f"There is no {MODEL} here, the model that is used unless another is named. Train one with `animal-ldm"
            " train`, or pass --model with a pipeline folder or the id of a model on the Hub."
        )
    elif not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        raise InputError(
            f"--model must be a pipeline folder or an id on the Hub such as owner/name; there is no folder {model}."
        )

    import torch
    from huggingface_hub.errors import RepositoryNotFoundError

    from .pipeline_animal_ldm import AnimalLDMPipeline

    try:
        pipeline = AnimalLDMPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    except OSError as error:
        if local:
            raise InputError(f"A file in {model} is missing or damaged; copy the folder again. {error}") from error
        reason = error.__cause__ or error
        if isinstance(reason, RepositoryNotFoundError):
            found = "the Hub has no model of that name that you may read"
        else:
            found = f"the Hub could not be asked ({type(reason).__name__}: {str(reason).splitlines()[0]})"
        raise InputError(f"{model} is no folder here, and {found}. Check the name and the network.") from error
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return pipeline.to(device if device != "auto" else accelerator or "cpu")


def model_folder(model: str) -> str:
    """`model`; of the released model, where its folder is not here, the copy that came with the package."""
    if model == MODEL and not Path(model).is_dir():
        package = Path(__file__).parent
        for place in (package, package.parent):  # installed; in a checkout
            if (place / MODEL).is_dir():
                return str(place / MODEL)
    return model


def check_folder(folder: Path) -> None:
    """Raise an `InputError` that lists what `folder` lacks to be a pipeline folder."""
    missing = [" or ".join(names) for names in PIPELINE_FILES if not any((folder / name).is_file() for name in names)]
    if missing:
        raise InputError(
            f"{folder} is no whole pipeline folder: it lacks {', '.join(missing)}. Pass --model with a folder that"
            " `animal-ldm train` wrote, or copy it again."
        )


def draw(pipeline: "AnimalLDMPipeline", arguments: GenerateArguments) -> list["Image.Image"]:
    """`arguments.number` pictures, each from a generator of its own; on the CPU, so that all devices see one noise."""
    import torch
    from tqdm import tqdm

    with torch.no_grad():
        prompt_embeds, negative_prompt_embeds = pipeline.encode_prompt(
            arguments.prompt,
            do_classifier_free_guidance=arguments.guidance > 1,
            negative_prompt=arguments.negative_prompt,
        )
    pipeline.set_progress_bar_config(desc="steps", leave=False)
    seeds = range(arguments.seed, arguments.seed + arguments.number)
    pictures = []
    with tqdm(total=len(seeds), desc="pictures", unit="picture") as progress:
        for first in range(0, len(seeds), arguments.batch_size):
            batch = seeds[first : first + arguments.batch_size]
            pictures += pipeline(
                prompt_embeds=prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds,
                num_images_per_prompt=len(batch),
                num_inference_steps=arguments.steps,
                guidance_scale=arguments.guidance,
                guidance_rescale=arguments.guidance_rescale,
                guidance_interval=arguments.guidance_interval,
                generator=[torch.Generator().manual_seed(seed) for seed in batch],
            ).images
            progress.update(len(batch))
    return pictures


def save(pictures: list["Image.Image"], arguments: GenerateArguments) -> list[Path]:
    """Write the pictures as `arguments` say; returns the paths."""
    out, seed = arguments.out, arguments.seed
    out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.separate:
        digits = max(3, len(str(len(pictures) - 1)))
        paths = [out.with_stem(f"{out.stem}-{i:0{digits}}") for i in range(len(pictures))]
        for i, (path, picture) in enumerate(zip(paths, pictures, strict=True)):
            picture.save(path, pnginfo=png_text(arguments, str(seed + i)))
        return paths
    seeds = str(seed) if len(pictures) == 1 else f"{seed} to {seed + len(pictures) - 1}"
    grid(pictures).save(out, pnginfo=png_text(arguments, seeds))
    return [out]


def grid(pictures: list["Image.Image"]) -> "Image.Image":
    """The pictures in reading order, in the layout near a square that leaves the fewest cells empty (white)."""
    from diffusers.utils import make_image_grid
    from PIL import Image

    columns = grid_columns(len(pictures))
    empty = -len(pictures) % columns
    cells = [*pictures, *[Image.new("RGB", pictures[0].size, "white")] * empty]
    return make_image_grid(cells, rows=len(cells) // columns, cols=columns)


def grid_columns(count: int) -> int:
    """Columns for `count` cells: from as many as rows to four times as many, with the fewest cells empty."""
    root = math.sqrt(count)
    return min(range(math.ceil(root), math.floor(2 * root) + 1), key=lambda columns: -count % columns)


def png_text(arguments: GenerateArguments, seed: str):
    """PNG text fields with all that determines the picture."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name in PNG_FIELDS:
        info.add_text(name, str(getattr(arguments, name)))
    info.add_text("seed", seed)
    return info


if __name__ == "__main__":
    main()
