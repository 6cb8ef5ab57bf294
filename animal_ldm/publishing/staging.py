"""From a pipeline folder to the exact files of a model repository.

Only what an allow-list names is staged, and names of local folders are taken out. A staged model must then load and
generate the same image in a process that knows nothing of this package, before anything is uploaded.
"""

import copy
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from ..data.captions import with_article
from ..digest import pipeline_digest
from ..errors import InputError
from ..evaluation.gallery import read_gallery
from ..evaluation.page import write_page
from ..evaluation.reference import copy_reference
from ..evaluation.results import folder_name, plots_folder, read_results
from ..files import without_nan, write_json, write_text
from ..loading import check_pipeline_folder, load_pipeline, seal
from ..pipeline_animal_ldm import AnimalLDMPipeline
from ..sampling import Sampling, quiet, sample_images
from .architecture import describe, verify_digests
from .card import PublishedModel, Sample, complete, model_card, public_names
from .checks import check_files, link
from .evaluations import SAMPLE_GRIDS, Evaluation
from .privacy import public_report
from .request import ModelSource, Statements
from .rules import check_card
from .smoke_test import SmokeTest, smoke_test
from .training_record import read_training_record

COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
CONFIGS = ("config.json", "tokenizer_config.json", "scheduler_config.json")
WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
TOKENIZER_FILES = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")
PIPELINE_FILE = "pipeline_animal_ldm.py"
LONGEST_SLUG = 60  # characters of a class or prompt in a file's name

# With this class name, diffusers alone loads the model and runs no code of the repository. Our own class ignores it.
# With its own name, or the pair [file, class], one of the ways to load the model would not work.
PUBLISHED_CLASS = "StableDiffusionPipeline"

# Plots of an evaluation and their captions. Those that show photos are published on request only.
PLOTS = {
    **dict.fromkeys(SAMPLE_GRIDS, "Uncurated samples: the first ones of every class, one class per row"),
    "captions.png": "Uncurated samples: the first ones whose prompts say more than the class, below their prompts",
    "precision_recall.png": "Precision and recall of the samples and of real photos in their place",
    "fd_curve.png": "The Fréchet distance against 1/N shows how far it depends on the number of samples",
    "sweep.png": "The Fréchet distance, precision and recall along the sweep",
}
REFERENCE = "reference.npz"  # statistics of photos; on request too, since features can tell much of a photo
PLOTS_OF_PHOTOS = {"nearest.png": "Samples beside the nearest photos of the training set"}


def stage_model(source: ModelSource, statements: Statements, out: Path) -> None:
    """Write the repository of a model into the empty folder `out`, and try it.

    Raises:
        InputError: the model, a report or the card is not fit to be published.
    """
    check_pipeline_folder(source.model)
    record = read_training_record(source.model)
    statements = complete(statements, record)
    pipeline = load_pipeline(str(source.model), "cpu")
    verified = verify_digests(pipeline, stored_dtype(source.model / "vae"), record)
    if source.variant:
        stage_half_precision(pipeline, out)
    copy_components(source.model, out)
    if stored_dtype(source.model / "text_encoder") != torch.float32:
        stage_text_encoder(pipeline, out)
    check_weights(out)
    shutil.copyfile(str(sys.modules[AnimalLDMPipeline.__module__].__file__), out / PIPELINE_FILE)
    write_model_index(source.model, out)
    seal(out)
    report = public_report(record.raw, public_names(record, statements))
    write_json(out / "training_report.json", without_nan(report))  # reports of earlier versions may hold NaN
    evaluations = [
        evaluation
        for folder in source.results
        for evaluation in stage_evaluations(folder, source, statements, pipeline, out)
    ]
    captions = record.captions.examples if record.captions else ()
    samples = stage_samples(pipeline, evaluations, out, source.seed, captions)
    model = PublishedModel(record, evaluations, samples, describe(pipeline), verified)
    card = model_card(statements, model)
    write_text(out / "README.md", card)
    check_card(card, "model", out)
    check_files(out)
    smoke_test(out, SmokeTest.of(samples[0], model.architecture.image_size, source.variant))


# --- weights and configurations --------------------------------------------------------------------------------------


def copy_components(model: Path, out: Path) -> None:
    """Copy the components' files, without the place a component was loaded from in its configuration."""
    for name in COMPONENTS:
        for file in sorted((model / name).iterdir()):
            if file.name in CONFIGS:
                config = json.loads(file.read_text(encoding="utf-8"))
                config.pop("_name_or_path", None)
                write_config(out / name / file.name, config)
            elif WEIGHTS.fullmatch(file.name) or file.name in TOKENIZER_FILES:
                link(file, out / name / file.name)


def write_config(path: Path, config: dict) -> None:
    """As diffusers writes it: a scheduler's configuration may hold -Infinity, which strict JSON lacks."""
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def stage_half_precision(pipeline: AnimalLDMPipeline, out: Path) -> None:
    """Weights with `.fp16` in their names. The configs beside them are overwritten by the originals."""
    for name in ("text_encoder", "unet", "vae"):
        copy.deepcopy(getattr(pipeline, name)).half().save_pretrained(out / name, variant="fp16")


