"""What stages get of the budget, from times that the tests choose."""

import dataclasses

import pytest

from animal_ldm.workflow.budget import Measured, allotment, card_reserve, photos_to_measure, samples_to_generate


def test_a_stage_gets_its_share_of_what_is_left_but_leaves_what_later_ones_need():
    assert allotment(120, 0, [15, 60, 25, 0], reserve=20) == pytest.approx(15)
    assert allotment(50, 0, [60, 15], reserve=5) == pytest.approx(45 * 60 / 75)
    assert allotment(3, 0, [10], reserve=5) == 0


def test_a_stage_that_is_begun_again_gets_the_rest_of_its_share():
    # of 100 seconds 80 were its own; 30 of them are spent, 10 more are lost
    assert allotment(100, 0, [80, 20], reserve=0) == pytest.approx(80)
    assert allotment(70, 30, [80, 20], reserve=0) == pytest.approx(50)
    assert allotment(20, 90, [80, 20], reserve=0) == 0


SPEED = Measured(sample=0.5, photo=0.05, reconstruction=0.1)


@pytest.mark.parametrize("overrun", [0.0, 60.0, 150.0])
def test_the_evaluation_absorbs_what_the_training_overran(overrun):
    """A run of 10 minutes whose training takes longer than planned; costs are those that the stages would measure."""
    reserve = card_reserve(imports=10.0, image_seconds=0.5, classes=4)
    left = 600.0 - allotment(600.0, 0, [55, 20], reserve) - overrun
    seconds = allotment(left, 0, [20], reserve)
    train, validation = photos_to_measure(seconds, SPEED, 12, 1000, 100)
    used = train * SPEED.photo + validation * (2 * SPEED.photo + SPEED.reconstruction) + 12 * 0.55
    rest = 4.0  # of the trial
    samples = samples_to_generate(seconds - used - rest, SPEED, rest, 12, 5000)
    used += rest + (samples - 12) * 0.55 + 1.2 * rest
    assert samples >= 12
    assert 600.0 - left + used + reserve <= 630.0
    if samples > 12:  # nothing is left over either
        assert 600.0 - left + used + reserve >= 570.0


def test_slow_photos_are_fewer_and_both_splits_keep_the_least():
    train, validation = photos_to_measure(100, SPEED, 12, 10_000, 1_000)
    assert train * 0.05 + validation * 0.2 == pytest.approx(35, abs=0.2) and validation * 0.2 < 18
    assert photos_to_measure(0.1, SPEED, 12, 10_000, 1_000) == (12, 12)
    assert photos_to_measure(1e9, SPEED, 12, 30, 14) == (30, 14)


def test_samples_are_as_many_as_there_is_time_for_and_settings_allow():
    slower = dataclasses.replace(SPEED, sample=1.0)
    fast, slow = (samples_to_generate(100, speed, 5.0, 12, 5000) for speed in (SPEED, slower))
    assert slow == 12 + int((100 - 10) / 1.05) < fast
    assert samples_to_generate(-5, SPEED, 5.0, 12, 5000) == 12
    assert samples_to_generate(1e9, SPEED, 5.0, 12, 500) == 500
