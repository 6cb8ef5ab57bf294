import pytest
import torch

from animal_ldm.training.ema import EMA


def test_half_life_is_counted_in_images():
    weight = torch.nn.Parameter(torch.zeros(3))
    ema = EMA([weight], half_life=100, ramp_up=1e9)
    with torch.no_grad():
        weight.fill_(1.0)
    for step in range(10):
        ema.update(images_seen=10 * (step + 1), batch_size=10)
    torch.testing.assert_close(ema.average[0], torch.full((3,), 0.5))


def test_start_of_a_run_does_not_linger():
    weight = torch.nn.Parameter(torch.zeros(1))
    ema = EMA([weight], half_life=1e6)
    with torch.no_grad():
        weight.fill_(1.0)
    for step in range(20):
        ema.update(images_seen=10 * (step + 1), batch_size=10)
    assert ema.average[0].item() > 0.99


def test_live_weights_come_back_even_after_an_error():
    weight = torch.nn.Parameter(torch.zeros(2))
    ema = EMA([weight], half_life=100)
    with torch.no_grad():
        weight.fill_(3.0)
    with ema.swapped_in():
        assert torch.equal(weight.data, torch.zeros(2))
    assert torch.equal(weight.data, torch.full((2,), 3.0))
    with pytest.raises(RuntimeError), ema.swapped_in():
        raise RuntimeError
    assert torch.equal(weight.data, torch.full((2,), 3.0))
