"""Parity with the reference implementations, closed forms and properties of the metrics."""

import contextlib
import io
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from animal_ldm.errors import InputError
from animal_ldm.evaluation.features import extract, load_extractor
from animal_ldm.evaluation.images import images_of_folder
from animal_ldm.evaluation.metrics import (
    density_coverage,
    fd_infinity,
    frechet_distance,
    frechet_distance_of_features,
    kernel_distance,
    mean_and_covariance,
    neighbourhoods,
    precision_recall,
)


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
        found.append(extract(images_of_folder(folder), extractor).numpy())
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
    assert found == pytest.approx(frechet_distance(*mean_and_covariance(real), *mean_and_covariance(fake)), rel=1e-6)


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
    mean, covariance = mean_and_covariance(features)
    np.testing.assert_allclose(mean, features.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-15)


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


def test_fd_infinity_takes_the_bias_away():
    """For equal distributions FD is nothing but bias: it falls with N, and the line meets 1/N = 0 near the floor that
    the finite real set leaves."""
    real, fake = gaussians(20000, 3000, 32, shift=0, scale=1)
    found = fd_infinity(real, fake)
    assert found.sizes == [300, 975, 1650, 2325, 3000]
    assert len(found.distances) == 5
    assert found.sizes[-1] == 3000
    assert found.slope > 0
    assert found.distances[-1] == pytest.approx(frechet_distance_of_features(real, fake))
    assert abs(found.value) < found.distances[-1] / 5
    assert found == fd_infinity(real, fake)


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
    script = tmp_path / "share.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from accelerate import PartialState
        from test_metrics import gaussians
        from animal_ldm.evaluation.metrics import neighbourhoods
        state = PartialState(cpu=True)
        assert state.num_processes == 2
        found = neighbourhoods(*gaussians(300, 250, 64), [3, 5], block=64, state=state)
        print(found, flush=True) if state.process_index == 1 else None
        state.destroy_process_group()
        """)
    )
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)],
        capture_output=True,
        timeout=120,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(neighbourhoods(*gaussians(300, 250, 64), [3, 5]))
