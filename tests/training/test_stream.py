from collections import Counter

import numpy as np
import pytest
import torch

from animal_ldm.training.stream import ImageStream, own_rows, step_generator, step_seed

LABELS = ["lion"] * 7 + ["zebra"] * 3


@pytest.mark.parametrize("balanced", [False, True])
def test_any_stretch_is_a_window_of_the_same_stream(balanced):
    whole = ImageStream(LABELS, seed=1, balanced=balanced).indices(0, 100)
    for start, count in [(0, 1), (13, 40), (37, 63), (99, 1)]:
        assert np.array_equal(
            ImageStream(LABELS, seed=1, balanced=balanced).indices(start, count), whole[start : start + count]
        )


def test_every_epoch_shows_every_photo_once_in_a_new_order():
    stream = ImageStream(LABELS, seed=1)
    epochs = [stream.indices(10 * epoch, 10) for epoch in range(5)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_balanced_stream_shows_every_class_equally_and_no_photo_twice_before_its_classmates():
    chosen = ImageStream(LABELS, seed=1, balanced=True).indices(0, 42)
    assert Counter(LABELS[i] for i in chosen) == {"lion": 21, "zebra": 21}
    assert set(Counter(i for i in chosen if LABELS[i] == "lion").values()) == {3}
    assert set(Counter(i for i in chosen if LABELS[i] == "zebra").values()) == {7}


def test_seed_changes_the_order():
    first, second = (ImageStream(LABELS, seed=seed).indices(0, 10) for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_step_randomness_is_a_function_of_seed_position_and_stream():
    draw = torch.rand(4, generator=step_generator(1, 128))
    assert torch.equal(draw, torch.rand(4, generator=step_generator(1, 128)))
    assert not torch.equal(draw, torch.rand(4, generator=step_generator(1, 256)))
    assert not torch.equal(draw, torch.rand(4, generator=step_generator(2, 128)))
    assert step_seed(1, 128, 1) != step_seed(1, 128, 2)


def test_processes_and_accumulation_steps_cover_the_batch_once():
    for processes in (1, 2, 4):
        rows = [own_rows(24, 3, process, processes) for process in range(processes)]
        assert sorted(np.concatenate(rows, axis=None)) == list(range(24))
        # an accumulation step is on the same part of the batch for any number of processes
        assert all(set(part) <= set(range(8)) for part in (own[0] for own in rows))
