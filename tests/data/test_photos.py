from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from animal_ldm.data.photos import (
    Box,
    SkippedPhoto,
    center_square,
    open_photo,
    pixel_digest,
    scale_square,
    square_around,
    visible,
)

from .photos_on_disk import photo


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def middle_pixel(image: Image.Image) -> tuple[int, ...]:
    return image.getpixel((image.width // 2, image.height // 2))


def test_exif_orientation_is_applied():
    image = photo(1, 48, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright = open_photo(encode(image, exif=exif)).image
    assert upright.size == (40, 48)
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(np.asarray(image), k=-1))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (8, 8), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("LA", (8, 8), (0, 0)), (255, 255, 255)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)), (128, 128, 128)),
        (Image.new("RGB", (8, 8), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE), (10, 20, 30)),
    ],
    ids=["transparent", "opaque", "grey with alpha", "black and white", "16-bit grey", "palette"],
)
def test_every_mode_becomes_rgb(image, expected):
    opened = open_photo(encode(image)).image
    assert opened.mode == "RGB"
    assert middle_pixel(opened) == expected


def test_a_transparent_palette_colour_becomes_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    assert middle_pixel(open_photo(encode(image, transparency=0)).image) == (255, 255, 255)


def test_cmyk():
    red, green, blue = middle_pixel(open_photo(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).image)
    assert red > 200 and green < 60 and blue < 60


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# The colours of red and green light exchanged.
EXCHANGED = SRGB.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")


def test_colours_are_brought_from_their_profile_to_srgb():
    opened = open_photo(encode(Image.new("RGB", (8, 8), (200, 20, 90)), icc_profile=EXCHANGED))
    assert opened.profile_problem == ""
    np.testing.assert_allclose(middle_pixel(opened.image), (20, 200, 90), atol=2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_an_srgb_profile_changes_nothing_and_is_not_carried_along(mode):
    image = photo(5).convert(mode)
    opened = open_photo(encode(image, icc_profile=SRGB))
    plain = open_photo(encode(image)).image
    assert opened.profile_problem == "" and "icc_profile" not in opened.image.info
    assert np.abs(np.asarray(opened.image).astype(int) - np.asarray(plain)).max() <= 1


@pytest.mark.parametrize(
    ("image", "profile"),
    [
        (photo(6), b"no profile"),
        (photo(6), SRGB[: len(SRGB) // 2]),
        (photo(6).convert("CMYK"), SRGB),
    ],
    ids=["junk", "truncated", "of another mode"],
)
def test_colours_with_a_broken_profile_stay_as_they_are(image, profile):
    form = "JPEG" if image.mode == "CMYK" else "PNG"
    opened = open_photo(encode(image, form, icc_profile=profile))
    assert opened.profile_problem and "icc_profile" not in opened.image.info
    assert pixel_digest(opened.image) == pixel_digest(open_photo(encode(image, form)).image)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"<html>not found</html>", "not_an_image"),
        (encode(photo(1, 200, 200), "JPEG")[:3000], "broken"),
        (encode(photo(1, 200, 200))[:3000], "broken"),
        (encode(Image.new("1", (14000, 14000)), "PNG"), "decompression_bomb"),
        (encode(Image.new("F", (8, 8)), "TIFF"), "not_an_image"),
    ],
    ids=["empty", "text", "truncated JPEG", "truncated PNG", "bomb", "floats"],
)
def test_what_cannot_be_used_says_why(data, reason):
    with pytest.raises(SkippedPhoto) as caught:
        open_photo(data)
    assert caught.value.reason == reason


def test_the_digest_is_of_pixels_not_of_files():
    image = photo(3)
    assert pixel_digest(open_photo(encode(image)).image) == pixel_digest(open_photo(encode(image, "BMP")).image)
    assert pixel_digest(image) != pixel_digest(photo(4))
    # The same bytes in another shape are another picture.
    assert pixel_digest(Image.new("RGB", (4, 2))) != pixel_digest(Image.new("RGB", (2, 4)))


def test_center_square():
    assert center_square(50, 20) == Box(15, 0, 35, 20)
    assert center_square(20, 51) == Box(0, 15, 20, 35)


def test_the_square_holds_all_boxes_and_the_margin():
    boxes = [Box(100, 100, 140, 120), Box(160, 110, 200, 150)]
    assert square_around(boxes, 400, 300, margin=0.1, smallest=16) == Box(90, 65, 210, 185)


def test_the_square_is_moved_into_the_photo():
    assert square_around([Box(0, 0, 20, 20)], 100, 80, margin=0.5, smallest=16) == Box(0, 0, 40, 40)
    assert square_around([Box(90, 70, 100, 80)], 100, 80, margin=0.5, smallest=16) == Box(80, 60, 100, 80)
    assert square_around([Box(0, 0, 100, 80)], 100, 80, margin=0.5, smallest=16) == Box(10, 0, 90, 80)


def test_a_small_box_gets_the_pixels_of_the_square_to_write():
    assert square_around([Box(50, 40, 52, 42)], 100, 80, margin=0.1, smallest=32) == Box(35, 25, 67, 57)
    assert square_around([Box(50, 40, 52, 42)], 100, 20, margin=0.1, smallest=32) == Box(41, 0, 61, 20)


def test_a_box_is_visible_when_half_of_it_is():
    assert visible(Box(0, 0, 10, 10), Box(5, 0, 50, 50))
    assert not visible(Box(0, 0, 10, 10), Box(6, 0, 50, 50))


def test_scaling_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the small picture can show: it must become grey, not stripes or one colour
    small = np.asarray(scale_square(Image.fromarray(stripes), Box(0, 0, 256, 256), 16))
    assert small.shape == (16, 16, 3)
    assert np.abs(small.astype(int) - 127).max() <= 8


def test_nothing_outside_the_crop_enters():
    image = Image.new("RGB", (60, 40), "red")
    image.paste("blue", (20, 10, 40, 30))
    assert np.unique(np.asarray(scale_square(image, Box(20, 10, 40, 30), 8)).reshape(-1, 3), axis=0).tolist() == [
        [0, 0, 255]
    ]
