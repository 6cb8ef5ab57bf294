"""`animal-ldm evaluate`: a pipeline and real photos -> a table, `results.json` and plots."""

import contextlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import InputError
from ..released import is_pipeline_folder
from ..sampling import SamplingOptions
from .parsing import parse

SWEPT = {"guidance_scale": float, "guidance_rescale": float, "pag_scale": float, "num_inference_steps": int}


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(SamplingOptions):
    """Measure a model's samples against real photos.

    Writes report.html, a page that a browser opens anywhere; results.json (animal_ldm/evaluation/results.py documents
    its fields); samples.webp, precision_recall.png, fd_curve.png, nearest.png, captions.png for prompts from the data
    and, with --sweep, sweep.png. An interrupted run resumes where it stopped. Several processes share the work:
    `accelerate launch -m animal_ldm evaluate MODEL ...`.
    """

    # Pipeline folder, id of a model on the Hub, or a folder of images that were generated before.
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    # Prepared dataset, as `animal-ldm prepare` writes it. The model must not have seen its validation split.
    data: Path | None = None
    # In place of --data: statistics of photos that --save_reference wrote. Not measured then: --reconstructions,
    # --prompts data, and copies of training photos if the file has a part of their features.
    reference: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    # Write the statistics of the photos for --reference: mean and covariance of all photos of --split, and features of
    # at most --subset of each split. Features can tell much of a photo, those of the extractor vae nearly all.
    save_reference: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    # Photos to compare the samples with; the other split shows what real photos would score. Default: train, or what
    # --reference has.
    split: Literal["train", "validation"] | None = None
    # Photos of each split, at most, that the metrics look at, chosen at random. The Frechet distance and the search
    # for copies use all photos.
    subset: int = 10_000
    # Number of samples.
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 7500
    # Network that measures the images: inception (the only one whose distance is an FID), dinov2, clip, squeezenet,
    # vae (an autoencoder's latents, for trying things out), or the folder or Hub id of another transformers image
    # model. Several are separated by commas and read every image once: inception,dinov2,clip.
    extractor: str = "inception"
    # The extractor's weights: TorchScript for inception, safetensors for squeezenet, a folder for the others.
    # Downloaded by default. Of several extractors NAME=PATH, separated by commas.
    extractor_weights: Annotated[str | None, tyro.conf.arg(aliases=["--inception_weights"])] = None
    # Sample i starts from the noise of seed + i.
    seed: int = 423432
    # Classes of the samples: in proportion to the photos, or equally many of each.
    class_mix: Literal["data", "balanced"] = "data"
    # Prompts of the samples: captions of the photos of --split, or the class names. With data, colours and backgrounds
    # that prompts ask for are looked for in the samples. Default: data if the captions say more than the class.
    prompts: Literal["data", "classes"] | None = None
    # Number of sample sets, each of --number samples; reports mean and standard deviation over them.
    repeats: int = 1
    # Measure at each value of a sampling parameter, such as guidance_scale=1,2,3,5.
    sweep: str | None = None
    # Measure the autoencoder alone too, on the validation photos.
    reconstructions: bool = False
    # SqueezeNet's weights (safetensors) for the LPIPS of --reconstructions. By default those of --extractor
    # squeezenet; with another extractor LPIPS is not measured.
    squeezenet_weights: Annotated[Path | None, tyro.conf.arg(aliases=["--perceptual_weights"])] = None
    # Folder to write to; by default evaluation/ followed by the model's name.
    out: Path | None = None
    # Folder for downloaded weights and the photos' features; by default a folder in the user's Hugging Face cache.
    cache_dir: Path | None = None
    # Device to run on, such as cpu, cuda or mps; auto is the accelerator if there is one.
    device: str = "auto"
    # Number type of the model's weights and activations; features are always measured in float32.
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    # Images sampled and measured at a time.
    batch_size: int = 32
    # Processes that read and resize images.
    workers: int = min(4, os.cpu_count() or 1)


def check(arguments: EvaluateArguments) -> None:
    """Raise an `InputError` for what can be told without the model."""
    if arguments.number < 12:
        raise InputError(f"--number must be at least 12, for neighbourhoods of 10, but is {arguments.number}.")
    for name, least in (("subset", 12), ("repeats", 1), ("batch_size", 1), ("workers", 0)):
        if (value := getattr(arguments, name)) < least:
            raise InputError(f"--{name} must be at least {least}, but is {value}.")
    arguments.check()
    check_reference(arguments)
    if is_image_folder(arguments.model) and (arguments.repeats > 1 or arguments.sweep or arguments.reconstructions):
        raise InputError(
            f"{arguments.model} is a folder of images: --repeats, --sweep and --reconstructions need a pipeline."
        )
    if arguments.sweep is not None:
        parameter, values = parse_sweep(arguments.sweep)
        for value in values:
            replace(arguments.settings(), **{parameter: value}).check()


