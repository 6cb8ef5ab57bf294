"""From a pipeline folder, a prepared dataset, or the demo to the exact files of a repository.

Only what an allow-list names is staged, and what names folders of the machine is taken out. A staged model then has to
load and draw, in a process that knows nothing of this package, before anything is uploaded.
"""

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import DatasetCard

from ..errors import InputError
from .card import (
    PICTURES,
    PICTURES_OF_PHOTOS,
    Evaluation,
    Sample,
    Statements,
    file_size,
    model_card,
    requirements,
    space_card,
    without_folders,
)
from .rules import check_card

if TYPE_CHECKING:  # torch and diffusers take seconds to import; `--help` needs neither
    from ..pipeline_animal_ldm import AnimalLDMPipeline

COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
WEIGHTS = r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"
COMPONENT_FILES = re.compile(
    rf"config\.json|scheduler_config\.json|{WEIGHTS}|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.json|merges\.txt"
)
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
PIPELINE_FILE = "pipeline_animal_ldm.py"

# With this class name, diffusers alone loads the model and runs no code of the repository. Our own class takes no
# notice of it; with its own name, or the pair [file, class], one of the ways of loading would not work.
PUBLISHED_CLASS = "StableDiffusionPipeline"

DEMO = Path(__file__).parents[1] / "demo.py"
SPACE_LIBRARIES = ("accelerate", "diffusers", "torch", "transformers")

DATASET_FILES = ("contact_sheet.jpg", "preparation_report.json")

# https://huggingface.co/docs/hub/repositories-recommendations
LARGEST_FILE = 50 * 1000**3
LARGEST_FOLDER = 10_000
LARGEST_REPOSITORY = 100_000

TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
TEXT_FILES = (".json", ".jsonl", ".md", ".py", ".txt")


def stage_model(
    model: Path,
    out: Path,
    statements: Statements,
    results: Sequence[Path],
    publish_photos: bool = False,
    variant: str | None = None,
    seed: int = 0,
) -> None:
    """Write the repository of the pipeline folder `model` into the empty folder `out`, and try it.

    Args:
        results: folders that `animal-ldm evaluate` wrote.
        publish_photos: whether pictures of the evaluation that show training photos are published too.
        variant: "fp16" for weights of half precision beside the others.
        seed: of the first class's sample that the card shows; the others have those after it.

    Raises:
        InputError: the model, a report or the card is not fit to be published.
    """
    from ..generate import check_folder, load_pipeline

    check_folder(model)
    refuse_pickles(model)
    report = read_report(model / "training_report.json", "the folder that `animal-ldm train` wrote")
    pipeline = load_pipeline(str(model), "cpu")
    if variant:
        stage_half_precision(pipeline, out)
    copy_components(model, out)
    check_weights(out)
    shutil.copyfile(Path(sys.modules[type(pipeline).__module__].__file__), out / PIPELINE_FILE)
    write_model_index(model, out)
    write_json(without_folders(report), out / "training_report.json")
    evaluations = [stage_evaluation(folder, model, pipeline, out, publish_photos) for folder in results]
    samples = draw_samples(pipeline, evaluations, out, seed)
    card = model_card(statements, without_folders(report), evaluations, samples, describe(pipeline))
    (out / "README.md").write_text(card, encoding="utf-8")
    check_card(card, "model", out)
    check_files(out)
    smoke_test(out, samples[0], describe(pipeline)["image_size"], variant)


def stage_dataset(prepared: Path, out: Path) -> None:
    """Write the repository of a prepared dataset into the empty folder `out`.

    Raises:
        InputError: `prepared` is no prepared dataset, or not fit to be published.
    """
    from ..data.prepared import load_split

    card_file = prepared / "dataset_card.md"
    if not card_file.is_file():
        raise InputError(f"expected a prepared dataset with {card_file}, found none; prepare the photos again.")
    for split in ("train", "validation"):
        if not (prepared / split).is_dir():
            continue
        for file in ("metadata.jsonl", *load_split(prepared, split).files):
            link(prepared / split / file, out / split / file)
    for file in DATASET_FILES:
        if (prepared / file).is_file():
            link(prepared / file, out / file)
    card = card_file.read_text(encoding="utf-8")
    (out / "README.md").write_text(card, encoding="utf-8")
    try:
        check_card(card, "dataset", out)
    except InputError as error:
        raise InputError(f"{error} Mend {card_file}.") from error
    check_files(out)


