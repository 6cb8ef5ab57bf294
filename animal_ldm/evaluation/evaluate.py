"""`animal-ldm evaluate`: a pipeline and real photos -> a table, `results.json` and pictures."""

import json
import os
import shutil
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..arguments import parse
from ..errors import InputError

if TYPE_CHECKING:  # they take seconds to import; `--help` needs none of them
    from accelerate import PartialState
    from diffusers import DiffusionPipeline

    from ..perceptual import PerceptualDistance
    from .draw import Sampling
    from .features import Extractor
    from .images import Images
    from .report import Photos, Reference


@dataclass(frozen=True)
class EvaluateArguments:
    """Measure a model's samples against real photos.

    Writes results.json (its fields are documented in animal_ldm/evaluation/report.py), samples.png,
    precision_recall.png, fd_curve.png, nearest.png and, with --sweep, sweep.png. An interrupted run goes on where it
    stopped. Several processes share the work: `accelerate launch -m animal_ldm.evaluation.evaluate MODEL ...`.
    """

    # Pipeline folder, id of a model on the Hub, or a folder of pictures that were drawn before.
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    # Prepared dataset, as `animal-ldm prepare` writes it. The model must not have seen its validation split.
    data: Path
    # Photos to compare the samples with; the other split shows what real photos would score.
    split: Literal["train", "validation"] = "train"
    # How many samples.
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 7500
    # What sees the pictures: inception (the only one whose distance is an FID), dinov2, clip, squeezenet, vae (an
    # autoencoder's latents, for trying things out), or the folder or Hub id of another transformers image model.
    extractor: str = "inception"
    # The extractor's weights: TorchScript for inception, safetensors for squeezenet, a folder for the others. Fetched
    # if not given.
    extractor_weights: Annotated[Path | None, tyro.conf.arg(aliases=["--inception_weights"])] = None
    # Sample i starts from the noise of seed + i.
    seed: int = 423432
    # Classes of the samples: in proportion to the photos', or all the same number.
    class_mix: Literal["data", "balanced"] = "data"
    # Denoising steps.
    num_inference_steps: Annotated[int, tyro.conf.arg(aliases=["--steps"])] = 25
    # Guidance scale: 1 is no guidance.
    guidance_scale: Annotated[float, tyro.conf.arg(aliases=["--guidance"])] = 3.0
    # Share, from 0 to 1, in which guided predictions take the contrast of unguided ones.
    guidance_rescale: float = 0.0
    # Part of the steps that is guided, as fractions.
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    # Draw so many sets of --number samples, and give mean and standard deviation.
    repeats: int = 1
    # Measure again for each value of a parameter of the sampling, such as guidance_scale=1,2,3,5.
    sweep: str | None = None
    # Measure the autoencoder alone too, on the validation photos.
    reconstructions: bool = False
    # SqueezeNet's weights (safetensors) for the reconstructions' LPIPS; with --extractor squeezenet, by default those
    # of the extractor.
    perceptual_weights: Path | None = None
    # Where to write; by default evaluation/ followed by the model's name.
    out: Path | None = None
    # Where to run, such as cpu, cuda or mps; auto is the accelerator if there is one.
    device: str = "auto"
    # Number type of the model's weights and activations; features are always measured in float32.
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    # Pictures at a time, drawn and measured.
    batch_size: int = 32
    # Processes that read and resize pictures.
    workers: int = min(4, os.cpu_count() or 1)


def main(argv: list[str] | None = None) -> None:
    from accelerate import PartialState

    from .report import table

    arguments = parse(EvaluateArguments, argv, prog="animal-ldm evaluate")
    check(arguments)
    state = PartialState(cpu=arguments.device == "cpu")
    results = evaluate(arguments, state if state.num_processes > 1 else None)
    if state.is_main_process:
        print(table(results))
        print(f"\nresults.json and pictures: {out_folder(arguments)}")
    state.destroy_process_group()


def check(arguments: EvaluateArguments) -> None:
    """Raise an `InputError` for what can be told without the model."""
    if arguments.number < 12:
        raise InputError(f"--number must be at least 12, for neighbourhoods of 10, but is {arguments.number}.")
    for name in ("num_inference_steps", "repeats", "batch_size"):
        if (value := getattr(arguments, name)) < 1:
            raise InputError(f"--{name} must be at least 1, but is {value}.")
    if is_folder_of_pictures(arguments.model) and (
        arguments.repeats > 1 or arguments.sweep or arguments.reconstructions
    ):
        raise InputError(
            f"{arguments.model} is a folder of pictures: --repeats, --sweep and --reconstructions need a pipeline."
        )
    sweep_values(arguments.sweep)


def sweep_values(sweep: str | None) -> tuple[str, list[float]] | None:
    """`"guidance_scale=1,2"` -> `("guidance_scale", [1.0, 2.0])`."""
    if sweep is None:
        return None
    kinds = {"guidance_scale": float, "guidance_rescale": float, "num_inference_steps": int}
    name, _, values = sweep.partition("=")
    try:
        return name, [kinds[name](value) for value in values.split(",")]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"--sweep must be one of {', '.join(kinds)}, then = and numbers with commas between, such as "
            f"guidance_scale=1,2,3,5; but is {sweep!r}."
        ) from error


