"""Measured words on synthetic images: what must be said, and what must not."""

import numpy as np
import pytest
from PIL import Image

from animal_ldm.data.attributes import Attributes, connected, holes, measure, to_lab
from animal_ldm.data.photos import Box

RGB = {
    "black": (12, 12, 14),
    "white": (245, 243, 240),
    "grey": (115, 116, 118),
    "brown": (120, 80, 50),
    "orange": (225, 130, 40),
    "red": (200, 30, 40),
    "yellow": (245, 215, 40),
    "green": (70, 130, 50),
    "blue": (60, 110, 190),
    "pink": (240, 130, 160),
}


def scene(animal, background, side: int = 128, radius: float = 0.3, noise: float = 4) -> np.ndarray:
    """A noisy disc of one colour on another, (side, side, 3)."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    image = np.where((np.hypot(x, y) < radius)[..., None], RGB[animal], RGB[background])
    return (image + np.random.default_rng(0).normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("animal", ["black", "white", "brown", "orange", "red", "yellow", "blue"])
@pytest.mark.parametrize("background", ["green", "blue", "pink"])
def test_disc_on_a_background(animal, background):
    measured = measure(scene(animal, background))
    close = {("yellow", "green"), ("red", "pink")}  # the background's word may be said of the animal, too
    assert measured.background == ("" if (animal, background) in close or animal == background else background)
    assert measured.colour == ("" if animal == background else animal)


def test_grey_needs_something_brighter():
    image = scene("grey", "green", radius=0.36)
    assert measure(image).colour == ""  # it could be white in the shade
    image[:8] = RGB["white"]
    assert measure(image).colour == "grey"


@pytest.mark.parametrize("side", [32, 64, 100, 128, 256])
def test_any_size(side):
    assert measure(scene("orange", "green", side)) == Attributes(colour="orange", background="green")


def test_no_word_without_contrast():
    for name in RGB:
        assert measure(scene(name, name)).colour == ""


@pytest.mark.parametrize("animal", ["green", "pink"])
def test_words_that_are_never_said_of_animals(animal):
    assert measure(scene(animal, "blue")) == Attributes(background="blue")


def test_gradients_and_noise_say_nothing():
    ramp = np.linspace(0, 255, 128)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp, 255 - ramp), -1).astype(np.uint8)
    noise = np.random.default_rng(1).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for image in (gradient, noise):
        assert measure(image) == Attributes()


def test_black_and_white_photos_have_no_colours():
    grey = np.asarray(Image.fromarray(scene("brown", "green")).convert("L").convert("RGB"))
    assert measure(grey) == Attributes()


def test_stripes_and_spots_have_no_single_colour():
    image = scene("white", "green")
    disc = np.hypot(*(np.mgrid[:128, :128] / 128 - 0.5)) < 0.3
    for period in (6, 12, 20):
        striped = image.copy()
        striped[disc & (np.arange(128) % period < period // 2)] = RGB["black"]
        assert measure(striped).colour in ("", "black and white")
        assert measure(striped).background == "green"
    panda = image.copy()
    panda[50:60, 50:78] = RGB["black"]
    assert measure(panda).colour == ""


def test_two_halves_are_black_and_white():
    image = scene("white", "green")
    disc = np.hypot(*(np.mgrid[:128, :128] / 128 - 0.5)) < 0.3
    image[disc & (np.arange(128) < 64)] = RGB["black"]
    assert measure(image) == Attributes(colour="black and white", background="green")


def test_boxes_tell_an_animal_outside_the_middle():
    image = np.full((128, 128, 3), RGB["green"], np.uint8)
    image[10:60, 5:50] = RGB["brown"]
    box = Box(5, 10, 50, 60)
    assert measure(image, [box]) == Attributes(colour="brown", background="green")
    assert measure(image) == Attributes()


def test_framing():
    image = scene("brown", "green")
    assert measure(image, [Box(-5, -5, 140, 140)]) == Attributes(colour="brown", framing="close-up")
    assert measure(image, [Box(50, 50, 80, 80)]).framing == "from afar"
    assert measure(image, [Box(20, 20, 108, 108)]).framing == ""
    assert measure(image).framing == ""


def test_number_counts_boxes_that_are_seen():
    image = scene("brown", "green")
    boxes = [Box(10, 10, 50, 50), Box(60, 60, 120, 120), Box(0, 80, 20, 100), Box(100, 0, 120, 20)]
    assert [measure(image, boxes[:n]).number for n in range(5)] == ["", "", "two", "three", "several"]
    assert measure(image, [boxes[0], Box(-30, 0, 10, 40)]).number == ""  # most of the second is cut off


@pytest.mark.parametrize("box", [Box(200, 200, 300, 300), Box(50, 50, 50, 50), Box(90, 90, 40, 40)])
def test_odd_boxes_do_no_harm(box):
    assert measure(scene("brown", "green"), [box]).framing in ("", "from afar")


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)])
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="Expected a uint8 image"):
        measure(image)


def test_the_image_is_not_changed_and_the_result_is_the_same():
    image = scene("white", "blue")
    before = image.copy()
    assert measure(image) == measure(image) and (image == before).all()


def test_lab_of_known_colours():
    # From the definition: white, black, and sRGB red and green (Lindbloom's calculator, D65).
    colours = np.array([(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    expected = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20), (87.73, -86.18, 83.18)]
    assert np.allclose(to_lab(colours), expected, atol=0.05)


def test_masks():
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    mask[2, 2] = False
    assert holes(mask).sum() == 1 and holes(mask)[2, 2]
    seed = np.zeros_like(mask)
    seed[1, 1] = True
    mask[0, 0] = mask[2, 1] = mask[1, 2] = False  # what is left of the ring falls apart
    assert connected(mask, seed).sum() == 1


def test_reading_the_field():
    attributes = Attributes(colour="brown", framing="close-up")
    assert attributes.words() == {"colour": "brown", "framing": "close-up"}
    assert Attributes.parse({"colour": "brown", "framing": "close-up", "mood": "calm"}) == attributes
    for value in ([], "brown", {"colour": None}, {"colour": ["brown"]}):
        with pytest.raises(ValueError, match="object of strings"):
            Attributes.parse(value)
