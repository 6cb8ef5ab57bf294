from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from animal_ldm.data import duplicates
from animal_ldm.data.duplicates import thumbnail

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


def near_duplicates(thumbnails: list[bytes]):
    return duplicates.near_duplicates(np.frombuffer(b"".join(thumbnails), np.uint8))


@pytest.fixture
def sampled(monkeypatch):
    """Search sets of any size as large ones are searched."""
    monkeypatch.setattr(duplicates, "ALL_PAIRS", 0)


@pytest.mark.parametrize("all_pairs", [0, 20_000])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_copy_is_found_and_nothing_else(change, all_pairs, monkeypatch):
    monkeypatch.setattr(duplicates, "ALL_PAIRS", all_pairs)
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


def test_pairs_at_the_limit_are_found_as_often_as_stated(sampled):
    """Random hashes, whose mirrored ones are unrelated: nothing gives a pair a second chance."""
    rng = np.random.default_rng(0)
    number = 500
    bits = rng.integers(0, 2, (4 * number, 256), dtype=np.uint8)
    for original, copy in zip(bits[:number], bits[number : 2 * number], strict=True):
        copy[:] = original
        copy[rng.permutation(256)[: duplicates.MOST_DIFFERING_BITS]] ^= 1
    hashes = np.packbits(bits, axis=1).view(np.uint64).T
    found = {
        pair for i, j in duplicates.sampled_close_hashes(hashes) for pair in zip(i.tolist(), j.tolist(), strict=True)
    }
    share = len(found & {(index, index + number) for index in range(number)}) / number
    assert share >= duplicates.FOUND - 0.015  # three standard errors


def test_every_copy_in_a_crowd_is_a_copy_of_the_first(sampled, monkeypatch):
    """However few others each is compared with, and with time in proportion to the crowd."""
    monkeypatch.setattr(duplicates, "WINDOW", 1)
    rng = np.random.default_rng(0)
    original = np.asarray(photo(0, 160, 140).convert("L").resize((17, 16)), np.int16)
    crowd = [(original + rng.integers(-1, 2, original.shape)).clip(0, 255).astype(np.uint8) for _ in range(400)]
    pairs = set(near_duplicates([image.tobytes() for image in crowd]))
    assert {(0, index) for index in range(1, 400)} <= pairs
    assert len(pairs) < 400 * 399 / 4


def test_white_photos_do_not_become_quadratic(sampled):
    hashes = np.zeros((4, 2 * 1_000), np.uint64)
    compared = sum(len(i) for i, _ in duplicates.sampled_close_hashes(hashes))
    assert compared <= duplicates.tables(11) * (duplicates.WINDOW + 1) * 2_000
