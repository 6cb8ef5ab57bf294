"""MIND, CMMD, the Vendi score and class coverage: closed forms, parity with the references, standard errors."""

import math

import numpy as np
import pytest
import torch

from animal_ldm.errors import InputError
from animal_ldm.evaluation.metrics import neighbourhoods
from animal_ldm.evaluation.newer_metrics import (
    class_coverage,
    cmmd,
    coverage,
    rows_of,
    sliced_wasserstein,
    vendi_score,
)
from animal_ldm.evaluation.resampling import jackknife
from tests.evaluation.test_metrics import gaussians, reference_prdc

# Sliced Wasserstein (MIND)


def test_sliced_wasserstein_of_a_shift_is_three_times_its_square():
    """On every projection the sorted sets differ by u.s alone, and D (u.s)^2 is |s|^2 on average."""
    features, _ = gaussians(300, 300, 16)
    shift = np.linspace(-1, 2, 16, dtype=np.float32)
    found = sliced_wasserstein(features, features + shift, projections=4000)
    assert found.value == pytest.approx(3 * float(np.square(shift).sum()), rel=0.05)
    assert sliced_wasserstein(features, features[::-1].copy()).value == 0


def test_sliced_wasserstein_of_one_dimension_is_exact():
    """Both directions are +-1: the sorted values alone matter."""
    real, fake = torch.tensor([[3.0], [0.0], [1.0]]), torch.tensor([[2.0], [7.0], [1.0]])
    expected = 3 * ((1 - 0) ** 2 + (2 - 1) ** 2 + (7 - 3) ** 2) / 3
    assert sliced_wasserstein(real, fake, projections=7).value == pytest.approx(expected, rel=1e-12)


def test_sliced_wasserstein_of_gaussians():
    """In the limit W2 of N(0, 1) and N(0, 4) is (2 - 1)^2 on every projection."""
    generator = torch.Generator().manual_seed(0)
    real, fake = (scale * torch.randn(20_000, 4, generator=generator) for scale in (1, 2))
    assert sliced_wasserstein(real, fake, projections=100).value == pytest.approx(3 * 4, rel=0.05)


def test_sliced_wasserstein_is_symmetric_and_keeps_its_digits_far_from_zero():
    real, fake = (x.astype(np.float64) for x in gaussians(200, 200, 12))
    found = sliced_wasserstein(real, fake)
    assert sliced_wasserstein(fake, real).value == pytest.approx(found.value, rel=1e-12)
    assert sliced_wasserstein(real + 1e6, fake + 1e6).value == pytest.approx(found.value, rel=1e-6)
    assert sliced_wasserstein(real, fake, seed=1).value != found.value


@pytest.mark.parametrize(("n", "m"), [(200, 200), (260, 200), (200, 260)])
def test_sliced_wasserstein_is_torch_fidelitys(n, m):
    metric_mind = pytest.importorskip("torch_fidelity.metric_mind", reason="torch-fidelity has it from 0.5 on")
    real, fake = gaussians(n, m, 24)
    expected = metric_mind.mind_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), mind_num_projections=500, rng_seed=3, cuda=False, verbose=False
    )
    found = sliced_wasserstein(real, fake, projections=500, seed=3)
    assert found.value == pytest.approx(expected["monge_inception_distance"], rel=1e-5)


# CMMD


def test_cmmd_is_its_definition():
    """Every pair by itself, on embeddings of length 1, pairs of a feature with itself included."""
    real, fake = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in gaussians(40, 30, 16))

    def mean(a, b):
        return np.exp(-np.square(a[:, None].astype(float) - b).sum(2) / 200).mean()

    expected = 1000 * (mean(real, real) + mean(fake, fake) - 2 * mean(real, fake))
    assert cmmd(real, 7 * fake).value == pytest.approx(expected, rel=1e-6)
    assert cmmd(real, real[::-1].copy()).value == pytest.approx(0, abs=1e-9)


def test_cmmd_of_two_directions():
    """All of one side on one axis, all of the other on another: 1000 (1 + 1 - 2 exp(-2 / 200))."""
    real, fake = torch.eye(3)[:1].repeat(5, 1), 4 * torch.eye(3)[1:2].repeat(9, 1)
    assert cmmd(real, fake).value == pytest.approx(2000 * (1 - math.exp(-0.01)), rel=1e-12)
    assert cmmd(real, fake).standard_error == pytest.approx(0, abs=1e-9)


