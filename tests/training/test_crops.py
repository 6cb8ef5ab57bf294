import numpy as np

from animal_ldm.training.crops import center_crop, random_crops
from animal_ldm.training.stream import step_generator
from tests.training.conftest import random_pixels


def test_crops_are_windows_of_their_photo_some_mirrored():
    pixels = random_pixels(40, size=10)
    crops = random_crops(pixels, np.arange(len(pixels)), 8, step_generator(1, 0))
    mirrored = 0
    for photo, crop in zip(pixels, crops, strict=True):
        windows = [photo[top : top + 8, left : left + 8] for top in range(3) for left in range(3)]
        assert any(np.array_equal(crop, window) or np.array_equal(crop, window[:, ::-1]) for window in windows)
        mirrored += any(np.array_equal(crop, window[:, ::-1]) for window in windows)
    assert 10 < mirrored < 30
    rows = np.array([3, 17])
    assert np.array_equal(random_crops(pixels, np.arange(40), 8, step_generator(1, 0), rows), crops[rows])
    assert np.array_equal(center_crop(pixels, 8), pixels[:, 1:9, 1:9])
