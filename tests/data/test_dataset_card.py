"""The dataset card: the Hub's rules, and free text that can break nothing."""

import copy
import re

import pytest
import yaml
from huggingface_hub import DatasetCard

from animal_ldm.data.dataset_card import dataset_card
from animal_ldm.publishing.rules import check_card

from ..test_markdown import HOSTILE

REPORT = {
    "arguments": {
        "image_size": 32,
        "licence": "cc-by-4.0",
        "crop": "box",
        "margin": 0.1,
        "val_fraction": 0.1,
        "seed": 7,
    },
    "source": "animals",
    "found": 1250,
    "train": 1120,
    "validation": 125,
    "classes": {
        "zebra": {"found": 1100, "train": 985, "validation": 110},
        "polar bear": {"found": 150, "train": 135, "validation": 15},
    },
    "crops": {"box": 1000, "center": 245},
    "captions": {"own": 0, "templates": 1245},
    "skipped": {"duplicate": 5},
    "wrong_label_lines": [],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "contact_sheet.jpg").write_bytes(b"picture")
    return tmp_path


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def headings(card: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", card, re.MULTILINE)[1:]  # the title names the source


def test_card_survives_reading_and_writing(folder):
    card = dataset_card(REPORT)
    check_card(card, "dataset", folder)
    assert str(DatasetCard(str(DatasetCard(card)))) == card


def test_numbers_of_the_report(folder):
    card = dataset_card(REPORT)
    assert "| zebra | 1,100 | 985 | 110 |" in card
    assert "| the same pixels as another photo | 5 |" in card
    assert "985 photos of zebra to train on, 135 of polar bear" in card
    assert metadata(card)["size_categories"] == ["1K<n<10K"]
    even = copy.deepcopy(REPORT)
    even["classes"]["polar bear"] = even["classes"]["zebra"]
    assert "not equally frequent" not in dataset_card(even)


def test_language_is_only_claimed_of_our_own_captions():
    assert metadata(dataset_card(REPORT))["language"] == ["en"]
    assert "language" not in metadata(dataset_card(REPORT | {"captions": {"own": 3, "templates": 1242}}))


def test_hostile_free_text(folder):
    report = copy.deepcopy(REPORT)
    report["source"] = HOSTILE
    report["classes"][HOSTILE] = {"found": 1, "train": 1, "validation": 0}
    card = dataset_card(report)
    check_card(card, "dataset", folder)
    assert "<script>" not in card.split("---\n", 2)[2].replace(r"\<script\>", "")
    assert headings(card) == headings(dataset_card(REPORT))
    assert metadata(card).keys() == metadata(dataset_card(REPORT)).keys()
    report["arguments"]["licence"] = HOSTILE
    shown = dataset_card(report)
    assert metadata(shown)["license"] == " ".join(HOSTILE.split())
    assert headings(shown) == headings(card)
