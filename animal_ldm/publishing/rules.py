"""The Hub's rules for cards, checked offline.

The Hub checks a card when it is committed, but accepts some mistakes: an image that is missing, a figure that is not a
number.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import DatasetCard, ModelCard, SpaceCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import InputError

# https://huggingface.co/docs/hub/repositories-licenses
LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
    pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other
    """.split()  # noqa: SIM905
)

SIZES = frozenset(
    "n<1K 1K<n<10K 10K<n<100K 100K<n<1M 1M<n<10M 10M<n<100M 100M<n<1B 1B<n<10B 10B<n<100B 100B<n<1T n>1T".split()  # noqa: SIM905
)

# https://huggingface.co/docs/hub/spaces-config-reference
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
LONGEST_DESCRIPTION = 60  # characters

# `![alt](path)` and `[text](path)` in a card's body, and code, within which they mean nothing
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
REFERENCE = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")


def check_card(content: str, repo_type: str, folder: Path) -> None:
    """Check a card against the rules, and the files it shows against `folder`.

    Args:
        content: the whole README.md.
        repo_type: "model", "dataset" or "space".

    Raises:
        InputError: lists everything that is wrong.
    """
    card_class, problems = {
        "model": (ModelCard, model_problems),
        "dataset": (DatasetCard, dataset_problems),
        "space": (SpaceCard, space_problems),
    }[repo_type]
    if not content.startswith("---\n"):
        raise InputError("The card must begin with its metadata between two lines of ---, but does not.")
    card = card_class(content)
    if str(card) != content:
        raise InputError("The card's metadata changes when it is read and written again.")
    data = card.data.to_dict()
    wrong = [*common_problems(data), *problems(data), *file_problems(card, folder)]
    if repo_type == "space" and not (folder / data.get("app_file", "")).is_file():
        wrong.append("app_file must be a file of the Space")
    if wrong:
        raise InputError("The card breaks the Hub's rules: " + "; ".join(wrong) + ".")


def common_problems(data: dict) -> Iterator[str]:
    license = data.get("license")
    if license not in LICENSES:
        yield f"license {license!r} is not an identifier from https://huggingface.co/docs/hub/repositories-licenses"
    if license == "other" and not re.fullmatch(r"[a-z0-9.-]+", data.get("license_name") or ""):
        yield "license other needs license_name, in lower case, with - for spaces"
    if license != "other" and (data.get("license_name") or data.get("license_link")):
        yield "license_name and license_link are for license other only"
    for name in as_list(data.get("language")):
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)*|code|multilingual", str(name)):
            yield f"language {name!r} is not an ISO 639 code such as en"
    for name in ("tags", "language", "datasets"):
        if not all(isinstance(value, str) and value for value in as_list(data.get(name))):
            yield f"{name} must be strings"
    for name in ("datasets", "base_model", "models"):
        for value in as_list(data.get(name)):
            if not is_repo_id(value):
                yield f"{name} {value!r} is not an id on the Hub such as owner/name"


def model_problems(data: dict) -> Iterator[str]:
    if data.get("library_name") != "diffusers" or data.get("pipeline_tag") != "text-to-image":
        yield "library_name must be diffusers and pipeline_tag text-to-image"
    for model in as_list(data.get("model-index")):
        if not isinstance(model.get("name"), str):
            yield "model-index needs a name"
        for result in model.get("results", []):
            if not result.get("task", {}).get("type") or not {"type", "name"} <= set(result.get("dataset", {})):
                yield "a result of model-index needs task.type, dataset.type and dataset.name"
            for metric in result.get("metrics", []):
                if not isinstance(metric.get("type"), str) or not is_number(metric.get("value")):
                    yield f"metric {metric.get('name')} of model-index needs a type and a finite number"
    carbon = data.get("co2_eq_emissions")
    if carbon is not None and not (is_number(carbon.get("emissions")) and carbon["emissions"] >= 0):
        yield "co2_eq_emissions.emissions must be a number of grams"
    for sample in as_list(data.get("widget")):
        if not isinstance(sample.get("text"), str) or not isinstance(sample.get("output", {}).get("url"), str):
            yield "a widget needs text and output.url"


def dataset_problems(data: dict) -> Iterator[str]:
    for size in as_list(data.get("size_categories")):
        if size not in SIZES:
            yield f"size_categories {size!r} must be one of {', '.join(sorted(SIZES))}"
    for config in as_list(data.get("configs")):
        if not {"config_name", "data_files"} <= set(config):
            yield "a configuration needs config_name and data_files"


def space_problems(data: dict) -> Iterator[str]:
    if data.get("sdk") != "gradio" or not re.fullmatch(r"\d+\.\d+\.\d+", str(data.get("sdk_version"))):
        yield "sdk must be gradio, and sdk_version a release such as 6.0.0"
    if not re.fullmatch(r"3\.\d+(\.\d+)?", str(data.get("python_version", "3.10"))):
        yield "python_version must be a release of Python 3, such as 3.12"
    for name in ("colorFrom", "colorTo"):
        if data.get(name) not in COLORS:
            yield f"{name} must be one of {', '.join(COLORS)}"
    if not data.get("title") or not data.get("emoji") or re.search(r"[\w\s]", data["emoji"]):
        yield "a Space needs a title, and a single emoji"
    if len(data.get("short_description", "")) > LONGEST_DESCRIPTION:
        yield f"short_description must have at most {LONGEST_DESCRIPTION} characters"
    if not isinstance(data.get("pinned"), bool):
        yield "pinned must be true or false"


def file_problems(card: ModelCard | DatasetCard | SpaceCard, folder: Path) -> Iterator[str]:
    shown = [sample["output"]["url"] for sample in as_list(card.data.to_dict().get("widget"))]
    shown += REFERENCE.findall(CODE.sub("", card.text))
    for path in shown:
        if not re.match(r"https?://|#|mailto:", path) and not (folder / path).is_file():
            yield f"the card shows {path}, which does not exist"


def as_list(value) -> list:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_repo_id(value: str) -> bool:
    """Whether `value` is an owner and a name as the Hub allows them."""
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return value.count("/") == 1
