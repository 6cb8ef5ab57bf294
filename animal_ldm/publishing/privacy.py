"""What is taken out of reports before they are published: the names of local folders and files."""

from typing import Any

from .training_record import KNOWN_MODELS, UNET_PRESETS

# Arguments that say where a run kept its files: they had no effect on the model.
PLACES = frozenset({"output_dir", "cache_dir", "out", "report_dir"})
# Arguments that name a model on the Hub or a local folder with one.
MODELS = frozenset({"vae", "text_encoder", "unet", "pretrained"})
LOCAL_FOLDER, LOCAL_FILE = "a local folder", "a local file"


def public_arguments(arguments: dict[str, Any], dataset_title: str, public: tuple[str, ...] = ()) -> dict[str, Any]:
    """Arguments of a training without the names of local files.

    Args:
        dataset_title: stands in place of the data's folder.
        public: ids on the Hub that may be named, beside `KNOWN_MODELS`.
    """
    shown = {name: value for name, value in arguments.items() if name not in PLACES}
    for name, value in shown.items():
        if name == "data":
            shown[name] = dataset_title
        elif isinstance(value, str) and value not in (*KNOWN_MODELS, *public):
            if name.endswith("weights"):
                shown[name] = LOCAL_FILE
            elif name in MODELS and value not in (*UNET_PRESETS, "scratch"):
                shown[name] = LOCAL_FILE if value.endswith(".json") else LOCAL_FOLDER
            else:
                shown[name] = without_paths(value)
    return shown


def public_report(content: Any, dataset_title: str, public: tuple[str, ...] = ()) -> Any:
    """A report without the names of local files, at any depth: paths, and the arguments of every stage."""
    if isinstance(content, dict):
        return {
            name: public_arguments(part, dataset_title, public)
            if name in ("arguments", "defaults") and isinstance(part, dict)
            else public_report(part, dataset_title, public)
            for name, part in content.items()
        }
    if isinstance(content, list):
        return [public_report(part, dataset_title, public) for part in content]
    return without_paths(content)


def without_paths(value: Any) -> Any:
    """`value`, or what kind of thing it is if it is an absolute path or one from here."""
    is_path = isinstance(value, str) and value.startswith(("/", "~", "./", "../", "\\", ".\\"))
    return LOCAL_FILE if is_path else value