def is_folder_of_pictures(model: str) -> bool:
    return Path(model).is_dir() and not (Path(model) / "model_index.json").is_file()


def out_folder(arguments: EvaluateArguments) -> Path:
    return arguments.out or Path("evaluation") / Path(arguments.model).name


def evaluate(arguments: EvaluateArguments, state: "PartialState | None" = None) -> dict:
    """Measure, write results.json and the pictures, and return the results (see `report`)."""
    from . import pictures
    from .features import load_extractor
    from .reconstruction import measure_reconstructions
    from .report import SCHEMA_VERSION, environment, measure

    out = out_folder(arguments)
    device = str(state.device) if state else arguments.device
    with state.main_process_first() if state else nullcontext():  # one of them fetches weights, if need be
        extractor = load_extractor(arguments.extractor, arguments.extractor_weights, torch_device(device))
        perceptual = load_perceptual(arguments) if arguments.reconstructions else None
    photos, reference = load_reference(
        arguments.data, extractor, arguments.split, arguments.batch_size, arguments.workers, state
    )
    counts = Counter(reference.photos.labels)
    results = {
        "schema_version": SCHEMA_VERSION,
        "model": {"name": Path(arguments.model).name, "digest": None},
        "data": {
            "name": arguments.data.name,
            "reference": arguments.split,
            "held_out": "validation" if arguments.split == "train" else "train",
            "photos": {split: len(images) for split, images in photos.items()},
            "digests": {split: images.digest() for split, images in photos.items()},
            "classes": dict(counts.most_common()),
            "image_size": len(photos["train"][0]),
        },
        "extractor": extractor.describe(),
        "sampling": None,
        "sweep": None,
        "autoencoder": None,
        "environment": environment(),
    }
    if is_folder_of_pictures(arguments.model):
        sampling, samples = None, pictures_of_folder(arguments, counts)
        draws = measured_draws(samples, 1, extractor, arguments, state)
    else:
        pipeline, labels, sampling = prepare_sampling(arguments, counts, device)
        results["model"], results["sampling"] = describe_sampling(pipeline, labels, sampling, arguments)

        def draws_with(sampling: "Sampling") -> tuple["Images", list["Photos"]]:
            from .draw import draw

            samples = draw(pipeline, labels, sampling, arguments.seed, out / "samples", arguments.batch_size, state)
            return samples, measured_draws(samples, arguments.repeats, extractor, arguments, state)

        samples, draws = draws_with(sampling)
        if arguments.sweep:
            name, values = sweep_values(arguments.sweep)
            points = []
            for value in values:
                changed = replace(sampling, **{name: value})
                _, swept = draws_with(changed)
                metrics = measure(reference, swept, arguments.seed, changed)["metrics"]
                points.append({"value": value, "metrics": metrics})
            results["sweep"] = {"parameter": name, "points": points}
        if arguments.reconstructions:
            results["autoencoder"] = measure_reconstructions(
                pipeline.vae,
                photos["validation"],
                reference,
                extractor,
                perceptual,
                arguments.seed,
                out,
                arguments.batch_size,
                arguments.workers,
            )
    results |= measure(reference, draws, arguments.seed, sampling)
    if state is None or state.is_main_process:
        first = samples.take(range(len(draws[0])))
        pictures.save_sample_grid(first, results, out / "samples.png")
        pictures.save_precision_recall(results, out / "precision_recall.png")
        pictures.save_fd_curve(results, out / "fd_curve.png")
        pictures.save_nearest_panel(
            first, draws[0].features, photos["train"], reference.train.features, extractor.name, out / "nearest.png"
        )
        if results["sweep"]:
            pictures.save_sweep(results, out / "sweep.png")
        partial = out / ".results.json.partial"
        partial.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, out / "results.json")
    return results


def torch_device(device: str):
    import torch

    if device != "auto":
        return torch.device(device)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def load_perceptual(arguments: EvaluateArguments) -> "PerceptualDistance | None":
    """LPIPS, where its weights are given or are the extractor's."""
    from ..perceptual import PerceptualDistance

    if arguments.perceptual_weights is None and arguments.extractor != "squeezenet":
        return None
    return PerceptualDistance(arguments.perceptual_weights or arguments.extractor_weights)


def load_reference(
    data: Path,
    extractor: "Extractor",
    split: str,
    batch_size: int = 64,
    workers: int = 0,
    state: "PartialState | None" = None,
) -> tuple[dict[str, "Images"], "Reference"]:
    """Both splits of a prepared dataset, as pictures {split: images} and measured, with `split` for the reference.

    The photos' features are kept in the user's cache: they serve every model that is compared with them.
    """
    from ..data.prepared import load_split
    from .features import cache_folder, extract
    from .images import images_of_split
    from .report import Photos, Reference

    photos = {name: images_of_split(load_split(data, name)) for name in ("train", "validation")}
    cache = cache_folder() / "features"
    measured = {
        name: Photos(extract(images, extractor, cache, batch_size, workers, state, f"{name} photos"), images.labels)
        for name, images in photos.items()
    }
    return photos, Reference(extractor, **measured, split=split, state=state)


