"""Folders of images: what counts, what names the classes."""

import numpy as np
import pytest
from PIL import Image

from animal_ldm.errors import InputError
from animal_ldm.evaluation.images import images_of_folder


def test_folder_without_images(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        images_of_folder(tmp_path)


def test_subfolders_name_classes(tmp_path):
    (tmp_path / "polar_bear").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "polar_bear" / "a.png")
    images = images_of_folder(tmp_path)
    assert images.labels == ("polar bear",)
    assert images[0].shape == (4, 4, 3)
    Image.new("RGB", (4, 4)).save(tmp_path / "b.jpg")
    assert images_of_folder(tmp_path).labels is None


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".gif", ".WEBP", ".ppm", ".bmp"])
def test_what_pillow_reads_counts(tmp_path, suffix):
    Image.new("RGB", (4, 4), "white").save(tmp_path / f"a{suffix}")
    images = images_of_folder(tmp_path)
    assert len(images) == 1
    assert np.array_equal(images[0], np.full((4, 4, 3), 255))


def test_hidden_files_do_not_count(tmp_path):
    (tmp_path / ".thumbnails").mkdir()
    for name in ("a.png", ".b.png", ".thumbnails/a.png", "._a.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert [file.name for file in images_of_folder(tmp_path).files] == ["a.png"]


def test_other_files_are_named(tmp_path, caplog):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "notes.xyz").write_text("not an image")
    assert len(images_of_folder(tmp_path)) == 1
    assert "notes.xyz" in caplog.text
