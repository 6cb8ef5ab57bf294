import numpy as np

from animal_ldm.pixels import to_model_range, to_uint8
from tests.training.conftest import random_pixels


def test_pixels_survive_the_way_to_the_model_and_back():
    pixels = random_pixels(3)
    assert np.array_equal(to_uint8(to_model_range(pixels)), pixels)
    images = to_model_range(pixels)
    assert images.shape == (3, 3, 16, 16) and images.min() >= -1 and images.max() <= 1
