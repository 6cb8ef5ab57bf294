"""Parity with the reference implementations, closed forms and properties of the metrics."""

import contextlib
import io
import subprocess
import sys
import tempfile
import textwrap
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image

from animal_ldm.errors import InputError
from animal_ldm.evaluation import features, metrics
from animal_ldm.evaluation.extractors import load_extractor
from animal_ldm.evaluation.features import Measurer
from animal_ldm.evaluation.images import images_of_folder
from animal_ldm.evaluation.kernel_distance import kernel_distance
from animal_ldm.evaluation.metrics import (
    Gaussian,
    density_coverage,
    fd_infinity,
    fit_gaussian,
    frechet_distance,
    frechet_distance_of_features,
    frechet_distance_of_gaussians,
    moments,
    neighbourhoods,
    precision_recall,
)

from ..forked import exit_codes, fork_several


def gaussians(n: int, m: int, dim: int, shift: float = 0.1, scale: float = 1.05, seed: int = 0):
    """Two sets with unequal variances, a common mean far from zero and zeros, as pooled activations have."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(1, 0.05, dim)
    real = np.maximum(rng.normal(size=(n, dim)) * spread + 0.5, 0)
    fake = np.maximum(rng.normal(size=(m, dim)) * spread * scale + 0.5 + shift * spread, 0)
    return real.astype(np.float32), fake.astype(np.float32)


def reference_prdc(real, fake, k):
    import prdc

    with contextlib.redirect_stdout(io.StringIO()):
        return prdc.compute_prdc(real, fake, k)


@pytest.fixture(scope="module")
def network_features(tiny_resnet, tmp_path_factory):
    """What a network, if a small one, sees in pictures: (N, D) of coloured blobs, (M, D) of paler ones, float32.

    Unlike Gaussians they are rectified, skewed and strongly correlated.
    """
    rng = np.random.default_rng(0)
    extractor = load_extractor(str(tiny_resnet))
    found = []
    for name, n, contrast in (("real", 160, 110), ("fake", 130, 80)):
        folder = tmp_path_factory.mktemp(name)
        for i in range(n):
            coarse = np.clip(rng.normal(128, contrast, (4, 4, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png")
        found.append(Measurer(extractor).features(images_of_folder(folder)).numpy())
    return found


# Parity


def test_all_references_agree_on_a_networks_features(network_features):
    from cleanfid.fid import fid_from_feats
    from cleanfid.fid import kernel_distance as clean_kernel_distance
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = (x.astype(np.float64) for x in network_features)
    n, m = len(real), len(fake)
    for k in (3, 10):
        expected = reference_prdc(real, fake, k)
        (found,) = neighbourhoods(*network_features, [k])  # float32, as the report has them
        assert 0 < found.precision < 1
        assert 0 < found.recall < 1
        assert round(found.precision * m) == round(expected["precision"] * m)
        assert round(found.recall * n) == round(expected["recall"] * n)
        assert round(found.density * k * m) == round(expected["density"] * k * m)
        assert round(found.coverage * n) == round(expected["coverage"] * n)
        fidelity = calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real), neighborhood=k)
        assert (found.precision, found.recall) == pytest.approx(fidelity, abs=1e-7)

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        clean = fid_from_feats(real, fake)
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (fake, real)]
    found = frechet_distance_of_features(*network_features)
    assert found == pytest.approx(clean, rel=1e-6)
    assert found == pytest.approx(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID], rel=1e-6)

    found = kernel_distance(*network_features, subsets=10, subset_size=50, seed=3)
    tensors = torch.from_numpy(fake), torch.from_numpy(real)
    expected = kid_features_to_metric(*tensors, kid_subsets=10, kid_subset_size=50, rng_seed=3, verbose=False)
    assert found.mean == pytest.approx(expected[KEY_METRIC_KID_MEAN], rel=1e-6)
    whole = kernel_distance(real[:m], fake, subsets=1)
    assert whole.mean == pytest.approx(clean_kernel_distance(fake, real[:m], num_subsets=1), rel=1e-6)


def test_ties_are_torch_fidelitys_for_precision_and_prdcs_for_density():
    """On a grid most radii are met exactly: `<=` and prdc's strict `<` give other numbers for the same features."""
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    rng = np.random.default_rng(0)
    real, fake = (rng.integers(0, 4, (size, 5)).astype(np.float64) for size in (120, 90))
    (found,) = neighbourhoods(real, fake, [3])
    strict = reference_prdc(real, fake, 3)
    assert found.density == pytest.approx(strict["density"], rel=1e-12)
    assert found.coverage == pytest.approx(strict["coverage"], rel=1e-12)
    closed = calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real), neighborhood=3)
    assert (found.precision, found.recall) == pytest.approx(closed, abs=1e-7)
    assert found.precision > strict["precision"]
    assert found.recall > strict["recall"]