def stage_space(model: str, license: str, out: Path) -> None:
    """Write the repository of a Space, in which the demo draws with `model` of the Hub, into the empty folder `out`.

    Raises:
        InputError: gradio is not installed, whose version the Space asks for.
    """
    shutil.copyfile(DEMO, out / "app.py")
    (out / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements(SPACE_LIBRARIES)))
    (out / "README.md").write_text(space_card(model, license, gradio_version()), encoding="utf-8")
    check_card((out / "README.md").read_text(encoding="utf-8"), "space", out)
    check_files(out)


def gradio_version() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError as error:
        raise InputError(
            "A Space runs the version of gradio that is installed here, and none is: pip install 'animal-ldm[demo]'."
        ) from error


def photo_licence(prepared: Path | None) -> str:
    """The licence in a prepared dataset's card, for the card of a model trained on it."""
    if prepared is None:
        return "not stated"
    card_file = prepared / "dataset_card.md"
    if not card_file.is_file():
        raise InputError(f"--data must be a prepared dataset with a dataset_card.md; there is no {card_file}.")
    return DatasetCard.load(card_file).data.license or "not stated"


# --- the parts of a model's repository -------------------------------------------------------------------------------


def refuse_pickles(model: Path) -> None:
    found = [file for name in COMPONENTS for file in sorted((model / name).iterdir()) if file.suffix in PICKLES]
    if found:
        raise InputError(
            f"{found[0]} is a pickle, which can run code when it is loaded; save the pipeline with"
            " `save_pretrained(…, safe_serialization=True)` and delete it."
        )


def copy_components(model: Path, out: Path) -> None:
    for name in COMPONENTS:
        for file in sorted((model / name).iterdir()):
            if not COMPONENT_FILES.fullmatch(file.name):
                continue
            (out / name).mkdir(exist_ok=True)
            if file.name in ("config.json", "tokenizer_config.json", "scheduler_config.json"):
                config = json.loads(file.read_text(encoding="utf-8"))
                config.pop("_name_or_path", None)  # where the component was loaded from
                write_json(config, out / name / file.name)
            else:
                link(file, out / name / file.name)


def stage_half_precision(pipeline: "AnimalLDMPipeline", out: Path) -> None:
    """Weights with `.fp16` in their names. The configs beside them are overwritten by the originals."""
    for name in ("text_encoder", "unet", "vae"):
        copy.deepcopy(getattr(pipeline, name)).half().save_pretrained(out / name, variant="fp16")


def check_weights(out: Path) -> None:
    """Raise an `InputError` if a weight is not finite."""
    import torch
    from safetensors import safe_open

    for file in sorted(out.glob("*/*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                tensor = tensors.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise InputError(
                        f"{file.relative_to(out)} holds NaN or infinity in {name}; the training diverged, or"
                        " the number type is too small for these weights."
                    )


def write_model_index(model: Path, out: Path) -> None:
    index = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
    index.pop("_name_or_path", None)
    write_json(index | {"_class_name": PUBLISHED_CLASS}, out / "model_index.json")


def stage_evaluation(
    folder: Path, model: Path, pipeline: "AnimalLDMPipeline", out: Path, publish_photos: bool
) -> Evaluation:
    """Copy an evaluation to `evaluation/<extractor>/`.

    Raises:
        InputError: it was measured on other weights than these.
    """
    from ..evaluation.draw import model_digest
    from ..generate import load_pipeline

    results = read_report(folder / "results.json", "the folder that `animal-ldm evaluate` wrote")
    dtype = (results["sampling"] or {}).get("dtype", "float32")
    measured = pipeline if dtype == "float32" else load_pipeline(str(model), "cpu", dtype)
    if results["model"]["digest"] != model_digest(measured):
        raise InputError(
            f"{folder / 'results.json'} was measured on {results['model']['name']}, whose weights or scheduler are not"
            f" those of {model}; evaluate this model, or pass --results with the folder of its evaluation."
        )
    place = Path("evaluation", re.sub(r"[^\w.-]+", "-", results["extractor"]["name"]))
    if (out / place).exists():
        raise InputError(f"--results names two evaluations by {results['extractor']['name']}; publish one of them.")
    (out / place).mkdir(parents=True)
    write_json(without_folders(results), out / place / "results.json")
    pictures = {}
    for name, caption in (PICTURES | (PICTURES_OF_PHOTOS if publish_photos else {})).items():
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / place / name)
            pictures[(place / name).as_posix()] = caption
    return Evaluation(results, pictures)


