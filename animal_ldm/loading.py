"""Pipelines and their components, from a local folder or from the Hub: the one door for models from outside.

A folder is inspected before anything in it is built, see `inspection`. Of a repository on the Hub, only the files that
are read here are fetched. No code of a model is executed.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from .digest import pipeline_digest
from .errors import InputError
from .fetching import HUB_ID, fetched
from .files import SUMS, check_sums, why, write_json, write_sums
from .inspection import KINDS, check_component, check_finite, check_pipeline
from .pipeline_animal_ldm import AnimalLDMPipeline
from .released import RELEASED_MODEL, is_pipeline_folder, model_folder
from .sampling import Sampling

# Files of a complete pipeline folder. Any one of a tuple will do. They are checked first because transformers would
# silently make up a tokenizer for a missing file.
PIPELINE_FILES = (
    ("model_index.json",),
    ("scheduler/scheduler_config.json",),
    ("text_encoder/config.json",),
    ("tokenizer/tokenizer.json", "tokenizer/vocab.json"),
    ("unet/config.json",),
    ("vae/config.json",),
)


def choose_device(device: str = "auto") -> torch.device:
    """The torch device of that name; for "auto" the accelerator if there is one, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def check_pipeline_folder(folder: str | Path) -> None:
    """Raise an `InputError` that lists the files `folder` lacks to be a pipeline folder."""
    folder = Path(folder)
    missing = [" or ".join(names) for names in PIPELINE_FILES if not any((folder / name).is_file() for name in names)]
    if missing:
        raise InputError(
            f"{folder} is not a complete pipeline folder: {', '.join(missing)} not found. Pass a folder that"
            " `animal-ldm train` wrote, or copy it again."
        )


# What is read of a component.
COMPONENT_FILES = (
    "*config.json", "vocab.json", "merges.txt", "tokenizer.json", "special_tokens_map.json", "added_tokens.json",
    "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*-of-*.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
)  # fmt: skip

T = TypeVar("T")


def model_files(folder: Path, parts: Iterable[str] = KINDS) -> list[str]:
    """The files of a pipeline folder that decide what it generates, as paths below `folder`."""
    names = {"model_index.json", *(f"{part}/{name}" for part in parts for name in COMPONENT_FILES)}
    return sorted(
        file.relative_to(folder).as_posix() for name in names for file in folder.glob(name) if file.is_file()
    )


def seal(folder: Path) -> None:
    """Write the `SHA256SUMS` of a pipeline folder. Loading compares the files with it."""
    variants = [file.relative_to(folder).as_posix() for part in KINDS for file in folder.glob(f"{part}/*.safetensors")]
    write_sums(folder, {*model_files(folder), *variants})


def load_pipeline(model: str, device: str = "auto", dtype: str = "float32") -> AnimalLDMPipeline:
    """The pipeline in the folder `model`, or of that id on the Hub.

    Args:
        model: pipeline folder, Hub id, "models/animal-ldm-128" for the model included in the package, or a folder
            that `animal-ldm train --lora_rank` wrote, for the pipeline it was trained on with the LoRA in its weights.
        device: a torch device, or "auto" for the accelerator if there is one.
        dtype: name of a torch dtype.

    Raises:
        InputError: no such folder or model, a folder that lacks a file or holds something else than a pipeline of
            known components, or no connection to the Hub.
    """
    model = model_folder(model)
    if base := lora_base(model):
        return merge_lora(load_pipeline(base, "cpu", dtype), model).to(choose_device(device))
    if not Path(model).is_dir() and model == RELEASED_MODEL:
        raise InputError(
            f"{RELEASED_MODEL}, the default model, was not found. Train one with `animal-ldm train`, or pass"
            " a pipeline folder or the id of a model on the Hub."
        )
    if not Path(model).is_dir() and not re.fullmatch(HUB_ID, model):
        raise InputError(
            f"The model must be a pipeline folder or an id on the Hub such as owner/name; there is no folder {model}."
        )
    patterns = ["model_index.json", SUMS, *(f"{part}/{name}" for part in KINDS for name in COMPONENT_FILES)]
    folder = fetched(model, patterns)
    check_pipeline_folder(folder)
    check_pipeline(folder)
    check_sums(folder, model_files(folder))
    pipeline = built(
        model, lambda: AnimalLDMPipeline.from_pretrained(folder, dtype=getattr(torch, dtype), use_safetensors=True)
    )
    check_finite(model, text_encoder=pipeline.text_encoder, unet=pipeline.unet, vae=pipeline.vae)
    return pipeline.to(choose_device(device))


def built(model: str, build: Callable[[], T]) -> T:
    """What `build` returns; whatever a library raises on a folder that passed the inspection, as an `InputError`."""
    try:
        return build()
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"A file in {model} is missing or damaged; copy the folder again."
            f" ({type(error).__name__}: {reason[0] if reason else 'no message'})"
        ) from error


LORA_FILE = "pytorch_lora_weights.safetensors"


