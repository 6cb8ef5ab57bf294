"""What is measured of the averaged weights during training: validation loss, sample grids, and the best weights."""

# diffusers annotates configs, outputs and tensors too narrowly for a type checker.
# pyright: reportArgumentType=false

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from diffusers import DDPMScheduler
from PIL import Image, ImageDraw, ImageFont

from ..data.captions import with_article
from ..data.prepared import PreparedSplit
from ..errors import InputError
from ..evaluation.extractors import Extractor
from ..evaluation.features import Measurer
from ..evaluation.quick import QuickSettings, quick_evaluation
from ..files import cache_root, whole_folder, without_nan, write_json
from ..loading import rebuilt, seal
from ..locks import check_space
from ..pipeline_animal_ldm import AnimalLDMPipeline
from ..sampling import Sampling, quiet, sample_images
from .arguments import TrainingArguments
from .batches import Batch
from .cache import Cache
from .lora import save_lora
from .objective import Denoiser, diffusion_loss, training_target
from .page import MOST_CLASSES
from .run import Run
from .text import EXAMPLES

TITLE_HEIGHT = 18  # pixels of the line above a row of the grid
GRID_BATCH = 64  # images of a grid that an accelerator samples at a time; the CPU samples a row
SIDE_BY_SIDE = 4  # classes in a row of the grid, with one sample of each


@contextlib.contextmanager
def inference(model: torch.nn.Module) -> Iterator[None]:
    """Within this context the model is in evaluation mode; afterwards in the mode it was in before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def validation_loss(
    accelerator: Accelerator, denoiser: Denoiser, scheduler: DDPMScheduler, batch: Batch, size: int = 64
) -> float:
    """Unweighted loss over a fixed batch, the same for any number of processes. All of them call it.

    Args:
        size: of the pieces that are shared among the processes.
    """
    pieces = batch.pieces(size)
    losses = torch.zeros(len(pieces), device=accelerator.device)
    for i in range(len(pieces))[accelerator.process_index :: accelerator.num_processes]:
        piece = pieces[i].to(accelerator.device)
        noisy_latents = scheduler.add_noise(piece.latents, piece.noise, piece.timesteps)
        prediction, _ = denoiser(noisy_latents, piece.timesteps, piece.captions, piece.texts)
        target = training_target(scheduler, piece.latents, piece.noise, piece.timesteps)
        losses[i] = diffusion_loss(prediction, target, torch.ones(len(target), device=accelerator.device))
    reduced: Any = accelerator.reduce(losses, "sum")  # the others have zeros in its place
    return float(np.average(reduced.tolist(), weights=[len(piece.latents) for piece in pieces]))


def grid_captions(split: PreparedSplit, arguments: TrainingArguments) -> list[str]:
    """The prompts of the sample grid beside the classes: some captions of `split`, and those of --validation_prompts.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    captions = split.example_captions(EXAMPLES, arguments.seed)
    if arguments.validation_prompts is None:
        return captions
    try:
        lines = Path(arguments.validation_prompts).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--validation_prompts must be a UTF-8 text file with one prompt per line, but {error}."
        ) from error
    own = [line.strip() for line in lines if line.strip()]
    if not own:
        raise InputError(
            f"--validation_prompts: {arguments.validation_prompts} holds no prompt; expected one per line."
        )
    return captions + own