# Vendi score


def test_vendi_score_counts_distinct_directions():
    axes = torch.eye(6, dtype=torch.float64)
    assert vendi_score(axes[:1].repeat(8, 1)).value == pytest.approx(1)
    assert vendi_score(axes).value == pytest.approx(6)
    assert vendi_score(axes * torch.arange(1, 7)[:, None]).value == pytest.approx(6)  # lengths do not matter
    shares = np.array([3, 2, 5]) / 10
    grouped = torch.cat([axes[i : i + 1].repeat(times, 1) for i, times in enumerate((3, 2, 5))])
    assert vendi_score(grouped).value == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize(("n", "dim"), [(50, 8), (8, 50)])
def test_vendi_score_is_the_entropy_of_the_kernels_eigenvalues(n, dim):
    features, _ = gaussians(n, n, dim)
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / n)
    eigenvalues = eigenvalues[eigenvalues > 1e-14]
    found = vendi_score(features)
    assert found.value == pytest.approx(math.exp(-(eigenvalues * np.log(eigenvalues)).sum()), rel=1e-9)
    assert 0 < found.standard_error < found.value


@pytest.mark.parametrize("measure", [vendi_score, lambda x: cmmd(x, x)])
def test_features_without_a_direction(measure):
    with pytest.raises(InputError, match=r"1 of 4 that are all zeros \(the first is row 2\)"):
        measure(torch.tensor([[1.0, 0], [0, 1], [0, 0], [1, 1]]))


# Coverage


@pytest.mark.parametrize("k", [1, 5])
def test_coverage_is_prdcs(k):
    real, fake = gaussians(120, 90, 12)
    [expected] = neighbourhoods(real, fake, [k])
    assert coverage(real, fake, k) == expected.coverage
    assert coverage(real, fake, k) == pytest.approx(reference_prdc(real, fake, k)["coverage"])


def test_class_coverage_is_that_of_the_class_alone():
    real, fake = (torch.from_numpy(x) for x in gaussians(80, 70, 6))
    labels = ["lion", "zebra"] * 40
    lions, samples, held_out = real[rows_of(labels, "lion")], fake[rows_of(labels[:70], "lion")], fake[:20]
    found = class_coverage(lions, samples, held_out, k=3)
    assert found.n == 20
    assert found.value == pytest.approx(reference_prdc(lions.numpy(), samples[:20].numpy(), 3)["coverage"])
    assert found.held_out == coverage(lions, held_out, 3)
    assert class_coverage(lions[:3], samples, held_out, k=3) is None
    assert class_coverage(lions, samples[:0], held_out, k=3) is None


# Standard errors


def test_standard_errors_are_the_spread_over_new_samples():
    generator = torch.Generator().manual_seed(0)

    def draw(n: int, scale: float) -> torch.Tensor:
        return (scale * torch.randn(n, 8, generator=generator) + 0.3).clamp_min(0) + 1e-3

    real, values, errors = draw(300, 1), [], []
    for _ in range(40):
        fake = draw(150, 1.2)
        found = [sliced_wasserstein(real, fake, 100), cmmd(real, fake), vendi_score(fake)]
        values.append([one.value for one in found])
        errors.append([one.standard_error for one in found])
    ratio = np.sqrt(np.square(errors).mean(0)) / np.std(values, axis=0, ddof=1)
    assert ((ratio > 0.6) & (ratio < 1.7)).all(), ratio


def test_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0)) * 3
    found = [
        jackknife(values, lambda x: {"mean": float(x.mean()), "constant": 1.0, "missing": None}, seed)
        for seed in range(20)
    ]
    rms = math.sqrt(np.mean([errors["mean"] ** 2 for errors in found]))
    assert rms == pytest.approx(3 / math.sqrt(2000), rel=0.2)
    assert (found[0]["constant"], found[0]["missing"]) == (0, None)
    assert jackknife(values[:19], lambda x: {"mean": float(x.mean())}, 0) == {}