def lora_base(folder: str | Path) -> str | None:
    """The pipeline that the LoRA in `folder` was trained on; None if `folder` is anything else.

    Raises:
        InputError: the LoRA does not name its pipeline.
    """
    file = Path(folder, LORA_FILE)
    if is_pipeline_folder(folder) or not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as weights:
            metadata = json.loads((weights.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{file} is not a whole safetensors file: {why(error)}.") from error
    base = metadata.get("unet.base_model_name_or_path") if isinstance(metadata, dict) else None
    if not base or not isinstance(base, str):
        raise InputError(
            f"{file} does not say which model it was trained on. Load that model, then call `load_lora_weights`."
        )
    if Path(base, LORA_FILE).is_file() and not is_pipeline_folder(base):
        raise InputError(f"{file} names {base} as its model, which is a LoRA itself.")
    return base


def merge_lora(pipeline: AnimalLDMPipeline, folder: str | Path) -> AnimalLDMPipeline:
    """`pipeline` with the LoRA in `folder` added to its weights, and the classes of its photos to its classes."""
    try:
        pipeline.load_lora_weights(str(folder))
    except Exception as error:  # whatever a library raises for layers that do not fit
        raise InputError(
            f"The LoRA in {folder} could not be loaded: {why(error)}. It needs the model it was trained on, and peft"
            " (`pip install animal-ldm[lora]`)."
        ) from error
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    report = Path(folder, "training_report.json")
    learned = json.loads(report.read_text(encoding="utf-8"))["classes"] if report.is_file() else []
    return rebuilt(pipeline, classes=sorted({*pipeline.classes, *learned}))


def rebuilt(pipeline: AnimalLDMPipeline, **changed: Any) -> AnimalLDMPipeline:
    """A pipeline like `pipeline` but for the components and settings in `changed`."""
    kept = {name: pipeline.config[name] for name in ("classes", "vocabulary", "sampling_defaults")}
    return AnimalLDMPipeline(**{**pipeline.components, **kept, **changed})


def store_sampling_defaults(folder: str | Path, sampling: Sampling, scheduler: Any) -> None:
    """Make these settings the defaults of the saved pipeline in `folder`, and this its scheduler.

    `AnimalLDMPipeline` takes up all of them, `StableDiffusionPipeline` the scheduler. In training_report.json, the
    pipeline's digest follows, because it covers the scheduler.
    """
    folder = Path(folder)
    before = pipeline_digest(load_pipeline(str(folder), "cpu"))
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index |= {"scheduler": ["diffusers", type(scheduler).__name__], "sampling_defaults": asdict(sampling)}
    write_json(folder / "model_index.json", index)
    if (folder / SUMS).is_file():
        seal(folder)
    file = folder / "training_report.json"
    if file.is_file():
        report = json.loads(file.read_text(encoding="utf-8"))
        if report.get("digests", {}).get("pipeline") == before:
            report["digests"]["pipeline"] = pipeline_digest(load_pipeline(str(folder), "cpu"))
            write_json(file, report)


# What `animal-ldm train` can use without a connection to the Hub.
OFFLINE_COMPONENTS = f"the included model works: --vae {RELEASED_MODEL} --text_encoder scratch"


def load_component(component_class: Any, name: str, subfolder: str, offline: str = OFFLINE_COMPONENTS) -> Any:
    """A component from a local folder or the Hub, from its root or from `subfolder`.

    Args:
        subfolder: the component's name in a pipeline, a key of `inspection.KINDS`.
        offline: for the error message, what can be used without a connection to the Hub.

    Raises:
        InputError: there is no such component under `name`, or it does not pass the inspection.
    """
    name = model_folder(name)
    wanted = f"No {component_class.__name__} was found in {name!r}; expected a folder or a repository on the Hub that"
    wanted = f"{wanted} holds one. Without a connection to the Hub, {offline}."
    patterns = [SUMS, *COMPONENT_FILES, *(f"{subfolder}/{file}" for file in COMPONENT_FILES)]
    try:
        root = fetched(name, patterns)
    except InputError as error:
        raise InputError(f"{wanted} ({error})") from error
    folder = next((place for place in (root, root / subfolder) if holds(place, subfolder)), None)
    if folder is None:
        raise InputError(f"{wanted} ({root} has neither {subfolder}/ nor the files of one.)")
    pipeline = folder.parent if folder.name == subfolder and is_pipeline_folder(folder.parent) else None
    check_component(folder, subfolder)
    if pipeline is not None:
        files = [file for file in model_files(pipeline, [subfolder]) if file != "model_index.json"]
        check_sums(pipeline, files)
    weights = {} if KINDS[subfolder].stem is None else {"use_safetensors": True}
    component = built(str(folder), lambda: component_class.from_pretrained(folder, **weights))
    if weights:
        check_finite(str(folder), **{subfolder: component})
    return component


def holds(folder: Path, part: str) -> bool:
    """Whether `folder` looks like that of a component: transformers makes up a tokenizer where there is none."""
    if part == "tokenizer":
        return (folder / "tokenizer.json").exists() or (folder / "vocab.json").exists()
    return (folder / KINDS[part].config).exists()