def pictures_of_folder(arguments: EvaluateArguments, counts: Counter) -> "Images":
    """At most `number` pictures of the folder, any of them; subfolders are classes if the photos know them all."""
    import numpy as np

    from .images import Images, images_of_folder

    samples = images_of_folder(arguments.model)
    if samples.labels and not set(samples.labels) <= set(counts):
        samples = Images(samples.files)
    chosen = np.random.default_rng(arguments.seed).permutation(len(samples))[: arguments.number]
    return samples.take(sorted(chosen))


def prepare_sampling(
    arguments: EvaluateArguments, counts: Counter, device: str
) -> tuple["DiffusionPipeline", list[str], "Sampling"]:
    from ..generate import load_pipeline
    from .draw import Sampling, classes_of_samples

    pipeline = load_pipeline(arguments.model, device, arguments.dtype)
    mix = counts if arguments.class_mix == "data" else dict.fromkeys(counts, 1)
    labels = classes_of_samples(mix, arguments.number * arguments.repeats)
    return pipeline, labels, Sampling(**{field.name: getattr(arguments, field.name) for field in fields(Sampling)})


def describe_sampling(
    pipeline: "DiffusionPipeline", labels: list[str], sampling: "Sampling", arguments: EvaluateArguments
) -> tuple[dict, dict]:
    """`model` and `sampling` of results.json."""
    from .draw import model_digest, prompt_of

    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    return {"name": Path(arguments.model).name, "digest": model_digest(pipeline)}, {
        **asdict(sampling),
        "seed": arguments.seed,
        "class_mix": arguments.class_mix,
        "prompts": {label: prompt_of(label) for label in sorted(set(labels))},
        "scheduler": type(pipeline.scheduler).__name__,
        "dtype": arguments.dtype,
        "image_size": side,
    }


def measured_draws(
    samples: "Images",
    repeats: int,
    extractor: "Extractor",
    arguments: EvaluateArguments,
    state: "PartialState | None",
) -> list["Photos"]:
    """The samples' features, cut into equal sets."""
    from .features import extract
    from .report import Photos

    cache = out_folder(arguments) / "features"
    features = extract(samples, extractor, cache, arguments.batch_size, arguments.workers, state, "samples")
    labels = [None] * repeats
    n = len(samples) // repeats
    if samples.labels:
        labels = [samples.labels[start : start + n] for start in range(0, n * repeats, n)]
    return [Photos(part, known) for part, known in zip(features.split(n), labels, strict=True)]


def quick_report(
    pipeline: "DiffusionPipeline",
    prepared: Path,
    n: int,
    extractor: "Extractor",
    seed: int,
    folder: Path,
    sampling: "Sampling | None" = None,
    batch_size: int = 32,
    workers: int = 0,
    state: "PartialState | None" = None,
) -> dict:
    """A few samples against the validation photos, to follow a training and to choose its best weights by KID.

    Draws, measures and compares with the code of the command, on whatever weights the pipeline holds now.

    Args:
        n: samples, of the classes in the validation photos' proportions; sample i starts from the noise of seed + i.
        folder: for the samples, which are removed at the end. The photos' features stay in the user's cache.
        state: accelerate's state, when every process makes this call.

    Returns:
        kernel_distance with kernel_distance_std over its subsets and subset_size; frechet_distance, and as `note`
        how it must be read or None; their `labels`; split, n_generated, n_real, seed, extractor, sampling.
    """
    from ..data.prepared import load_split
    from .draw import Sampling, classes_of_samples, draw
    from .features import cache_folder, extract
    from .images import images_of_split
    from .metrics import frechet_distance_of_features, kernel_distance
    from .report import small_sample_note

    sampling = sampling or Sampling()
    photos = images_of_split(load_split(prepared, "validation"))
    real = extract(photos, extractor, cache_folder() / "features", batch_size, workers, state, "validation photos")
    labels = classes_of_samples(Counter(photos.labels), n)
    samples = draw(pipeline, labels, sampling, seed, folder / "samples", batch_size, state)
    fake = extract(samples, extractor, None, batch_size, workers, state, "samples")
    if state is None or state.is_main_process:
        shutil.rmtree(folder / "samples")
    kid = kernel_distance(real, fake, seed=seed)
    return {
        "kernel_distance": kid.mean,
        "kernel_distance_std": kid.std,
        "subset_size": kid.subset_size,
        "frechet_distance": frechet_distance_of_features(real, fake),
        "labels": {"kernel_distance": extractor.kernel_name, "frechet_distance": extractor.distance_name},
        "note": small_sample_note(extractor.name, *fake.shape),
        "split": "validation",
        "n_generated": n,
        "n_real": len(real),
        "seed": seed,
        "extractor": extractor.describe(),
        "sampling": asdict(sampling),
    }


if __name__ == "__main__":
    from ..cli import exit_on_bad_input

    exit_on_bad_input(main)
