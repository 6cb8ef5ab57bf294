import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import yaml
from datasets import Dataset, Features, Image, Value, load_dataset
from PIL import Image as PILImage
from PIL import ImageOps

from animal_ldm.commands.prepare import main
from animal_ldm.data.prepared import load_split
from animal_ldm.errors import InputError

from .photos_on_disk import contents, photo, write_photos
from .test_sources import encoded


def prepare(source, out, *options: str) -> dict:
    """Run with small squares in this process; return the report."""
    main([str(source), str(out), "--image_size", "32", "--workers", "1", *options])
    return json.loads((out / "preparation_report.json").read_text())


def rows(out, split: str) -> list[dict]:
    return [json.loads(line) for line in (out / split / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture
def animals(tmp_path):
    """20 zebras, 12 polar bears, 12 lions, 2 wolves, 1 ant, in the Kaggle layout without labels."""
    source = tmp_path / "animals"
    for seed, (name, number) in enumerate({"Zebra": 20, "Polar bear": 12, "Lion": 12, "Wolf": 2, "Ant": 1}.items()):
        write_photos(source / "train" / name, number, first_seed=1000 * seed)
    return source


def test_the_result_loads_as_an_image_folder(animals, tmp_path):
    before = contents(animals)
    out = tmp_path / "out"
    report = prepare(animals, out)
    assert contents(animals) == before
    assert (report["found"], report["train"], report["validation"]) == (47, 42, 5)

    data = load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in data.items()} == {"train": 42, "validation": 5}
    example = data["train"][0]
    assert example["image"].size == (32, 32) and example["image"].mode == "RGB"
    assert {row["label"] for row in rows(out, "train")} == {"zebra", "polar bear", "lion", "wolf", "ant"}
    assert all(row["label"] in row["text"] for row in rows(out, "train"))
    assert any(row["file_name"].startswith("polar_bear/") for row in rows(out, "train"))
    assert load_split(out, "train").classes == ["zebra", "lion", "polar bear", "ant", "wolf"]


def test_every_class_of_two_has_a_photo_in_validation(animals, tmp_path):
    prepare(animals, tmp_path / "out")
    counts = Counter(row["label"] for row in rows(tmp_path / "out", "validation"))
    assert counts == {"zebra": 2, "polar bear": 1, "lion": 1, "wolf": 1}


def test_the_most_common_classes_are_taken_and_ties_go_by_name(animals, tmp_path):
    assert list(prepare(animals, tmp_path / "two", "--num_classes", "2")["classes"]) == ["zebra", "lion"]
    report = prepare(animals, tmp_path / "named", "--classes", "Polar_bear", "wolf")
    assert list(report["classes"]) == ["polar bear", "wolf"]
    with pytest.raises(InputError, match=r"has no unicorn. It has: zebra \(20\), lion \(12\), polar bear \(12\)"):
        prepare(animals, tmp_path / "unknown", "--classes", "unicorn")


def test_the_split_follows_the_pixels_not_the_names(animals, tmp_path):
    prepare(animals, tmp_path / "before")
    for index, path in enumerate(sorted((animals / "train" / "Zebra").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed-{index:02d}.png"))
    prepare(animals, tmp_path / "after")
    for split in ("train", "validation"):
        assert rows(tmp_path / "before", split) == rows(tmp_path / "after", split)
    prepare(animals, tmp_path / "other", "--seed", "1")
    assert rows(tmp_path / "before", "validation") != rows(tmp_path / "other", "validation")


def test_workers_make_no_difference(animals, tmp_path):
    write_photos(animals / "train" / "Cow", 150, first_seed=9000)  # four chunks in all
    prepare(animals, tmp_path / "one")
    main([str(animals), str(tmp_path / "three"), "--image_size", "32", "--workers", "3"])
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_broken_photos_are_skipped_counted_and_named(tmp_path):
    cats = tmp_path / "pets" / "cat"
    write_photos(cats, 5, first_seed=0)
    photo(50, 300, 200).save(cats / "whole.jpg")
    (cats / "half.jpg").write_bytes((cats / "whole.jpg").read_bytes()[:2000])
    (cats / "page.jpg").write_text("<html>")
    photo(51, 15, 90).save(cats / "tiny.png")
    photo(52, 16, 90).save(cats / "small.png")
    photo(0).save(cats / "again.bmp")
    ImageOps.mirror(photo(50, 300, 200)).resize((150, 100)).save(cats / "zz-mirrored.jpg")
    report = prepare(tmp_path / "pets", tmp_path / "out")
    assert {reason: [file["file"] for file in files] for reason, files in report["skipped_files"].items()} == {
        "broken": ["cat/half.jpg"],
        "duplicate": ["cat/again.bmp"],
        "near_duplicate": ["cat/zz-mirrored.jpg"],
        "not_an_image": ["cat/page.jpg"],
        "too_small": ["cat/tiny.png"],
    }
    assert report["skipped"] == {reason: 1 for reason in report["skipped_files"]}
    assert report["train"] + report["validation"] == 7
    assert report["skipped_files"]["near_duplicate"][0]["why"] == "nearly the same as cat/whole.jpg"


def test_a_broken_colour_profile_is_counted_and_the_photo_is_kept(tmp_path):
    cats = tmp_path / "pets" / "cat"
    write_photos(cats, 5, first_seed=0)
    photo(9).save(cats / "odd.png", icc_profile=b"no profile")
    report = prepare(tmp_path / "pets", tmp_path / "out")
    assert [problem["file"] for problem in report["wrong_colour_profiles"]] == ["cat/odd.png"]
    assert report["train"] + report["validation"] == 6
    squares = [PILImage.open(path) for path in (tmp_path / "out").rglob("cat/*.png")]
    assert len(squares) == 6 and not any("icc_profile" in square.info for square in squares)


def test_a_plural_class_is_asked_about_and_left_as_it_is(tmp_path, capsys):
    for seed, name in enumerate(("cats", "octopus")):
        write_photos(tmp_path / "pets" / name, 3, first_seed=100 * seed)
    report = prepare(tmp_path / "pets", tmp_path / "out")
    assert report["possible_plurals"] == ["cats"] and set(report["classes"]) == {"cats", "octopus"}
    assert "'cats' looks like a plural" in capsys.readouterr().out


def test_nothing_usable_is_bad_input(tmp_path):
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "page.jpg").write_text("<html>")
    with pytest.raises(InputError, match=r"None of the 1 photos .* can be used: {'not_an_image': 1}"):
        prepare(tmp_path / "pets", tmp_path / "out")


@pytest.fixture
def labelled(tmp_path):
    """Red photos with a blue animal in a corner, and their labels."""
    folder = tmp_path / "animals" / "train" / "Polar bear"
    (folder / "Label").mkdir(parents=True)

    def add(name: str, label: str | None) -> None:
        image = PILImage.new("RGB", (200, 100), "red")
        image.paste("blue", (150, 10, 190, 50))
        image.paste(photo(len(list(folder.iterdir())), 20, 20), (0, 80))  # far from the animal; no two photos alike
        image.save(folder / f"{name}.png")
        if label is not None:
            (folder / "Label" / f"{name}.txt").write_text(label)

    return add


def test_boxes_decide_the_crop(labelled, tmp_path):
    labelled("boxed", "Polar bear 150 10 190 50\n")
    report = prepare(tmp_path / "animals", tmp_path / "out", "--margin", "0", "--val_fraction", "0")
    assert report["crops"] == {"box": 1, "center": 0}
    [row] = rows(tmp_path / "out", "train")
    square = PILImage.open(tmp_path / "out" / "train" / row["file_name"])
    assert square.getcolors() == [(32 * 32, (0, 0, 255))]
    assert not (tmp_path / "out" / "validation").exists()

    report = prepare(tmp_path / "animals", tmp_path / "center", "--crop", "center", "--val_fraction", "0")
    assert report["crops"] == {"box": 0, "center": 1}
    square = PILImage.open(tmp_path / "center" / "train" / row["file_name"])
    assert square.getpixel((16, 16)) == (255, 0, 0)


def prepare_one(tmp_path, *options: str) -> tuple[dict, str]:
    """The report and the caption of the only photo."""
    report = prepare(tmp_path / "animals", tmp_path / "out", "--val_fraction", "0", *options)
    [row] = rows(tmp_path / "out", "train")
    return report, row["text"]


@pytest.mark.parametrize("number", [2, 3, 5])
def test_captions_tell_that_the_label_shows_several(labelled, tmp_path, number):
    labelled("group", "Polar bear 150.0 10.0 190.0 50.0\n" * number)
    _, text = prepare_one(tmp_path)
    assert "polar bears" in text


def test_captions_count_no_animal_outside_the_square(labelled, tmp_path):
    labelled("apart", "Polar bear 150 10 190 50\nPolar bear 0 60 40 100\n")
    _, text = prepare_one(tmp_path, "--crop", "center")
    assert "bears" not in text


def test_a_wrong_label_line_costs_that_box_alone(labelled, tmp_path):
    wrong = [
        "Polar bear 1 2 3",
        "Polar bear 1 2 3 x",
        "Polar bear 50 10 40 90",
        "Polar bear 300 10 340 90",
        "1 nan 3 4 5",
    ]
    labelled("mixed", "\n".join([*wrong, "", "Polar bear nan 1 50 50", "Zebra 0 0 9 9", "Polar bear 150 10 190 50"]))
    report, text = prepare_one(tmp_path)
    file = "train/Polar bear/Label/mixed.txt"
    lines = [line.split(": ")[0] for line in report["wrong_label_lines"]]
    assert lines == [f"{file}:{number}" for number in (1, 2, 3, 4, 5, 7)]
    assert report["boxes_of_other_classes"] == 1
    assert report["crops"] == {"box": 1, "center": 0}
    assert "bears" not in text


def test_captions_of_ones_own_replace_ours(tmp_path):
    texts = ["Ada asleep", "Ada awake", ""]
    columns = {"image": [encoded(seed) for seed in range(3)], "text": texts}
    Dataset.from_dict(columns, features=Features({"image": Image(), "text": Value("string")})).save_to_disk(
        tmp_path / "saved"
    )
    report = prepare(tmp_path / "saved", tmp_path / "out", "--val_fraction", "0")
    assert {(row["text"], row["label"]) for row in rows(tmp_path / "out", "train")} == {
        ("Ada asleep", ""),
        ("Ada awake", ""),
    }
    assert report["skipped"] == {"no_class": 1}
    assert report["captions"] == {"own": 2, "templates": 0}
    assert len(load_split(tmp_path / "out", "train")) == 2


def test_a_prepared_folder_can_be_prepared_again(animals, tmp_path):
    prepare(animals, tmp_path / "out")
    report = prepare(tmp_path / "out", tmp_path / "again", "--image_size", "16")
    assert report["found"] == 47 and report["captions"] == {"own": 47, "templates": 0}
    texts = Counter(row["text"] for split in ("train", "validation") for row in rows(tmp_path / "out", split))
    assert texts == Counter(
        row["text"] for split in ("train", "validation") for row in rows(tmp_path / "again", split)
    )


def test_a_finished_folder_is_left_alone_and_a_damaged_one_mended(animals, tmp_path):
    out = tmp_path / "out"
    prepare(animals, out)
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    prepare(animals, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times

    (out / "train" / rows(out, "train")[7]["file_name"]).unlink()
    prepare(animals, out)
    assert contents(out) == before


def test_another_preparation_is_never_mixed_in(animals, tmp_path):
    out = tmp_path / "out"
    prepare(animals, out)
    with pytest.raises(InputError, match="seed 423432 there, 7 here"):
        prepare(animals, out, "--seed", "7")
    photo(77).save(animals / "train" / "Lion" / "new.png")
    with pytest.raises(InputError, match="since changed photos"):
        prepare(animals, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"holds something else \(thesis.txt\)"):
        prepare(animals, tmp_path / "mine")
    with pytest.raises(InputError, match="is inside SOURCE"):
        prepare(animals, animals / "out")
    with pytest.raises(InputError, match="is a file"):
        prepare(animals, tmp_path / "mine" / "thesis.txt")


@pytest.mark.parametrize(
    ("option", "value"),
    [("num_classes", "0"), ("image_size", "4"), ("margin", "-1"), ("val_fraction", "1"), ("workers", "0")],
)
def test_values_out_of_range_are_refused(animals, tmp_path, option, value):
    with pytest.raises(InputError, match=f"--{option} must be"):
        main([str(animals), str(tmp_path / "out"), f"--{option}", value])


@pytest.mark.parametrize("appears", [".preparation/records-*.json", "train/*/*.png", "preparation_report.json"])
def test_a_killed_preparation_goes_on_to_the_same_bytes(tmp_path, appears):
    source, out = tmp_path / "animals", tmp_path / "out"
    for index, name in enumerate(("cat", "dog", "cow")):
        write_photos(source / name, 100, first_seed=1000 * index)
    prepare(source, tmp_path / "whole")

    command = [sys.executable, "-m", "animal_ldm", "prepare", str(source), str(out)]
    process = subprocess.Popen([*command, "--image_size", "32", "--workers", "2"], stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(out.glob(appears)):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    prepare(source, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_the_card_is_a_hub_card_with_the_counts(animals, tmp_path):
    out = tmp_path / "out"
    animals = animals.rename(tmp_path / "my [best] <animals>")
    report = prepare(animals, out, "--licence", "cc-by-4.0")
    _, metadata, body = (out / "dataset_card.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(metadata)
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["task_categories"] == ["text-to-image"]
    assert metadata["size_categories"] == ["n<1K"]
    assert metadata["configs"][0]["data_files"] == [
        {"split": "train", "path": "train/**"},
        {"split": "validation", "path": "validation/**"},
    ]
    assert r"my \[best\] \<animals\>" in body
    assert "| polar bear | 12 | 11 | 1 |" in body
    assert f"| **all** | 47 | {report['train']} | {report['validation']} |" in body
    assert "### Skipped photos\n\nNone.\n" in body
    sheet = PILImage.open(out / "contact_sheet.jpg")
    assert sheet.width == 8 * 96 and sheet.height == 5 * (96 + 22)


def test_the_card_says_what_was_dropped_and_that_the_licence_is_unknown(labelled, tmp_path):
    labelled("one", "Polar bear oops\n")
    labelled("two", None)
    (tmp_path / "animals" / "train" / "Polar bear" / "page.jpg").write_text("<html>")
    prepare(tmp_path / "animals", tmp_path / "out")
    card = (tmp_path / "out" / "dataset_card.md").read_text()
    assert "license: unknown" in card and "**unknown**" in card
    assert "| not an image | 1 |" in card
    assert "1 invalid line of label files was ignored" in card
