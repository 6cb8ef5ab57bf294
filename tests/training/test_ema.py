import numpy as np
import pytest
import torch

from animal_ldm.commands import ema
from animal_ldm.errors import InputError
from animal_ldm.training.ema import (
    EMA,
    SIGMA_RELS,
    PowerAverages,
    Profile,
    averaged_weights,
    exponent_of,
    products,
    reconstruct,
)


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


BATCH = 4


def power_average(values: torch.Tensor, sigma_rel: float) -> torch.Tensor:
    """Directly: value i holds from image i to i + 1 of (steps, ...), and counts as t^gamma does there."""
    exponent = exponent_of(sigma_rel) + 1
    ends = torch.linspace(0, 1, len(values) + 1, dtype=torch.float64) ** exponent
    return (ends.diff()[:, None] * values.double()).sum(0)


def path_of_weights(steps: int) -> torch.Tensor:
    """(steps, 3): weights that drift, decay and wander, as those in training do."""
    t = torch.linspace(0, 1, steps)[:, None]
    noise = torch.randn(steps, 1, generator=torch.Generator().manual_seed(0)).cumsum(0) / steps**0.5
    return torch.cat([1 - (-5 * t).exp(), 3 * t, noise], dim=1)


def trained(run, values: torch.Tensor, every: int) -> PowerAverages:
    """The averages over weights that take these values, with a snapshot every so many steps."""
    weight = torch.nn.Parameter(torch.zeros(values.shape[1]))
    averages = PowerAverages([("unet.weight", weight)])
    for step, value in enumerate(values, start=1):
        weight.data.copy_(value)
        averages.update(BATCH * step, BATCH)
        if step % every == 0:
            averages.save(run, BATCH * step)
    return averages


def test_power_averages_are_those_computed_directly(tmp_path):
    values = path_of_weights(1000)
    averages = trained(tmp_path, values, 1000)
    for sigma_rel in SIGMA_RELS:
        found = averages.averages[sigma_rel]["unet.weight"]
        torch.testing.assert_close(found.double(), power_average(values, sigma_rel), atol=2e-5, rtol=0)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.07, 0.10, 0.15, 0.20])
def test_reconstructed_average_is_that_computed_directly(tmp_path, sigma_rel):
    values = path_of_weights(1000)
    trained(tmp_path, values, 50)
    weights, found = averaged_weights(tmp_path, sigma_rel)
    assert found.error < 0.02
    direct = power_average(values, sigma_rel)
    torch.testing.assert_close(weights["unet.weight"].double(), direct, atol=3e-3, rtol=0)
    assert (direct - values[-1]).abs().max() > 0.03  # the average matters here
    early, _ = averaged_weights(tmp_path, sigma_rel, images_seen=BATCH * 500)
    torch.testing.assert_close(
        early["unet.weight"].double(), power_average(values[:500], sigma_rel), atol=1e-2, rtol=0
    )


def test_length_is_the_standard_deviation_of_the_weights():
    t = np.linspace(0, 1, 100_001)
    for sigma_rel in (0.03, 0.05, 0.1, 0.25):
        density = t ** exponent_of(sigma_rel)
        density /= density.sum()
        mean = (density * t).sum()
        assert (density * (t - mean) ** 2).sum() ** 0.5 == pytest.approx(sigma_rel, rel=1e-3)
    with pytest.raises(InputError, match="--sigma_rel must be above 0"):
        ema.main(["run", "--sigma_rel", "0.3", "--out", "other"])


def test_products_are_the_integrals():
    first, second = Profile(800, 0.05), Profile(1000, 0.12)
    t = np.linspace(0, 1000, 1_000_001)

    def density(profile: Profile) -> np.ndarray:
        exponent = exponent_of(profile.sigma_rel)
        inside = t <= profile.images_seen
        return np.where(inside, (exponent + 1) / profile.images_seen * (t / profile.images_seen) ** exponent, 0)

    assert products([first], [second])[0, 0] == pytest.approx(
        (density(first) * density(second)).mean() * 1000, rel=1e-4
    )
    found = reconstruct([first, second], second)
    assert found.weights == pytest.approx([0, 1], abs=1e-6)
    assert found.error == pytest.approx(0, abs=1e-6)


def test_power_averages_survive_a_checkpoint_to_the_last_bit(tmp_path):
    values = path_of_weights(20)
    whole = trained(tmp_path, values, 20)
    weight = torch.nn.Parameter(values[9].clone())
    resumed = PowerAverages([("unet.weight", weight)])
    torch.save(trained(tmp_path, values[:10], 10).state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step, value in enumerate(values[10:], start=11):
        weight.data.copy_(value)
        resumed.update(BATCH * step, BATCH)
    for sigma_rel in SIGMA_RELS:
        expected = whole.averages[sigma_rel]["unet.weight"]
        assert torch.equal(resumed.averages[sigma_rel]["unet.weight"], expected)


def test_a_run_without_snapshots(tmp_path):
    with pytest.raises(InputError, match="Train with --ema_snapshots_every"):
        averaged_weights(tmp_path, 0.07)
