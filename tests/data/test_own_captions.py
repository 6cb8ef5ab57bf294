"""Captions of one's own: text files beside photos, metadata, a column of lists; several for one photo."""

import json
import logging

import pytest
from datasets import Dataset, Features, Image, List, Value, load_dataset

from animal_ldm.data.folders import is_box
from animal_ldm.data.prepared import load_split
from animal_ldm.data.sources import open_source
from animal_ldm.errors import InputError

from .photos_on_disk import photo, write_photos
from .test_prepare import prepare, rows
from .test_sources import encoded


@pytest.fixture
def pets(tmp_path):
    """The folder of a source; nothing is in it yet."""
    return tmp_path / "pets"


def captions(source) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {photo.name: (photo.label, photo.texts) for photo in source.photos}


def problems(source) -> dict[str, str]:
    return {problem.file: problem.why for problem in source.problems}


def test_flat_folder_with_captions_beside_the_photos(tmp_path):
    write_photos(tmp_path / "pets", 3, first_seed=0)
    (tmp_path / "pets" / "000.txt").write_text("\ufeffAda  asleep\r\n\r\nmy cat on a mat\r\nAda asleep\n", "utf-8")
    (tmp_path / "pets" / "001.TXT").write_text("a dog with a bone\x1b[31m")
    (tmp_path / "pets" / "README.txt").write_text("not a caption")
    source = open_source(str(tmp_path / "pets"))
    assert captions(source) == {
        "000.png": ("", ("Ada asleep", "my cat on a mat")),
        "001.png": ("", ("a dog with a bone[31m",)),
        "002.png": ("", ()),
    }
    assert problems(source) == {"README.txt": "ignored: no photo has the name of this text file"}
    report = prepare(tmp_path / "pets", tmp_path / "out", "--val_fraction", "0")
    assert report["skipped"] == {"no_class": 1}
    assert report["captions"] == {"own": 2, "templates": 0} and report["num_captions"] == 3
    by_text = {row["text"]: row for row in rows(tmp_path / "out", "train")}
    assert by_text["Ada asleep"]["texts"] == ["Ada asleep", "my cat on a mat"]
    split = load_split(tmp_path / "out", "train")
    assert set(split.captions) == {("Ada asleep", "my cat on a mat"), ("a dog with a bone[31m",)}
    assert split.texts == tuple(texts[0] for texts in split.captions)
    assert split.labels == ("", "") and split.classes == [""]


def test_flat_photos_in_a_folder_of_a_split(tmp_path):
    write_photos(tmp_path / "train", 2, first_seed=0)
    (tmp_path / "train" / "001.txt").write_text("my cat\n")
    assert captions(open_source(str(tmp_path))) == {"train/000.png": ("", ()), "train/001.png": ("", ("my cat",))}


def test_class_folders_with_captions_beside_the_photos(pets):
    write_photos(pets / "Polar_bear", 2, first_seed=0)
    (pets / "Polar_bear" / "000.txt").write_text("Nanuk swims\nNanuk in the sea\n")
    source = open_source(str(pets))
    assert captions(source) == {
        "Polar_bear/000.png": ("polar bear", ("Nanuk swims", "Nanuk in the sea")),
        "Polar_bear/001.png": ("polar bear", ()),
    }
    prepare(pets, pets.with_name("out"), "--val_fraction", "0")
    lines = rows(pets.with_name("out"), "train")
    assert {row["label"] for row in lines} == {"polar bear"}
    own, template = sorted(lines, key=lambda row: "Nanuk" not in row["text"])
    assert own["texts"] == ["Nanuk swims", "Nanuk in the sea"]
    assert template["texts"] == [template["text"]] and "polar bear" in template["text"]


def test_changed_captions_are_another_preparation(pets):
    write_photos(pets / "cat", 2, first_seed=0)
    (pets / "cat" / "000.txt").write_text("Ada asleep\nAda\n")
    prepare(pets, pets.with_name("out"))
    (pets / "cat" / "000.txt").write_text("Ada asleep\nAda!\n")
    with pytest.raises(InputError, match="since changed photos"):
        prepare(pets, pets.with_name("out"))


@pytest.mark.parametrize("lines", ["0 0.5 0.5 0.2 0.3\n1 .1 .2 1e-3 4\n", "Polar bear 1 2 30.5 40\n"])
def test_boxes_beside_photos_are_not_captions(pets, lines):
    write_photos(pets / "cat", 2, first_seed=0)
    (pets / "cat" / "000.txt").write_text(lines + "but this is a caption\n")
    (pets / "cat" / "001.txt").write_text(lines)
    source = open_source(str(pets))
    assert [texts for _, texts in captions(source).values()] == [("but this is a caption",), ()]
    assert "ignored: numbers or boxes" in problems(source)["cat/000.txt"]
    report = prepare(pets, pets.with_name("out"))
    assert len(report["source_problems"]) == 2 and report["captions"] == {"own": 1, "templates": 1}


def test_captions_may_hold_numbers():
    assert not any(map(is_box, ["3 cats", "cats 3", "a zebra in 2024", "2 dogs and 4 cats"]))
    assert all(map(is_box, ["3", "0 0.1 0.2 0.3 0.4", "Cat 1 2 3 4", "polar bear 1.5 2 3 4"]))