@pytest.mark.parametrize("k", [3, 5, 10])
@pytest.mark.parametrize(("n", "m", "dim"), [(700, 500, 64), (300, 450, 512)])
def test_counts_equal_those_of_prdc(n, m, dim, k):
    real, fake = gaussians(n, m, dim)
    expected = reference_prdc(real.astype(np.float64), fake.astype(np.float64), k)
    (found,) = neighbourhoods(real, fake, [k])
    # Without ties, prdc's strict `<` and Kynkaanniemi's `<=` agree.
    assert round(found.precision * m) == round(expected["precision"] * m)
    assert round(found.recall * n) == round(expected["recall"] * n)
    assert round(found.density * k * m) == round(expected["density"] * k * m)
    assert round(found.coverage * n) == round(expected["coverage"] * n)


@pytest.mark.parametrize("k", [3, 10])
def test_precision_and_recall_equal_those_of_torch_fidelity(k):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = (torch.from_numpy(x).double() for x in gaussians(600, 500, 96))
    expected = calculate_precision_recall_full(fake, real, neighborhood=k)  # generated first
    assert precision_recall(real, fake, k) == pytest.approx(expected, abs=1e-7)  # they average in float32


def test_closed_and_open_balls():
    """On ties Kynkaanniemi's balls hold their surface and Naeem's do not."""
    real = torch.tensor([[0.0], [1.0], [5.0]])
    fake = torch.tensor([[2.0], [100.0], [101.0]])  # 2 is 1 away from 1, whose radius is 1
    assert precision_recall(real, fake, k=1)[0] == pytest.approx(1 / 3)
    assert density_coverage(real, fake, k=1) == (1 / 3, 1 / 3)  # within the radius 4 of the real feature 5 alone


def test_kernel_distance_equals_torch_fidelity():
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    real, fake = (torch.from_numpy(x).double() for x in gaussians(400, 300, 64))
    expected = kid_features_to_metric(fake, real, kid_subsets=20, kid_subset_size=100, rng_seed=7, verbose=False)
    found = kernel_distance(real, fake, subsets=20, subset_size=100, seed=7)
    assert found.mean == pytest.approx(expected[KEY_METRIC_KID_MEAN], rel=1e-9)
    assert found.std == pytest.approx(expected[KEY_METRIC_KID_STD], rel=1e-9)


def test_kernel_distance_equals_clean_fid_on_whole_sets():
    from cleanfid.fid import kernel_distance as clean_fid

    real, fake = (x.astype(np.float64) for x in gaussians(200, 200, 64))
    found = kernel_distance(real, fake, subsets=1)
    assert found.mean == pytest.approx(clean_fid(fake, real, num_subsets=1), rel=1e-9)
    assert found.subset_size == 200


@pytest.mark.parametrize(("n", "m"), [(900, 700), (150, 900), (150, 120)])  # D = 256: both, one and no full rank
def test_frechet_distance_equals_clean_fid_and_torch_fidelity(n, m):
    from cleanfid.fid import fid_from_feats
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    real, fake = (x.astype(np.float64) for x in gaussians(n, m, 256))
    found = frechet_distance_of_features(real, fake)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        clean = fid_from_feats(real, fake)
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (fake, real)]
    fidelity = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert found == pytest.approx(clean, rel=1e-6)
    assert found == pytest.approx(fidelity, rel=1e-6)
    of_real, of_fake = moments(real), moments(fake)
    covariances = frechet_distance(of_real.mean, of_real.covariance, of_fake.mean, of_fake.covariance)
    assert found == pytest.approx(covariances, rel=1e-6)


