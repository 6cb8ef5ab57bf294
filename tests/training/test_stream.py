from collections import Counter

import numpy as np
import pytest
import torch

from animal_ldm.training.stream import ImageStream, own_rows, step_generator, step_seed

LABELS = ["lion"] * 7 + ["zebra"] * 3


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_any_stretch_is_a_window_of_the_same_stream(balance):
    whole = ImageStream(LABELS, 1, balance).indices(0, 100)
    for start, count in [(0, 1), (13, 40), (37, 63), (99, 1)]:
        assert np.array_equal(ImageStream(LABELS, 1, balance).indices(start, count), whole[start : start + count])


def test_every_epoch_shows_every_photo_once_in_a_new_order():
    stream = ImageStream(LABELS, seed=1)
    epochs = [stream.indices(10 * epoch, 10) for epoch in range(5)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_balanced_stream_shows_every_class_equally_and_no_photo_twice_before_its_classmates():
    chosen = ImageStream(LABELS, seed=1, balance=1.0).indices(0, 210)
    assert Counter(LABELS[i] for i in chosen) == {"lion": 105, "zebra": 105}
    for name, photos in [("lion", 7), ("zebra", 3)]:
        own = [i for i in chosen if LABELS[i] == name]
        for start in range(0, len(own), photos):
            assert len(set(own[start : start + photos])) == photos


def test_half_balanced_classes_come_by_the_root_of_their_sizes():
    labels = ["ant"] * 900 + ["bee"] * 100 + ["cat"]
    chosen = Counter(labels[i] for i in ImageStream(labels, seed=1, balance=0.5).indices(0, 10_010))
    for name, root in [("ant", 30), ("bee", 10), ("cat", 1)]:
        assert chosen[name] == pytest.approx(10_010 * root / 41, abs=10)


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