def check_reference(arguments: EvaluateArguments) -> None:
    """Raise an `InputError` for what a file of statistics cannot give."""
    number = len(extractors(arguments))
    if (arguments.data is None) == (arguments.reference is None):
        raise InputError("Pass either --data, a prepared dataset, or --reference, the statistics of one.")
    if number > 1 and (arguments.reference or arguments.save_reference):
        raise InputError(
            f"--reference and --save_reference are of one extractor, but --extractor is {arguments.extractor!r}."
        )
    if arguments.reference is None:
        return
    needs_photos = {
        "--split": arguments.split,
        "--save_reference": arguments.save_reference,
        "--prompts data": arguments.prompts == "data",
        "--reconstructions": arguments.reconstructions,
    }
    if given := [option for option, value in needs_photos.items() if value]:
        raise InputError(
            f"{', '.join(given)} need{'s' * (len(given) == 1)} the photos themselves: pass --data, not --reference."
        )


def extractors(arguments: EvaluateArguments) -> dict[str, str | None]:
    """{name of an extractor: its weights, None for the default}, in order."""
    names, given = arguments.extractor.split(","), arguments.extractor_weights
    found: dict[str, str | None] = dict.fromkeys(names)
    folders = [Path(name).name for name in names]
    if not all(names) or len(set(folders)) < len(names):
        raise InputError(
            "--extractor must be one or more different names, separated by commas, such as inception,dinov2,clip; "
            f"but is {arguments.extractor!r}."
        )
    if given and len(names) == 1:
        return {names[0]: given.removeprefix(f"{names[0]}=")}
    for part in given.split(",") if given else ():
        name, equals, path = part.partition("=")
        if not equals or name not in found:
            raise InputError(
                f"--extractor_weights of several extractors must be NAME=PATH, separated by commas, with names from "
                f"--extractor ({', '.join(names)}); but is {given!r}."
            )
        found[name] = path
    return found


def parse_sweep(sweep: str) -> tuple[str, tuple[float, ...]]:
    """`"guidance_scale=1,2"` -> `("guidance_scale", (1.0, 2.0))`."""
    parameter, _, listed = sweep.partition("=")
    try:
        values = tuple(SWEPT[parameter](value) for value in listed.split(","))
    except (KeyError, ValueError):
        values = ()
    if not values or not all(map(math.isfinite, values)):
        raise InputError(
            f"--sweep must be one of {', '.join(SWEPT)}, then = and numbers separated by commas, such as "
            f"guidance_scale=1,2,3,5; but is {sweep!r}."
        )
    return parameter, values


def is_image_folder(model: str) -> bool:
    """Whether `model` is a folder, and not that of a pipeline."""
    return Path(model).is_dir() and not is_pipeline_folder(model)


def out_folder(arguments: EvaluateArguments) -> Path:
    return arguments.out or Path("evaluation") / Path(arguments.model).name


def main(argv: list[str] | None = None) -> None:
    arguments = parse(EvaluateArguments, argv, prog="animal-ldm evaluate")
    check(arguments)
    from ..data.prepared import load_split
    from ..evaluation.evaluate import EvaluationSettings, SweepSettings, evaluate
    from ..evaluation.extractors import load_extractor
    from ..evaluation.features import Measurer
    from ..evaluation.images import images_of_dataset, images_of_folder
    from ..evaluation.table import table
    from ..files import cache_root
    from ..loading import choose_device, load_pipeline
    from ..locks import locked
    from ..perceptual import PerceptualDistance
    from ..processes import connected

    prompts, split = "classes", arguments.split or "train"
    if arguments.reference:
        photos = arguments.reference
    else:
        assert arguments.data is not None
        photos = images_of_dataset(arguments.data)
        prompts = "data" if load_split(arguments.data, split).says_more_than_classes else "classes"
    state = connected(cpu=arguments.device == "cpu")
    shared = state if state.num_processes > 1 else None
    device = choose_device(str(state.device) if shared else arguments.device)
    pipeline = None
    if not is_image_folder(arguments.model):
        pipeline = load_pipeline(arguments.model, str(device), arguments.dtype)
    model = pipeline or images_of_folder(arguments.model)
    perceptual, weights = None, extractors(arguments)
    with state.main_process_first():  # it downloads weights, if need be
        first, *more = [load_extractor(name, path, device, arguments.cache_dir) for name, path in weights.items()]
        if arguments.reconstructions and (arguments.squeezenet_weights or "squeezenet" in weights):
            perceptual = PerceptualDistance(arguments.squeezenet_weights or weights["squeezenet"])
    cache = cache_root(arguments.cache_dir) / "features"
    settings = EvaluationSettings(
        model_name=Path(arguments.model).name,
        data_name=arguments.data.name if arguments.data else "",
        out=out_folder(arguments),
        number=arguments.number,
        seed=arguments.seed,
        sampling=arguments.settings(pipeline),
        split=split,
        class_mix=arguments.class_mix,
        prompts=arguments.prompts or prompts,
        repeats=arguments.repeats,
        sweep=SweepSettings(*parse_sweep(arguments.sweep)) if arguments.sweep else None,
        reconstructions=arguments.reconstructions,
        perceptual=perceptual,
        subset=arguments.subset,
        save_reference=arguments.save_reference,
    )
    measurer = Measurer(first, arguments.batch_size, arguments.workers, shared, cache, tuple(more))
    out = settings.out
    with locked(out / ".lock", f"--out {out}") if state.is_main_process else contextlib.nullcontext():
        results = evaluate(model, photos, measurer, settings)
    if state.is_main_process:
        print(table(results))
        print(f"\nreport.html, results.json and plots: {out}")
    state.destroy_process_group()
