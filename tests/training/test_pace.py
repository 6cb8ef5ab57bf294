"""The length of a run from its minutes, with step times that the tests choose."""

import pytest

from animal_ldm.training.pace import MOST_BREAKS, Length, Pace, adjusted


def found_length(pace: Pace, cost: dict[bool, float], break_seconds: float):
    """Feed the pace a run whose steps take `cost[late]` seconds, the first five times as long."""
    steps, elapsed = 0, 0.0
    while True:
        seconds = cost[pace.late] * (5 if steps == 0 else 1) + (break_seconds if pace.at_break else 0)
        steps, elapsed = steps + 1, elapsed + seconds
        pace.add(seconds)
        if length := pace.length(steps, elapsed):
            return length, steps, elapsed


@pytest.mark.parametrize("late_share", [0.0, 0.4, 1.0])
def test_a_run_takes_its_minutes_whatever_its_late_steps_cost(late_share):
    cost = {False: 0.1, True: 0.25}
    length, steps, elapsed = found_length(Pace(2, late_share), cost, break_seconds=1.0)
    # what is left of the plain and the late steps after the trial, at their own cost, and the breaks to come
    mean = (1 - late_share) * cost[False] + late_share * cost[True]
    predicted = elapsed + (length.steps - steps) * mean + (length.breaks + 1) * length.break_seconds
    assert predicted == pytest.approx(120, rel=0.01)
    assert length.break_seconds == pytest.approx(1.0)
    assert elapsed < 0.15 * 120


def test_slow_breaks_are_fewer():
    cost = {False: 0.1, True: 0.1}
    assert found_length(Pace(10, 0.0), cost, break_seconds=1.0)[0].breaks == MOST_BREAKS
    assert found_length(Pace(10, 0.0), cost, break_seconds=20.0)[0].breaks == 4


def test_a_run_that_is_out_of_time_ends_after_one_more_step():
    length, steps, _ = found_length(Pace(0.001, 0.0), {False: 1.0}, break_seconds=5.0)
    assert (steps, length.steps, length.breaks) == (1, 2, 1)
    assert length.step_seconds == 5.0


def test_an_adjusted_run_ends_in_time_whatever_happened_before():
    length = Length(steps=1000, breaks=10, step_seconds=0.1, break_seconds=1.0)
    # half done, and twice as slow from here on: half of the rest fits
    slower = adjusted(length, 500, seconds=500 * 0.11 + 1.0, seconds_per_step=0.22)
    assert slower.steps == 750 and slower.spacing == length.spacing == 100  # the next break is as far as it was
    # more minutes than planned lengthen it; a run that is late ends with its next step
    assert adjusted(length, 500, 101.0, 0.1).steps == 1500
    assert adjusted(length, 500, -20.0, 0.1).steps == 501