def test_frechet_distance_of_ill_conditioned_gaussians():
    """Standard deviations over eight orders of magnitude: squaring them leaves float64."""
    a, b = (torch.diag(torch.logspace(0, -16, 64, dtype=torch.float64)) * scale for scale in (1.0, 1.21))
    expected = (a.diag().sqrt() - b.diag().sqrt()).square().sum()  # commuting covariances
    mean = torch.zeros(64)
    assert frechet_distance(mean, a, mean, b) == pytest.approx(float(expected), rel=1e-9)


# Convention


def test_collapsed_and_wide_generators():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(500, 16, generator=generator)
    collapsed = 0.01 * torch.randn(500, 16, generator=generator)
    wide = 100 * torch.randn(500, 16, generator=generator)
    assert precision_recall(real, collapsed, k=3) == (1, 0)
    assert precision_recall(real, wide, k=3) == (0, 1)


# Closed forms and properties


def test_frechet_distance_closed_form():
    mean1, mean2 = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 6.0])
    covariance1, covariance2 = torch.diag(torch.tensor([4.0, 9.0])), torch.diag(torch.tensor([1.0, 25.0]))
    assert frechet_distance(mean1, covariance1, mean2, covariance2) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 5) ** 2)


def test_covariance_is_numpys():
    features = gaussians(500, 1, 300)[0]
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("mean", [0, 1e4])
def test_moments_of_parts_are_those_of_the_whole(monkeypatch, mean):
    """Sums of squares would lose seven digits at a mean of 1e4."""
    features = torch.from_numpy(gaussians(1000, 1, 24)[0]).double() + mean
    whole = moments(features)
    monkeypatch.setattr(metrics, "ROWS", 300)
    merged = moments(features)
    assert merged.number == 1000
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-10, atol=1e-10 * whole.covariance.max())
    other = fit_gaussian(torch.from_numpy(gaussians(1, 500, 24)[1]).double() + mean)
    distance = frechet_distance_of_gaussians(whole.gaussian(), other)
    assert frechet_distance_of_gaussians(merged.gaussian(), other) == pytest.approx(distance, rel=1e-10)


def test_equal_sets():
    real = torch.from_numpy(gaussians(300, 1, 64)[0])
    (found,) = neighbourhoods(real, real.clone(), [5])
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert frechet_distance_of_features(real, real.clone()) == pytest.approx(0, abs=1e-9)
    assert kernel_distance(real, real.clone(), subsets=5, subset_size=300).mean < 0  # unbiased, so below 0 here


def test_same_distribution_has_no_kernel_distance_and_the_known_coverage():
    real, fake = gaussians(2000, 2000, 16, shift=0, scale=1)
    found = kernel_distance(real, fake, subsets=50, subset_size=500)
    assert abs(found.mean) < found.std
    n, k = 2000, 5
    expected = 1 - np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)])  # Naeem et al., appendix
    assert density_coverage(real, fake, k)[1] == pytest.approx(expected, abs=0.02)


def test_symmetry():
    real, fake = gaussians(300, 400, 64)
    assert frechet_distance_of_features(real, fake) == pytest.approx(frechet_distance_of_features(fake, real))
    assert precision_recall(real, fake, 3) == precision_recall(fake, real, 3)[::-1]


def test_order_of_features_does_not_matter():
    real, fake = gaussians(300, 250, 64)
    rng = np.random.default_rng(1)
    shuffled = real[rng.permutation(len(real))], fake[rng.permutation(len(fake))]
    assert neighbourhoods(real, fake, [3, 5]) == neighbourhoods(*shuffled, [3, 5])
    assert frechet_distance_of_features(real, fake) == pytest.approx(frechet_distance_of_features(*shuffled), rel=1e-9)


def test_distances_grow_with_a_shift():
    found = [
        (frechet_distance_of_features(real, fake), kernel_distance(real, fake, subsets=10, subset_size=200).mean)
        for real, fake in (gaussians(400, 400, 32, shift=shift) for shift in (0, 0.5, 1, 2))
    ]
    assert found == sorted(found)
    assert [kernel for _, kernel in found] == sorted(kernel for _, kernel in found)


