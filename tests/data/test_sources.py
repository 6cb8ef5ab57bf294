from io import BytesIO

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from animal_ldm.data.folders import LabelFile
from animal_ldm.data.sources import open_source
from animal_ldm.errors import InputError

from .photos_on_disk import photo, write_photos


def names_and_labels(source):
    return [(photo.name, photo.label) for photo in source.photos]


def test_kaggle_layout(tmp_path):
    write_photos(tmp_path / "train" / "Polar bear", 2, first_seed=0)
    write_photos(tmp_path / "test" / "Polar bear", 1, first_seed=9)
    (tmp_path / "train" / "Polar bear" / "Label").mkdir()
    (tmp_path / "train" / "Polar bear" / "Label" / "001.txt").write_text("Polar bear 1 2 3 4\n")
    source = open_source(str(tmp_path))
    assert names_and_labels(source) == [
        ("test/Polar bear/000.png", "polar bear"),
        ("train/Polar bear/000.png", "polar bear"),
        ("train/Polar bear/001.png", "polar bear"),
    ]
    unlabelled, labelled = source.photos[1:]
    assert source.reader.label_file(unlabelled) == LabelFile("train/Polar bear/Label/000.txt")
    expected = LabelFile("train/Polar bear/Label/001.txt", ("Polar bear 1 2 3 4",))
    assert source.reader.label_file(labelled) == expected
    assert PILImage.open(BytesIO(source.reader.photo_bytes(labelled))).size == (48, 40)


def test_image_folder(tmp_path):
    write_photos(tmp_path / "red_panda", 1, first_seed=0)
    write_photos(tmp_path / "cat", 1, first_seed=1)
    (tmp_path / "cat" / ".hidden").write_text("")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("no class")
    source = open_source(str(tmp_path))
    assert source.name == tmp_path.name
    assert names_and_labels(source) == [("cat/000.png", "cat"), ("red_panda/000.png", "red panda")]


def test_what_is_no_source_is_told_what_was_looked_for(tmp_path):
    (tmp_path / "notes.pdf.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"<class>/\*\.jpg.*Found: notes\.pdf\.txt"):
        open_source(str(tmp_path))
    with pytest.raises(InputError, match="is a file"):
        open_source(str(tmp_path / "notes.pdf.txt"))
    with pytest.raises(InputError, match="there is no folder"):
        open_source(str(tmp_path / "nowhere"))


def test_an_unknown_name_on_the_hub_is_bad_input():
    with pytest.raises(InputError, match="cannot load nobody/nothing"):
        open_source("nobody/nothing")


def saved(tmp_path, columns: dict, features: dict) -> str:
    data = Dataset.from_dict(columns, features=Features(features))
    data.save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def encoded(seed: int) -> dict:
    buffer = BytesIO()
    photo(seed).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def test_saved_dataset_with_class_labels(tmp_path):
    columns = {"image": [encoded(0), encoded(1), encoded(2)], "label": [1, 0, -1]}
    path = saved(tmp_path, columns, {"image": Image(), "label": ClassLabel(names=["Cat", "Red_Panda"])})
    source = open_source(path)
    assert names_and_labels(source) == [
        ("train/00000000", "red panda"),
        ("train/00000001", "cat"),
        ("train/00000002", ""),
    ]
    assert source.reader.photo_bytes(source.photos[1]) == encoded(1)["bytes"]


def test_named_columns_and_captions_of_ones_own(tmp_path):
    columns = {"picture": [encoded(0)], "species": ["Cat"], "caption": ["  my cat\non a mat "]}
    path = saved(tmp_path, columns, {"picture": Image(), "species": Value("string"), "caption": Value("string")})
    [only] = open_source(path, image_column="picture", label_column="species", text_column="caption").photos
    assert (only.label, only.texts) == ("cat", ("my cat on a mat",))
    [only] = open_source(path, image_column="picture", text_column="caption").photos
    assert (only.label, only.texts) == ("", ("my cat on a mat",))
    with pytest.raises(InputError, match=r"--image_column.*picture \(Image\), species \(Value\)"):
        open_source(path)
    with pytest.raises(InputError, match="no such column"):
        open_source(path, image_column="picture", label_column="breed")
    with pytest.raises(InputError, match=r"class names .* or captions"):
        open_source(path, image_column="picture")


def test_numbers_are_no_class_names(tmp_path):
    path = saved(tmp_path, {"image": [encoded(0)], "label": [3]}, {"image": Image(), "label": Value("int64")})
    with pytest.raises(InputError, match="must hold names"):
        open_source(path)


def test_all_splits_of_a_dataset_are_one_pool(tmp_path):
    features = Features({"image": Image(), "label": Value("string")})
    splits = {
        name: Dataset.from_dict({"image": [encoded(seed)], "label": ["cat"]}, features=features)
        for seed, name in enumerate(("train", "test"))
    }
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    source = open_source(str(tmp_path / "saved"))
    assert [photo.name for photo in source.photos] == ["test/00000000", "train/00000000"]
    assert [source.reader.photo_bytes(photo) for photo in source.photos] == [encoded(1)["bytes"], encoded(0)["bytes"]]


def test_an_image_folder_with_metadata(tmp_path):
    write_photos(tmp_path / "train" / "cat", 1, first_seed=0)
    (tmp_path / "train" / "metadata.jsonl").write_text(
        '{"file_name": "cat/000.png", "text": "my cat", "label": "cat"}\n'
    )
    [only] = open_source(str(tmp_path)).photos
    assert (only.texts, only.label) == (("my cat",), "cat")