def sample_grid(
    pipeline: AnimalLDMPipeline, arguments: TrainingArguments, captions: Sequence[str] = ()
) -> Image.Image:
    """Samples from the same noise at every call: a row per class, then a row below each of `captions`.

    Single samples of the classes lie side by side. Of more than `MOST_CLASSES` classes, an evenly spaced selection is
    shown. Each process samples a share of the rows; all of them call it.
    """
    columns, known = arguments.samples_per_class, pipeline.classes
    classes = [known[i] for i in np.linspace(0, len(known) - 1, min(MOST_CLASSES, len(known))).round().astype(int)]
    rows = [*map(with_article, classes), *captions]
    state = PartialState()
    own = range(len(rows))[state.process_index :: state.num_processes]
    prompts = [rows[row] for row in own for _ in range(columns)]
    seeds = [arguments.seed + column for _ in own for column in range(columns)]
    together = columns if pipeline.device.type == "cpu" else max(columns, GRID_BATCH)
    with quiet(pipeline):
        sampled = [*sample_images(pipeline, prompts, seeds, arguments.settings(pipeline), together)]
    found = dict(gather_object([(row, sampled[i * columns : (i + 1) * columns]) for i, row in enumerate(own)]))
    images = [image for row in range(len(rows)) for image in found[row]]
    of_classes, side = images[: len(classes) * columns], images[0].height
    across = columns if columns > 1 else min(len(classes), SIDE_BY_SIDE)
    height = -(-len(of_classes) // across) * side  # of the classes
    sheet = Image.new("RGB", (across * side, height + len(captions) * (TITLE_HEIGHT + side)), "white")
    for number, image in enumerate(of_classes):
        sheet.paste(image, (number % across * side, number // across * side))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for row, caption in enumerate(captions):
        top = height + row * (TITLE_HEIGHT + side)
        draw.text((2, top + 1), caption, fill="black", font=font)
        for column in range(columns):
            image = images[(len(classes) + row) * columns + column]
            sheet.paste(image, (column * side, top + TITLE_HEIGHT))
    return sheet


SMALL_FILES = 8 << 20  # bytes of a pipeline beside its weights, at most: a tokenizer, configurations


def save_pipeline(pipeline: AnimalLDMPipeline, folder: Path, dtype: str) -> None:
    """Write the pipeline with its `SHA256SUMS`, its UNet and autoencoder in `dtype`; of one with a LoRA, that alone.

    The text encoder stays float32, because transformers would load it in the number type it was saved in.
    """
    if hasattr(pipeline.unet, "peft_config"):
        save_lora(pipeline.unet, folder)
        return
    networks = {name: copy.deepcopy(getattr(pipeline, name)) for name in ("unet", "vae")}
    for network in networks.values():
        # diffusers' own `to` warns of layers to be kept in float32, even where there are none
        torch.nn.Module.to(network, getattr(torch, dtype))
    folder.mkdir(parents=True, exist_ok=True)
    trained = (*networks.values(), pipeline.text_encoder)
    size = sum(part.numel() * part.element_size() for network in trained for part in network.parameters())
    check_space(folder, size + SMALL_FILES, "The pipeline")
    with whole_folder(folder) as partial:
        rebuilt(pipeline, **networks).save_pretrained(partial)
        seal(partial)


# Arguments that decide what a kernel distance means: once one is changed, earlier distances are not comparable.
MEASURED_WITH = ("eval_images", "eval_extractor", "extractor_weights", *(field.name for field in fields(Sampling)))


def check_samples_can_be_shared(accelerator: Accelerator, arguments: TrainingArguments) -> None:
    """Raise an `InputError` if evaluations during the run need a disk that its machines do not have."""
    if arguments.eval_every and not Cache(accelerator, arguments.output_dir).shared:
        raise InputError(
            "--eval_every: every process writes a share of the samples into --output_dir and reads those of the"
            f" others, but the machines of this run do not share {arguments.output_dir}. Put it on a disk that they"
            " share, or leave out --eval_every and run `animal-ldm evaluate` afterwards."
        )


@dataclass(frozen=True)
class BestWeights:
    """Keeps the weights with the lowest kernel distance so far in OUTPUT_DIR/best, with the report of the run so far.

    Args:
        pipeline: holds the weights to evaluate.
        save: writes them with the report to a folder.
    """

    run: Run
    arguments: TrainingArguments
    pipeline: AnimalLDMPipeline
    extractor: Extractor
    save: Callable[[Path], None]

    def evaluate(self) -> None:
        """Compare samples with the validation split; save the weights if they are the best. All processes call it."""
        run, arguments = self.run, self.arguments
        state = PartialState() if run.accelerator.num_processes > 1 else None
        # features that several processes use must be on the disk that they share
        cache = cache_root(arguments.cache_dir) if state is None else run.output_dir / "evaluation"
        measurer = Measurer(self.extractor, state=state, cache=cache / "features")
        settings = QuickSettings(
            number=arguments.eval_images,
            seed=arguments.seed,
            folder=run.output_dir / "evaluation",
            sampling=arguments.settings(self.pipeline),
        )
        found = quick_evaluation(self.pipeline, arguments.data, measurer, settings)
        if not run.accelerator.is_main_process:
            return
        earlier = run.values("evaluation/kernel_distance", of=MEASURED_WITH)
        run.announce(
            {
                "evaluation/kernel_distance": found.kernel_distance,
                "evaluation/frechet_distance": found.frechet_distance,
            }
        )
        if found.kernel_distance < min(earlier, default=math.inf):
            self.save(run.output_dir / "best")
            record = {"images_seen": run.images_seen, **asdict(found)}
            write_json(run.output_dir / "best" / "quick_report.json", without_nan(record))