def test_float32_and_float64_features_agree():
    real, fake = gaussians(300, 250, 128)
    double = real.astype(np.float64), fake.astype(np.float64)
    assert neighbourhoods(real, fake, [3, 5]) == neighbourhoods(*double, [3, 5])
    assert frechet_distance_of_features(real, fake) == pytest.approx(frechet_distance_of_features(*double), rel=1e-12)
    assert kernel_distance(real, fake, subsets=2) == kernel_distance(*double, subsets=2)


def test_kernel_distance_repeats_with_its_seed():
    real, fake = gaussians(300, 250, 32)
    first, again, other = (kernel_distance(real, fake, 5, 100, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.mean != other.mean


def gaussian_samples(dim: int, n_real: int, fake_scale: float = 1.0):
    """Gaussians with the spectrum 1/i: the real one fitted to photos, how to sample the other, the true distance."""
    rng = np.random.default_rng(0)
    deviations = 1 / np.sqrt(np.arange(1, dim + 1))
    deviations *= np.sqrt(dim / (deviations**2).sum())
    real = fit_gaussian(rng.normal(size=(n_real, dim)) * deviations)
    true = Gaussian(torch.zeros(dim, dtype=torch.float64), torch.from_numpy(np.diag(fake_scale * deviations)))
    sample = lambda n, seed: np.random.default_rng(seed).normal(size=(n, dim)) * deviations * fake_scale  # noqa: E731
    return real, sample, frechet_distance_of_gaussians(real, true)


def test_fd_infinity_takes_the_bias_away():
    """For equal distributions FD is nothing but bias: it falls with N, and the curve meets 1/N = 0 near the floor that
    the finite real set leaves."""
    real, sample, floor = gaussian_samples(32, 20000)
    fake = sample(3000, 1)
    found = fd_infinity(real, fake)
    assert found.sizes == [300, 975, 1650, 2325, 3000]
    assert len(found.distances) == 5
    assert found.value is not None and found.slope is not None and found.standard_error is not None
    assert found.slope > 0
    assert found.note is None
    assert found.distances[-1] == pytest.approx(frechet_distance_of_gaussians(real, fit_gaussian(fake)))
    assert abs(found.value - floor) < 3 * found.standard_error < found.distances[-1]
    assert found == fd_infinity(real, fake)
    assert found != fd_infinity(real, fake, seed=1)


@pytest.mark.parametrize("fake_scale", [1.0, 1.3])
@pytest.mark.parametrize("ratio", [4, 10])
def test_fd_infinity_and_its_standard_error(ratio, fake_scale):
    """The mean of many is the truth, and they scatter as their standard errors say. A line is off by far more."""
    real, sample, truth = gaussian_samples(48, 960, fake_scale)
    found = [fd_infinity(real, sample(ratio * 48, seed), seed=seed) for seed in range(1, 21)]
    deviations = np.array([curve.value for curve in found]) - truth
    errors = np.array([curve.standard_error for curve in found])
    assert (abs(deviations) < 2 * errors).mean() >= 0.8
    assert (abs(deviations) < 3.5 * errors).all()
    assert abs(deviations.mean()) < errors.mean()
    assert 0.4 < deviations.std() / errors.mean() < 1.4


@pytest.mark.parametrize("n", [3, 29, 48, 103, 191])  # D = 48
def test_fd_infinity_is_not_measured_on_few_samples(n):
    """Where a straight line over 1/N once gave 119 and 6.4 for a truth of 2.7."""
    real, sample, _ = gaussian_samples(48, 960)
    found = fd_infinity(real, sample(n, 1))
    assert (found.value, found.slope, found.curvature, found.standard_error) == (None,) * 4
    assert found.note is not None and found.note.startswith(f"not measured: {n} samples")
    assert "192 samples or more" in found.note
    assert found.sizes[-1] == n
    assert len(found.sizes) == len(found.distances)
    assert np.isfinite(found.distances).all()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("n", "dim"), [(40, 8), (100, 100), (30, 64)])
def test_permuted_equal_sets_are_not_below_zero_apart(n, dim, seed):
    real = gaussians(n, 1, dim, seed=seed)[0]
    permuted = real[np.random.default_rng(seed).permutation(n)]
    found = frechet_distance_of_features(real, permuted), frechet_distance_of_features(permuted, real)
    assert min(found) >= 0
    assert found == pytest.approx((0, 0), abs=1e-8)


def test_a_distance_below_zero_beyond_rounding_is_not_hidden(monkeypatch):
    real = torch.from_numpy(gaussians(100, 1, 8)[0])
    norm = metrics._nuclear_norm
    monkeypatch.setattr(metrics, "_nuclear_norm", lambda matrix: (norm(matrix)[0] * (1 + 1e-6), norm(matrix)[1]))
    assert frechet_distance_of_features(real, real) < 0


def exact_kernel_distance(real, fake):
    """Of whole sets, in rational numbers."""
    x, y = ([[Fraction(float(v)) for v in row] for row in features] for features in (fake, real))
    kernel = lambda a, b: (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3  # noqa: E731
    within = [sum(kernel(a, b) for a in z for b in z if a is not b) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(sum(within) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y)))


@pytest.mark.parametrize("mean", [0, 1, 1e4, 1e8])
@pytest.mark.parametrize("shift", [0, 1.5])
def test_kernel_distance_far_from_zero(mean, shift):
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(12, 5)) + mean, rng.normal(size=(12, 5)) + mean + shift
    found = kernel_distance(real, fake, subsets=1)
    assert found.mean == pytest.approx(exact_kernel_distance(real, fake), rel=1e-9)


