"""What is taken out of reports before they are published: the names of local folders and files."""

from dataclasses import dataclass
from typing import Any

from ..data.records import MODEL_PREFIX
from .training_record import KNOWN_MODELS, UNET_PRESETS, effective_arguments

# Arguments that say where a run kept its files or found its own prompts: they had no effect on the model.
PLACES = frozenset({"output_dir", "cache_dir", "out", "report_dir", "validation_prompts"})
# Arguments that name a model on the Hub or a local folder with one.
MODELS = frozenset({"vae", "text_encoder", "unet", "fork", "pretrained"})
LOCAL_FOLDER, LOCAL_FILE, LOCAL_DATASET = "a local folder", "a local file", "a local dataset"


@dataclass(frozen=True)
class PublicNames:
    """What may be named in public.

    Attributes:
        datasets: {name in the report: title}.
        models: ids on the Hub, beside `KNOWN_MODELS`.
    """

    datasets: dict[str, str]
    models: tuple[str, ...] = ()


def public_arguments(arguments: dict[str, Any], names: PublicNames) -> dict[str, Any]:
    """The arguments of a training that had an effect on the model, without the names of local files."""
    return {
        name: public_value(name, value, names)
        for name, value in effective_arguments(arguments).items()
        if name not in PLACES
    }


def public_value(name: str, value: Any, names: PublicNames) -> Any:
    """The value of the argument `name`, or what kind of thing it is if it names a local file."""
    if not isinstance(value, str) or value in (*KNOWN_MODELS, *names.models):
        return value
    if name == "data":
        return names.datasets.get(value, LOCAL_DATASET)
    if name.endswith("weights"):
        return LOCAL_FILE
    if name in MODELS and value not in (*UNET_PRESETS, "scratch"):
        return LOCAL_FILE if value.endswith(".json") else LOCAL_FOLDER
    return LOCAL_FILE if "/" in value or "\\" in value else value


def public_report(content: Any, names: PublicNames) -> Any:
    """A report without the names of local files, at any depth: paths, and the arguments of every stage."""
    if isinstance(content, dict):
        return {public_source(name): _public_part(name, part, names) for name, part in content.items()}
    if isinstance(content, list):
        return [public_report(part, names) for part in content]
    return without_paths(content)


def public_source(name: str) -> str:
    """The source of a caption without the name of a local folder; other names as they are."""
    local = name.startswith(MODEL_PREFIX) and "/" not in name
    return MODEL_PREFIX + LOCAL_FOLDER if local else name


def _public_part(name: str, part: Any, names: PublicNames) -> Any:
    """The entry `name` of a report."""
    if name in ("arguments", "defaults") and isinstance(part, dict):
        return public_arguments(part, names)
    if name == "argument_history" and isinstance(part, dict):
        return {
            argument: [{**entry, "value": public_value(argument, entry["value"], names)} for entry in entries]
            for argument, entries in part.items()
        }
    if name == "forked_from" and isinstance(part, dict):
        return {**part, "name": public_value("fork", part["name"], names)}
    return public_report(part, names)


def without_paths(value: Any) -> Any:
    """`value`, or what kind of thing it is if it is a path."""
    is_path = isinstance(value, str) and value.startswith(("/", "~", "./", "../", "\\", ".\\"))
    return LOCAL_FILE if is_path else value
