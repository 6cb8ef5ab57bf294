"""The dataset card: the Hub's rules, and free text that can break nothing."""

import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import DatasetCard

from animal_ldm.data.dataset_card import dataset_card
from animal_ldm.data.report import CaptionCounts, ClassCounts, CropCounts, PreparationReport
from animal_ldm.data.settings import PreparationSettings
from animal_ldm.publishing.rules import check_card

from ..test_markdown import HOSTILE

REPORT = PreparationReport(
    arguments=PreparationSettings(image_size=32, license="cc-by-4.0", seed=7),
    photos="digest",
    source="animals",
    found=1250,
    train=1120,
    validation=125,
    classes={"zebra": ClassCounts(1100, 985, 110), "polar bear": ClassCounts(150, 135, 15)},
    crops=CropCounts(box=1000, center=245),
    captions=CaptionCounts(own=0, templates=1245),
    possible_plurals=[],
    skipped={"duplicate": 5},
    skipped_files={},
    boxes_of_other_classes=0,
    wrong_label_lines=[],
    wrong_colour_profiles=[],
)


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
    assert "985 training photos of zebra, 135 of polar bear" in card
    assert metadata(card)["size_categories"] == ["1K<n<10K"]
    even = replace(REPORT, classes=REPORT.classes | {"polar bear": REPORT.classes["zebra"]})
    assert "not equally frequent" not in dataset_card(even)


def test_language_is_only_claimed_of_our_own_captions():
    assert metadata(dataset_card(REPORT))["language"] == ["en"]
    assert "language" not in metadata(dataset_card(replace(REPORT, captions=CaptionCounts(own=3, templates=1242))))


def test_hostile_free_text(folder):
    report = replace(REPORT, source=HOSTILE, classes=REPORT.classes | {HOSTILE: ClassCounts(1, 1, 0)})
    card = dataset_card(report)
    check_card(card, "dataset", folder)
    assert "<script>" not in card.split("---\n", 2)[2].replace(r"\<script\>", "")
    assert headings(card) == headings(dataset_card(REPORT))
    assert metadata(card).keys() == metadata(dataset_card(REPORT)).keys()
    shown = dataset_card(replace(report, arguments=replace(REPORT.arguments, license=HOSTILE)))
    assert metadata(shown)["license"] == " ".join(HOSTILE.split())
    assert headings(shown) == headings(card)