@pytest.mark.parametrize(("subset_size", "subsets"), [(60, 4), (25, 40)])
@pytest.mark.parametrize("shift", [0, 0.3])
def test_standard_error_of_the_kernel_distance_covers(shift, subset_size, subsets):
    """Also where the subsets are the whole sets, so that their spread is nothing."""
    found = [
        kernel_distance(*gaussians(60, 60, 16, shift, 1, seed), subsets=subsets, subset_size=subset_size)
        for seed in range(40)
    ]
    truth = 0 if shift == 0 else kernel_distance(*gaussians(2000, 2000, 16, shift, 1, 999), 1, 2000).mean
    deviations = np.array([kernel.mean - truth for kernel in found])
    errors = np.array([kernel.standard_error for kernel in found])
    assert (abs(deviations) < 2 * errors).mean() >= 0.85
    assert 0.5 < deviations.std() / errors.mean() < 1.25
    for kernel in found:
        if subset_size == 60:
            assert kernel.std == 0
            assert kernel.note == "no spread over subsets: each of them holds all 60 features"
        else:
            assert kernel.std > 0
            assert kernel.note is None


def test_no_standard_error_from_a_few_features():
    found = kernel_distance(*gaussians(9, 30, 16))
    assert found.standard_error is None
    assert found.note == "no standard error: it needs 10 features on both sides, found 9"


# Refusals


@pytest.mark.parametrize("metric", [precision_recall, density_coverage, frechet_distance_of_features, kernel_distance])
def test_nan_is_refused(metric):
    real, fake = gaussians(50, 50, 8)
    fake[7, 3] = np.nan
    with pytest.raises(InputError, match=r"NaN or infinity in 1 of 50 rows .*row 7"):
        metric(real, fake)


def test_k_needs_more_than_k_features():
    real, fake = gaussians(50, 3, 8)
    with pytest.raises(InputError, match="more than 3 features"):
        precision_recall(real, fake, k=3)
    precision_recall(real, fake, k=2)


def test_integers_are_refused():
    with pytest.raises(InputError, match="float32 or float64"):
        precision_recall(torch.zeros(10, 3, dtype=torch.int64), torch.zeros(10, 3))


@pytest.mark.parametrize("k", [0, -1, 3.0, np.float64(3), True, "3", None])
def test_k_is_a_whole_number_of_at_least_one(k):
    real, fake = gaussians(50, 50, 8)
    for metric in (precision_recall, density_coverage):
        with pytest.raises(InputError, match="whole number of at least 1, found"):
            metric(real, fake, k)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_k_of_numpys_types(kind):
    real, fake = gaussians(50, 50, 8)
    assert precision_recall(real, fake, kind(3)) == precision_recall(real, fake, 3)
    (found,) = neighbourhoods(real, fake, list(np.array([3], dtype=kind)))
    assert type(found.k) is int