def draw_samples(
    pipeline: "AnimalLDMPipeline", evaluations: Sequence[Evaluation], out: Path, seed: int
) -> list[Sample]:
    """A picture of every class, from `seed` and those after it, with the settings of the first evaluation."""
    import torch

    from ..data.captions import with_article
    from ..generate import GenerateArguments

    sampling = next((found.results["sampling"] for found in evaluations), None)
    settings = {
        "num_inference_steps": sampling["num_inference_steps"] if sampling else GenerateArguments.steps,
        "guidance_scale": sampling["guidance_scale"] if sampling else GenerateArguments.guidance,
    }
    pipeline.set_progress_bar_config(disable=True)
    (out / "samples").mkdir()
    samples = []
    for name in pipeline.classes or [""]:
        prompt = with_article(name) if name else ""
        own_seed = seed + len(samples)  # of its own: from one seed, the pictures of all classes look alike
        slug = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
        file = f"samples/{len(samples):02}-{slug or 'any'}.png"
        pipeline(prompt, generator=torch.Generator().manual_seed(own_seed), **settings).images[0].save(out / file)
        samples.append(Sample(name, prompt, file, own_seed, **settings))
    return samples


def describe(pipeline: "AnimalLDMPipeline") -> dict:
    """What the card says of the model itself."""
    networks = {"UNet": pipeline.unet, "text encoder": pipeline.text_encoder, "autoencoder": pipeline.vae}
    return {
        "image_size": pipeline.unet.config.sample_size * pipeline.vae_scale_factor,
        "parameters": {name: network.num_parameters() for name, network in networks.items()},
        "scheduler": type(pipeline.scheduler).__name__,
        "prediction_type": pipeline.scheduler.config.prediction_type,
    }


# --- checks of the whole ---------------------------------------------------------------------------------------------


def check_files(out: Path) -> None:
    """Raise an `InputError` for files over the Hub's limits, and for any that holds a token."""
    files = [file for file in out.rglob("*") if file.is_file()]
    for file in files:
        if file.stat().st_size > LARGEST_FILE:
            raise InputError(
                f"{file.relative_to(out)} has {file_size(file.stat().st_size)}; the Hub takes files up to"
                f" {file_size(LARGEST_FILE)}. Save the pipeline with a smaller max_shard_size."
            )
        if file.suffix in TEXT_FILES and TOKEN.search(file.read_bytes()):
            raise InputError(f"{file.relative_to(out)} holds what looks like an access token; nothing was published.")
    folder, entries = Counter(file.parent for file in files).most_common(1)[0]
    if entries > LARGEST_FOLDER or len(files) > LARGEST_REPOSITORY:
        raise InputError(
            f"{len(files):,} files, {entries:,} of them in {folder.relative_to(out)}: the Hub takes"
            f" {LARGEST_FOLDER:,} in a folder and advises fewer than {LARGEST_REPOSITORY:,} in all."
        )


def smoke_test(out: Path, sample: Sample, image_size: int, variant: str | None) -> None:
    """Load the staged model in a fresh process by every way that needs diffusers alone, and compare the pixels.

    Raises:
        InputError: a way does not load, or draws another picture than `sample`.
    """
    import numpy as np
    from PIL import Image

    spec = {
        "folder": str(out.resolve()),
        "prompt": sample.prompt,
        "seed": sample.seed,
        "size": image_size,
        "num_inference_steps": sample.num_inference_steps,
        "guidance_scale": sample.guidance_scale,
        "variant": variant,
    }
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": elsewhere}
        command = [sys.executable, "-P", str(Path(__file__).with_name("smoke.py")), json.dumps(spec)]
        tried = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    if tried.returncode:
        raise InputError(f"The staged model does not load in a fresh process; nothing was published.\n{tried.stderr}")
    with Image.open(out / sample.file) as picture:
        expected = hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()
    for way, digest in json.loads(tried.stdout.splitlines()[-1]).items():
        if digest != expected:
            raise InputError(f"Loaded by {way}, the staged model draws another picture; nothing was published.")


# --- files -----------------------------------------------------------------------------------------------------------


def read_report(path: Path, folder: str) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"There is no {path}; pass {folder}.") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}. Write it again.") from error


def write_json(content: dict, path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def link(source: Path, destination: Path) -> None:
    """The file under a second name where the file system can, else a copy: weights are large."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
