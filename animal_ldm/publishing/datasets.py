"""A prepared dataset as a repository, and what its card says for the card of a model trained on it."""

from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard

from ..data.prepared import load_split
from ..errors import InputError
from ..files import write_text
from .checks import check_files, link
from .rules import check_card

CARD = "dataset_card.md"
OTHER_FILES = ("contact_sheet.jpg", "preparation_report.json")
NOT_STATED = "not stated"


def stage_dataset(prepared: Path, out: Path) -> None:
    """Write the repository of a prepared dataset into the empty folder `out`.

    Raises:
        InputError: `prepared` is not a prepared dataset, or not fit to be published.
    """
    card_file = prepared / CARD
    if not card_file.is_file():
        raise InputError(f"{card_file} not found; expected a prepared dataset. Prepare the photos again.")
    for split in ("train", "validation"):
        if not (prepared / split).is_dir():
            continue
        photos = load_split(prepared, split)
        packed = photos.shards
        files = ("metadata.jsonl", *photos.files) if packed is None else tuple(file.name for file in packed.files)
        for file in files:
            link(prepared / split / file, out / split / file)
    for file in OTHER_FILES:
        if (prepared / file).is_file():
            link(prepared / file, out / file)
    card = card_file.read_text(encoding="utf-8")
    write_text(out / "README.md", card)
    try:
        check_card(card, "dataset", out)
    except InputError as error:
        raise InputError(f"{error} Edit {card_file}.") from error
    check_files(out)


def photo_terms(prepared: Path | None) -> str:
    """The license in a prepared dataset's card, "not stated" without one."""
    return NOT_STATED if prepared is None else card_of(prepared).get("license") or NOT_STATED


def dataset_title(prepared: Path | None) -> str | None:
    """The title in a prepared dataset's card, if there is one."""
    return None if prepared is None else card_of(prepared).get("pretty_name")


def card_of(prepared: Path) -> dict[str, Any]:
    """The metadata of a prepared dataset's card."""
    card_file = prepared / CARD
    if not card_file.is_file():
        raise InputError(f"--data must be a prepared dataset with a {CARD}; {card_file} not found.")
    return DatasetCard.load(card_file).data.to_dict()