def test_captions_that_are_not_utf8_are_reported(tmp_path):
    write_photos(tmp_path / "cat", 1, first_seed=0)
    (tmp_path / "cat" / "000.txt").write_bytes("un zèbre".encode("latin-1"))
    source = open_source(str(tmp_path))
    assert captions(source) == {"cat/000.png": ("cat", ())}
    assert "save the file as UTF-8" in problems(source)["cat/000.txt"]


def test_photos_without_any_text_are_accepted_with_a_warning(tmp_path, caplog, capsys):
    write_photos(tmp_path / "pets", 3, first_seed=0)
    with caplog.at_level(logging.WARNING):
        report = prepare(tmp_path / "pets", tmp_path / "out")
    assert "neither classes nor captions" in caplog.text and "ignores its prompt" in caplog.text
    assert "3 photos have neither class nor caption" in capsys.readouterr().out
    assert report["captions"] == {"own": 0, "templates": 0}
    assert (report["photos_without_text"], report["num_captions"], report["skipped"]) == (3, 0, {})
    split = load_split(tmp_path / "out", "train")
    assert set(split.captions) == {("",)} and split.texts == ("", "") and split.classes == [""]
    assert "3 photos have neither caption nor class" in (tmp_path / "out" / "dataset_card.md").read_text()
    again = prepare(tmp_path / "out", tmp_path / "again")
    assert again["photos_without_text"] == 3


def test_photos_beside_class_folders_are_reported(tmp_path):
    write_photos(tmp_path / "cat", 1, first_seed=0)
    photo(7).save(tmp_path / "loose.png")
    source = open_source(str(tmp_path))
    assert captions(source).keys() == {"cat/000.png"}
    assert problems(source) == {"loose.png": "ignored: not in a class folder"}


def test_metadata_with_one_or_several_captions(pets):
    write_photos(pets / "images", 5, first_seed=0)
    lines = [
        {"file_name": "images/000.png", "text": "Ada asleep", "label": "Red_Panda"},
        {"file_name": "images/001.png", "texts": ["Ada", " ", "Ada  awake"]},
        {"file_name": "images/002.png", "text": "one"},
        {"file_name": "images/002.png", "text": "two"},
        {"file_name": "images/003.png", "text": None, "label": "cat"},
        {"file_name": "images/missing.png", "text": "gone"},
    ]
    (pets / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    source = open_source(str(pets))
    assert captions(source) == {
        "images/000.png": ("red panda", ("Ada asleep",)),
        "images/001.png": ("", ("Ada", "Ada awake")),
        "images/002.png": ("", ("one", "two")),
        "images/003.png": ("cat", ()),
        "images/missing.png": ("", ("gone",)),
    }
    assert problems(source) == {"images/004.png": "ignored: the metadata does not list it"}
    report = prepare(pets, pets.with_name("out"))
    assert report["skipped_files"] == {
        "unreadable": [{"file": "images/missing.png", "why": "No such file or directory"}]
    }


def test_metadata_as_csv(tmp_path):
    write_photos(tmp_path / "train", 3, first_seed=0)
    content = (
        'file_name,label,texts\r\n000.png,cat,"[""Ada, asleep"", ""Ada""]"\r\n001.png,dog,\r\n002.png,cow,moo\r\n'
    )
    (tmp_path / "train" / "metadata.csv").write_text(content, newline="")
    source = open_source(str(tmp_path))
    assert captions(source) == {"train/000.png": ("cat", ("Ada, asleep", "Ada")), "train/001.png": ("dog", ())}
    assert "line 4 ignored: texts must be a list of captions" in problems(source)["train/metadata.csv"]
    (tmp_path / "train" / "metadata.csv").write_text("file_name,caption\n000.png,Ada asleep\n")
    assert captions(open_source(str(tmp_path), text_column="caption"))["train/000.png"] == ("", ("Ada asleep",))
    with pytest.raises(InputError, match=r"--label_column breed: .* no such column"):
        open_source(str(tmp_path), label_column="breed")


def test_a_column_with_lists_of_captions(tmp_path):
    columns = {"image": [encoded(0), encoded(1)], "texts": [["one ", "two", None, "one"], []], "text": ["x", "y"]}
    features = Features({"image": Image(), "texts": List(Value("string")), "text": Value("string")})
    Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    assert [photo.texts for photo in open_source(str(tmp_path / "saved")).photos] == [("one", "two"), ()]
    named = open_source(str(tmp_path / "saved"), text_column="text")
    assert [photo.texts for photo in named.photos] == [("x",), ("y",)]


def test_several_captions_load_as_an_image_folder_and_are_kept(tmp_path):
    write_photos(tmp_path / "pets", 4, first_seed=0)
    (tmp_path / "pets" / "000.txt").write_text("Ada asleep\nmy cat\n")
    for name in ("001", "002", "003"):
        (tmp_path / "pets" / f"{name}.txt").write_text(f"photo {name}\n")
    prepare(tmp_path / "pets", tmp_path / "out")
    data = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    examples = {row["text"]: row for part in data.values() for row in part}
    assert len(examples) == 4
    assert examples["Ada asleep"]["texts"] == ["Ada asleep", "my cat"] and examples["Ada asleep"]["label"] == ""
    assert examples["photo 001"]["texts"] == ["photo 001"]
    again = prepare(tmp_path / "out", tmp_path / "again")
    assert again["num_captions"] == 5
    before, after = (
        {row["text"]: row["texts"] for s in ("train", "validation") for row in rows(tmp_path / out, s)}
        for out in ("out", "again")
    )
    assert before == after
