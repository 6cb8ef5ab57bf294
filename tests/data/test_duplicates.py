from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from animal_ldm.data import duplicates
from animal_ldm.data.duplicates import near_duplicates, thumbnail

from .photos_on_disk import photo


def recompressed(image: Image.Image) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


CHANGES = {
    "scaled": lambda image: image.resize((80, 70)),
    "recompressed": recompressed,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "grey": lambda image: image.convert("L"),
    "mirrored": ImageOps.mirror,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_copy_is_found_and_nothing_else(change):
    photos = [photo(seed, 160, 140) for seed in range(20)]
    copies = [change(image) for image in photos]
    pairs = near_duplicates([thumbnail(image) for image in photos + copies])
    assert list(pairs) == [(index, index + 20) for index in range(20)]


def test_pictures_of_one_colour_are_no_duplicates():
    grey = [thumbnail(Image.new("RGB", (40, 40), (value,) * 3)) for value in (0, 0, 100, 255)]
    assert list(near_duplicates(grey)) == []


def test_small_things_on_white_are_no_duplicates():
    """Most differences are zero in both, so the hashes nearly agree; the shapes do not."""
    pictures = []
    for corner in ((10, 10), (120, 100)):
        image = Image.new("RGB", (160, 160), "white")
        image.paste("black", (*corner, corner[0] + 20, corner[1] + 20))
        pictures.append(thumbnail(image))
    assert list(near_duplicates(pictures)) == []


def test_no_pair_is_lost_between_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    thumbnails = [rng.integers(0, 256, 16 * 17, dtype=np.uint8).tobytes() for _ in range(30)]
    thumbnails += [thumbnails[3], thumbnails[17], thumbnails[29]]
    monkeypatch.setattr(duplicates, "BLOCK", 8)
    assert list(near_duplicates(thumbnails)) == [(3, 30), (17, 31), (29, 32)]


def test_nothing_in_nothing_out():
    assert list(near_duplicates([])) == []