def test_no_k_is_refused():
    with pytest.raises(InputError, match="at least one k"):
        neighbourhoods(*gaussians(50, 50, 8), [])


@pytest.mark.parametrize(
    "metric", [precision_recall, density_coverage, frechet_distance_of_features, kernel_distance, fd_infinity]
)
def test_features_of_unequal_length_are_refused(metric):
    with pytest.raises(InputError, match="same length, found 8 and 9"):
        metric(gaussians(50, 1, 8)[0], gaussians(50, 1, 9)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsets": 0}, "subsets to be a whole number of at least 1, found 0"),
        ({"subsets": 2.5}, "subsets to be a whole number"),
        ({"subset_size": 1}, "subset_size to be a whole number of at least 2, found 1"),
    ],
)
def test_subsets_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        kernel_distance(*gaussians(50, 50, 8), **options)


def test_a_kernel_beyond_float64_is_refused():
    real, fake = (1e60 * x.astype(np.float64) for x in gaussians(50, 50, 8))
    with pytest.raises(InputError, match="third powers fit"):
        kernel_distance(real, fake)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_samples_are_not_extrapolated_from(n):
    real, fake = gaussians(50, n, 8)
    with pytest.raises(InputError, match=f"at least 3 generated features to extrapolate from, found {n}"):
        fd_infinity(real, fake)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        ([[1.0, 0.5], [0.2, 1.0]], "symmetric covariance of the second"),
        ([[1.0, 2.0], [2.0, 1.0]], "without negative eigenvalues, found -1"),
        ([[1.0, np.nan], [np.nan, 1.0]], "found NaN or infinity"),
        ([[1.0, 0.0]], r"found shapes \(2,\) and \(1, 2\)"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance, message):
    mean = torch.zeros(2)
    with pytest.raises(InputError, match=message):
        frechet_distance(mean, torch.eye(2), mean, torch.tensor(covariance, dtype=torch.float64))


def test_singular_and_float32_covariances_are_taken():
    """Their eigenvalues lie below 0 by rounding alone."""
    features = gaussians(20, 1, 64)[0]
    found = moments(features)
    mean, covariance = found.mean, found.covariance
    assert frechet_distance(mean, covariance.float(), mean, covariance) == pytest.approx(0, abs=1e-3)


# Scale


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as Linux tells it")
def test_memory_is_that_of_a_block_not_of_all_distances():
    """7,000 x 7,000 distances take 187 MiB in float32."""
    script = """
        from pathlib import Path
        import torch
        from animal_ldm.evaluation.metrics import neighbourhoods
        def memory(field):
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
        generator = torch.Generator().manual_seed(0)
        real, fake = (torch.randn(7_000, 8, generator=generator) for _ in range(2))
        neighbourhoods(real[:2000], fake[:2000], [3])  # what libraries set up once
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        neighbourhoods(real, fake, [3])
        print(memory("VmHWM") - before)
        """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 90


# Several processes


def test_two_processes_count_the_same(tmp_path):
    real, fake = gaussians(300, 251, 64)

    def share() -> None:
        state = PartialState(cpu=True)
        assert state.num_processes == 2
        found = neighbourhoods(real, fake, [3, 5], block=64, state=state)
        own, alone = moments(fake, state), moments(fake)
        assert own.number == 251 and abs(own.mean - alone.mean).max() < 1e-14
        assert abs(own.covariance - alone.covariance).max() < 1e-12 * alone.covariance.max()
        features.GATHERED, got = 7, []
        rows = features._Rows(len(fake), got.append, state)
        for part in torch.tensor(fake[state.process_index :: 2]).split(5):
            rows.add(part)
        rows.finish()
        assert torch.equal(torch.cat(got), torch.tensor(fake))
        if state.process_index == 1:
            (tmp_path / "found").write_text(str(found))
        state.destroy_process_group()

    with tempfile.TemporaryFile() as output:
        codes = exit_codes(fork_several(share, 2, output))
        output.seek(0)
        printed = output.read().decode()
    assert codes == [0, 0], printed
    assert (tmp_path / "found").read_text() == str(neighbourhoods(real, fake, [3, 5]))
