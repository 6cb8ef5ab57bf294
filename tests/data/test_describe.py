"""`prepare --describe` from end to end, and captions with measured words."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from animal_ldm.data.attributes import Attributes
from animal_ldm.data.captions import asked_words, caption, described_captions
from animal_ldm.data.prepared import load_split
from animal_ldm.data.report import read_report
from animal_ldm.errors import InputError

from .photos_on_disk import contents, write_photos
from .test_attributes import RGB, scene
from .test_prepare import prepare, rows


@pytest.fixture
def animals(tmp_path):
    """Three horses on green, two lions on blue with boxes, and smooth random photos."""
    source = tmp_path / "animals"
    (source / "train" / "Horse").mkdir(parents=True)
    # Of different shapes, since shape alone makes near duplicates.
    for colour, size in {"black": (96, 96), "white": (128, 90), "brown": (90, 128)}.items():
        image = Image.fromarray(scene(colour, "green")).resize(size)
        square = Image.new("RGB", (96, 96), RGB["green"])
        square.paste(image, ((96 - size[0]) // 2, (96 - size[1]) // 2))
        square.save(source / "train" / "Horse" / f"{colour}.png")
    write_photos(source / "train" / "Lion", 6, first_seed=0)
    lions = np.hstack([scene("orange", "blue", 64, 0.4), scene("orange", "blue", 64, 0.3)])
    Image.fromarray(np.vstack([lions, np.full_like(lions, RGB["blue"])])).save(source / "train" / "Lion" / "boxed.png")
    (source / "train" / "Lion" / "Label").mkdir()
    (source / "train" / "Lion" / "Label" / "boxed.txt").write_text("Lion 6 6 58 58\nLion 77 13 115 51\n")
    return source


def lines(out) -> dict[str, dict]:
    return {row["file_name"]: row for split in ("train", "validation") for row in rows(out, split)}


def test_words_stand_after_the_template_and_everything_else_stays(animals, tmp_path):
    plain = prepare(animals, tmp_path / "plain")
    report = prepare(animals, tmp_path / "described", "--describe")
    before, after = lines(tmp_path / "plain"), lines(tmp_path / "described")
    assert before.keys() == after.keys()
    for name, row in after.items():
        assert row["text"] == row["texts"][0] == before[name]["text"]
        assert before[name]["texts"] == row["texts"][:1] and "attributes" not in before[name]
        assert row["attributes"].keys() == {"colour", "background", "framing", "number"}
    pictures = {name: data for name, data in contents(tmp_path / "plain").items() if name.endswith((".png", ".jpg"))}
    assert pictures.items() <= contents(tmp_path / "described").items()
    horses = [row for row in after.values() if row["label"] == "horse"]
    assert Counter(row["attributes"]["colour"] for row in horses) == {"black": 1, "white": 1, "brown": 1}
    assert all(len(row["texts"]) == 3 and f"{row['attributes']['colour']} horse on a green" in row["texts"][1]
               for row in horses)  # fmt: skip
    lion = next(row for row in after.values() if row["attributes"]["number"])
    assert lion["attributes"] == {"colour": "orange", "background": "blue", "framing": "", "number": "two"}
    assert lion["texts"][1].endswith("two orange lions on a blue background")
    assert report["attributes"]["colour"]["black"] == 1 and report["attributes"]["number"] == {"two": 1}
    assert report["described"] == sum(len(row["texts"]) - 1 for row in after.values())
    assert report["num_captions"] == plain["num_captions"] + report["described"]


def test_without_the_option_nothing_speaks_of_it(animals, tmp_path):
    report = prepare(animals, tmp_path / "out")
    assert not {"described", "attributes"} & report.keys() and "describe" not in report["arguments"]
    assert not re.search("measured|attributes", (tmp_path / "out" / "dataset_card.md").read_text().lower())
    assert load_split(tmp_path / "out", "train").attributes[0] is None
    with pytest.raises(InputError, match="describe False there, True here"):
        prepare(animals, tmp_path / "out", "--describe")


def test_card_report_and_split_know_the_words(animals, tmp_path, capsys):
    prepare(animals, tmp_path / "out", "--describe")
    assert "measured: colour 4, background 4, framing 0, number 1" in capsys.readouterr().out
    card = (tmp_path / "out" / "dataset_card.md").read_text()
    assert "| colour | black | 1 |" in card and "| framing | none | 0 |" in card and "`attributes`" in card
    report = read_report(tmp_path / "out" / "preparation_report.json")
    assert report is not None and report.arguments.describe and report.attributes["background"]["green"] == 3
    split = load_split(tmp_path / "out", "train")
    assert Attributes(colour="black", background="green") in split.attributes
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    prepare(animals, tmp_path / "out", "--describe")  # is complete
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times


def test_the_result_loads_as_an_image_folder(animals, tmp_path):
    prepare(animals, tmp_path / "out", "--describe")
    data = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    colours = {attributes["colour"] for part in data.values() for attributes in part["attributes"]}
    assert {"black", "white", "brown", ""} <= colours


def test_own_captions_are_left_alone_but_measured(animals, tmp_path):
    (animals / "train" / "Horse" / "black.txt").write_text("Ada\nmy mare Ada\n")
    prepare(animals, tmp_path / "out", "--describe")
    row = next(row for row in lines(tmp_path / "out").values() if row["text"] == "Ada")
    assert row["texts"] == ["Ada", "my mare Ada"] and row["attributes"]["colour"] == "black"


def test_workers_make_no_difference(animals, tmp_path):
    prepare(animals, tmp_path / "one", "--describe")
    prepare(animals, tmp_path / "two", "--describe", "--workers", "2")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_malformed_attributes_are_told_with_their_line(tmp_path):
    write_photos(tmp_path / "train" / "cat", 1, first_seed=0)
    row = {"file_name": "cat/000.png", "text": "a cat", "label": "cat", "attributes": {"colour": 3}}
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"metadata\.jsonl:1: .*attributes must be an object of strings"):
        load_split(tmp_path, "train")


def test_captions_hold_all_words_or_a_part_of_them():
    lion = Attributes("brown", "green", "close-up")
    whole, parts = Counter(), Counter()
    for photo in range(600):
        first, second = described_captions("lion", lion, seed=1, photo=str(photo))
        whole[first.removeprefix("a photo of ")] += 1
        parts[second.removeprefix("a photo of ")] += 1
    assert set(whole) == {"a brown lion on a green background, close-up"}
    assert set(parts) == {
        "a brown lion",
        "a lion on a green background",
        "a lion, close-up",
        "a brown lion on a green background",
        "a brown lion, close-up",
        "a lion on a green background, close-up",
    }
    assert min(parts.values()) > 60


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (Attributes(), None),
        (Attributes(number="two"), None),
        (Attributes(colour="white"), "a white horse"),
        (Attributes(colour="orange"), "an orange horse"),
        (Attributes(colour="black and white"), "a black and white horse"),
        (Attributes(background="orange"), "a horse on an orange background"),
        (Attributes(framing="from afar", number="several"), "several horses, from afar"),
        (Attributes(colour="brown", number="two"), "two brown horses"),
    ],
)
def test_described_captions(attributes, expected):
    captions = described_captions("horse", attributes, 0, "photo")
    assert [text.removeprefix("a photo of ") for text in captions] == ([expected] if expected else [])


@pytest.mark.parametrize(
    "attributes",
    [
        Attributes(),
        Attributes("white"),
        Attributes("black and white", "orange"),
        Attributes("brown", "green", "close-up", "two"),
        Attributes(background="blue"),
    ],
)
@pytest.mark.parametrize("name", ["horse", "polar bear", "fox"])
def test_the_words_of_a_description_are_found_in_it(attributes, name):
    for text in described_captions(name, attributes, 0, "photo")[:1]:  # the one with all words
        assert asked_words(text, name) == Attributes(attributes.colour, attributes.background, attributes.framing)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A GRAY dog, asleep", Attributes(colour="grey")),
        ("two black  dogs on an orange background", Attributes("black", "orange")),
        ("a brown and white dog", Attributes()),
        ("a brown, white dog", Attributes()),
        ("an off-white dog", Attributes()),
        ("a dog on a brown sofa", Attributes()),
        ("a white doghouse", Attributes()),
        ("a white cat", Attributes()),
    ],
)
def test_words_that_a_caption_asks_for(text, expected):
    assert asked_words(text, "dog") == expected


def test_a_description_depends_on_seed_and_photo_alone():
    words = Attributes("white", "green")
    first = [described_captions("horse", words, 5, str(photo)) for photo in range(40)]
    assert first == [described_captions("horse", words, 5, str(photo)) for photo in range(40)]
    assert first != [described_captions("horse", words, 6, str(photo)) for photo in range(40)]
    assert caption("horse", 1, 5, "0") == caption("horse", 1, 5, "0")