def stage_text_encoder(pipeline: AnimalLDMPipeline, out: Path) -> None:
    """Save the text encoder in float32, which every way to load the model can run.

    Without a dtype, transformers loads weights in the number type they are stored in, but diffusers in float32. A
    text encoder stored in half precision does not fit the UNet then. Widening the weights is exact.
    """
    for file in (out / "text_encoder").iterdir():
        if ".fp16." not in file.name:
            file.unlink()
    pipeline.text_encoder.save_pretrained(out / "text_encoder")
    config_file = out / "text_encoder" / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    write_config(config_file, config)


def weight_files(component: Path) -> list[Path]:
    return sorted(file for file in component.glob("*.safetensors") if WEIGHTS.fullmatch(file.name))


def stored_dtype(component: Path) -> torch.dtype:
    """The number type of a component's saved weights; float32 if they are of several."""
    dtypes = set()
    for file in weight_files(component):
        with safe_open(file, "pt") as tensors:
            found = (tensors.get_tensor(name) for name in tensors.keys())  # noqa: SIM118 - not a mapping
            dtypes |= {tensor.dtype for tensor in found if tensor.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def check_weights(out: Path) -> None:
    """Raise an `InputError` if a weight is not finite."""
    for file in sorted(out.glob("*/*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor = tensors.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise InputError(
                        f"{file.relative_to(out)} holds NaN or infinity in {name}: the training diverged, or these"
                        " weights exceed the range of their number type. Publish an earlier checkpoint, or float32."
                    )


def write_model_index(model: Path, out: Path) -> None:
    index = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
    index.pop("_name_or_path", None)
    write_json(out / "model_index.json", index | {"_class_name": PUBLISHED_CLASS})


# --- evaluations and samples -----------------------------------------------------------------------------------------


def stage_evaluations(
    folder: Path, source: ModelSource, statements: Statements, pipeline: AnimalLDMPipeline, out: Path
) -> Iterator[Evaluation]:
    """Copy an evaluation to `evaluation/<extractor>/`, for each of its extractors, under public names.

    Raises:
        InputError: it was measured on other weights than these, or lists numbers that could mislead.
    """
    results = read_results(folder / "results.json")
    results.check()
    dtype = results.sampling.dtype if results.sampling else "float32"
    measured = pipeline if dtype == "float32" else load_pipeline(str(source.model), "cpu", dtype)
    if results.model.digest != pipeline_digest(measured):
        raise InputError(
            f"{folder / 'results.json'} was measured on {results.model.name}, whose weights or scheduler are not those"
            f" of {source.model}. Evaluate this model, or pass --results with the folder of its evaluation."
        )
    images = read_gallery(folder / "gallery.json")
    if images and not source.publish_photos:
        images = images.without_photos()
    for own in results.each():
        name = own.extractor.name
        place = Path("evaluation", folder_name(name))
        if (out / place).exists():
            raise InputError(f"--results names two evaluations with the extractor {name}. Pass one of them.")
        published = replace(
            own,
            model=replace(own.model, name=statements.repo_id.split("/")[-1]),
            data=replace(own.data, name=statements.dataset_title or ""),
        )
        published.write(out / place / "results.json")
        plots = {}
        for file, caption in (PLOTS | (PLOTS_OF_PHOTOS if source.publish_photos else {})).items():
            if (plot := plots_folder(folder, results, own) / file).is_file():
                shutil.copyfile(plot, out / place / file)
                plots[(place / file).as_posix()] = caption
        write_page(published, images, out / place / "report.html")
        if source.publish_photos and own.extractor == results.extractor and (folder / REFERENCE).is_file():
            copy_reference(folder / REFERENCE, out / place / REFERENCE, published.data.name)
        yield Evaluation(published, plots)


def stage_samples(
    pipeline: AnimalLDMPipeline,
    evaluations: Sequence[Evaluation],
    out: Path,
    seed: int,
    captions: Sequence[str] = (),
) -> list[Sample]:
    """An image of every class and caption, from `seed` and those after it.

    They are sampled like the first evaluation, else with the model's own defaults.
    """
    measured = next((found.results.sampling for found in evaluations), None)
    sampling = measured.settings() if measured else Sampling(**pipeline.sampling_defaults)
    pipeline.set_progress_bar_config(disable=True)
    (out / "samples").mkdir()
    samples = []
    prompts = [(name, with_article(name)) for name in pipeline.classes or [""]] + [("", text) for text in captions]
    for number, (name, prompt) in enumerate(prompts):
        slug = re.sub("[^a-z0-9]+", "_", (name or prompt).lower()).strip("_")[:LONGEST_SLUG]
        file = f"samples/{number:02}-{slug or 'any'}.png"
        own_seed = seed + number  # from the same noise, the images of all classes would look alike
        with quiet(pipeline):
            [image] = sample_images(pipeline, [prompt], [own_seed], sampling)
        image.save(out / file)
        samples.append(Sample(name, prompt, file, own_seed, sampling))
    return samples
