"""Pipelines and their components, from a local folder or from the Hub."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import RepositoryNotFoundError

from .digest import pipeline_digest
from .errors import InputError
from .files import write_json
from .pipeline_animal_ldm import AnimalLDMPipeline
from .released import RELEASED_MODEL, model_folder
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


def load_pipeline(model: str, device: str = "auto", dtype: str = "float32") -> AnimalLDMPipeline:
    """The pipeline in the folder `model`, or of that id on the Hub.

    Args:
        model: pipeline folder, Hub id, or "models/animal-ldm-128" for the model included in the package.
        device: a torch device, or "auto" for the accelerator if there is one.
        dtype: name of a torch dtype.

    Raises:
        InputError: no such folder or model, a folder that lacks a file, or no connection to the Hub.
    """
    model = model_folder(model)
    local = Path(model).is_dir()
    if local:
        check_pipeline_folder(model)
    elif model == RELEASED_MODEL:
        raise InputError(
            f"{RELEASED_MODEL}, the default model, was not found. Train one with `animal-ldm train`, or pass"
            " a pipeline folder or the id of a model on the Hub."
        )
    elif not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        raise InputError(
            f"The model must be a pipeline folder or an id on the Hub such as owner/name; there is no folder {model}."
        )
    try:
        pipeline = AnimalLDMPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    except OSError as error:
        if local:
            raise InputError(f"A file in {model} is missing or damaged; copy the folder again. {error}") from error
        reason = error.__cause__ or error
        if isinstance(reason, RepositoryNotFoundError):
            found = "the Hub has no model of that name that you may read"
        else:
            found = f"the Hub could not be reached ({type(reason).__name__}: {str(reason).splitlines()[0]})"
        raise InputError(
            f"{model} is not a local folder, and {found}. Check the name and the network connection."
        ) from error
    return pipeline.to(choose_device(device))


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
    file = folder / "training_report.json"
    if file.is_file():
        report = json.loads(file.read_text(encoding="utf-8"))
        if report.get("digests", {}).get("pipeline") == before:
            report["digests"]["pipeline"] = pipeline_digest(load_pipeline(str(folder), "cpu"))
            write_json(file, report)


# What `animal-ldm train` can use without a connection to the Hub.
OFFLINE_COMPONENTS = f"the included model works: --vae {RELEASED_MODEL} --text_encoder scratch"


def load_component(component_class: Any, name: str, subfolder: str, offline: str = OFFLINE_COMPONENTS) -> Any:
    """`component_class.from_pretrained` from a local folder or the Hub, from its root or from `subfolder`.

    Args:
        offline: for the error message, what can be used without a connection to the Hub.

    Raises:
        InputError: there is no such component under `name`.
    """
    errors = []
    name = model_folder(name)
    for candidate in ("", subfolder):
        try:
            return component_class.from_pretrained(name, subfolder=candidate)
        except (OSError, ValueError) as error:
            errors.append(str(error).strip().splitlines()[0])
    raise InputError(
        f"No {component_class.__name__} was found in {name!r}; expected a folder or a repository on the Hub that holds"
        f" one. Without a connection to the Hub, {offline}. ({'; '.join(dict.fromkeys(errors))})"
    )
