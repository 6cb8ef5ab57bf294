"""The screened search gives what brute force in float64 gives, wherever float32 alone would not."""

import pytest
import torch

from animal_ldm.errors import InputError
from animal_ldm.evaluation import neighbours
from animal_ldm.evaluation.neighbours import ball_counts, nearest, nearest_in_parts


def brute_force(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def features(kind: str, n: int = 200, dim: int = 48, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator)
    return {
        "gaussian": x,
        "far from zero": 1e4 + x,  # float32 products lose all that is left of the distances
        "tight clusters": 100 * torch.randn(4, dim, generator=generator)[torch.arange(n) % 4] + 1e-3 * x,
        "duplicates": x[torch.arange(n) // 20],
        "all the same": x[:1].expand(n, dim).clone(),
        "on a grid": x.mul(2).round(),  # many equal distances
    }[kind]


KINDS = ["gaussian", "far from zero", "tight clusters", "duplicates", "all the same", "on a grid"]
RANKS = [1, 3, 10]


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_within_a_set(kind):
    x = features(kind)
    expected = brute_force(x, x).fill_diagonal_(torch.inf).sort(1).values[:, [rank - 1 for rank in RANKS]]
    distances, index = nearest(x, x, RANKS, block=64)
    assert torch.equal(distances, expected)
    assert torch.equal(brute_force(x, x).gather(1, index), expected)
    assert not (index == torch.arange(len(x))[:, None]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_in_another_set(kind):
    x, y = features(kind), features(kind, n=70, seed=1)
    expected = brute_force(x, y).sort(1).values[:, [rank - 1 for rank in RANKS]]
    distances, index = nearest(x, y, RANKS, block=32)
    assert torch.equal(distances, expected)
    assert torch.equal(brute_force(x, y).gather(1, index), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_in_parts(kind, monkeypatch):
    """The last part holds fewer than the largest rank."""
    x, y = features(kind), features(kind, n=67, seed=1)
    expected = nearest(x, y, RANKS)[0]
    monkeypatch.setattr(neighbours, "PART", 30)
    distances, index = nearest_in_parts(x, y, RANKS)
    assert torch.equal(distances, expected)
    assert torch.equal(brute_force(x, y).gather(1, index), expected)
    # among all of its own set, the nearest to a feature but itself is the second
    assert torch.equal(nearest_in_parts(y[:9], y, [2])[0], nearest(y, y, [1])[0][:9])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", ["another draw", "the same features"])
def test_ball_counts(kind, other):
    real = features(kind)
    fake = features(kind, n=150, seed=1) if other == "another draw" else real.flip(0)
    distances = brute_force(real, fake)
    real_radii, fake_radii = (nearest(x, x, RANKS)[0] for x in (real, fake))
    counts = ball_counts(real, fake, real_radii, fake_radii, block=64)
    for found, r, f in zip(counts, real_radii.T, fake_radii.T, strict=True):
        assert found.fake_in_real == (distances <= r[:, None]).any(0).sum()
        assert found.real_in_fake == (distances <= f).any(1).sum()
        assert found.pairs_in_real == (distances < r[:, None]).sum()
        assert found.real_covered == (distances < r[:, None]).any(1).sum()


@pytest.mark.parametrize("block", [5, 64, 200, 4096])
def test_block_size_does_not_matter(block):
    x, y = features("tight clusters"), features("tight clusters", seed=1)
    radii = nearest(x, x, RANKS)[0]
    assert torch.equal(nearest(x, x, RANKS, block=block)[0], radii)
    assert ball_counts(x, y, radii, radii, block=block) == ball_counts(x, y, radii, radii)


def test_bounds_hold_in_reduced_matmul_precision():
    """A program around may have allowed TF32 or bfloat16 products; the bounds are for float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        x = features("gaussian", n=400)
        expected = brute_force(x, x).fill_diagonal_(torch.inf).sort(1).values[:, [2]]
        assert torch.equal(nearest(x, x, [3])[0], expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_few_pairs_are_measured_one_by_one(monkeypatch):
    """The screening is what makes it fast: on ordinary features float64 sees a few pairs per feature, not all."""
    measured = []
    measure = neighbours._measure
    monkeypatch.setattr(
        neighbours, "_measure", lambda a, b, i, j, scale: measured.append(len(i)) or measure(a, b, i, j, scale)
    )
    x = features("gaussian", n=1000, dim=256)
    nearest(x, x, [3, 10])
    assert sum(measured) < 5 * len(x)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e-25, 1.0, 1e17, 1e20, 1e37, 1e200])
def test_any_scale(scale):
    """Squares of most of these leave float32, of some float64; in float32 the largest features alone do not."""
    dtype = torch.float32 if 1e-30 <= scale <= 1e37 else torch.float64
    x, y = ((features("gaussian", seed=seed).double() * scale).to(dtype) for seed in (0, 1))
    unit = brute_force(x.double() / scale, x.double() / scale).fill_diagonal_(torch.inf).sort(1).values
    radii, other = nearest(x, x, RANKS)[0], nearest(y, y, RANKS)[0]
    torch.testing.assert_close(radii / scale, unit[:, [rank - 1 for rank in RANKS]], rtol=1e-12, atol=0)
    if 1e-100 < scale < 1e100:
        distances = brute_force(x, y)
        for found, r, f in zip(ball_counts(x, y, radii, other), radii.T, other.T, strict=True):
            assert found.fake_in_real == (distances <= r[:, None]).any(0).sum()
            assert found.real_in_fake == (distances <= f).any(1).sum()
            assert found.pairs_in_real == (distances < r[:, None]).sum()
    base = features("gaussian"), features("gaussian", seed=1)
    expected = ball_counts(*base, *(nearest(z, z, RANKS)[0] for z in base))
    assert ball_counts(x, y, radii, other) == expected


def test_small_features_beside_a_huge_one():
    """Scaling serves the largest; what float32 then loses of the others is measured."""
    x = features("gaussian").double() * 1e-30
    x[0] = 1e30
    expected = brute_force(x, x).fill_diagonal_(torch.inf).sort(1).values[1:, [rank - 1 for rank in RANKS]]
    assert torch.equal(nearest(x, x, RANKS)[0][1:], expected)


def test_too_large_is_refused():
    x = torch.full((5, 3), 1e301, dtype=torch.float64)
    with pytest.raises(InputError, match="at most 1e300"):
        nearest(x, x, [1])


def hard(kind: str, n: int, dim: int, seed: int) -> torch.Tensor:
    x = features("gaussian", n, dim, seed)
    far = 1e4 * features("gaussian", 4, dim, seed=9)[torch.arange(n) % 4]
    outlier = x.clone()
    outlier[0] = 1e7
    return {
        "identical": torch.ones_like(x),
        "clusters of identical": x[torch.arange(n) // 50],
        "far clusters": far + x,
        "outlier": outlier,
    }[kind]


@pytest.mark.parametrize("kind", ["identical", "clusters of identical", "far clusters", "outlier"])
def test_hard_features_are_not_measured_pair_by_pair(kind, monkeypatch):
    """Float64 products and the comparison of rows settle what float32 products leave open: else all pairs are."""
    measured, whole = [], []
    measure, distances = neighbours._measure, neighbours._Screen.measure_all
    monkeypatch.setattr(
        neighbours, "_measure", lambda a, b, i, j, s: measured.append(len(i)) or measure(a, b, i, j, s)
    )
    monkeypatch.setattr(
        neighbours._Screen, "measure_all", lambda self, *pairs: whole.append(1) or distances(self, *pairs)
    )
    x, y = (hard(kind, 400, 64, seed) for seed in (0, 1))
    x_radii, y_radii = nearest(x, x, [3, 10])[0], nearest(y, y, [3, 10])[0]
    (counts, _) = ball_counts(x, y, x_radii, y_radii)
    assert sum(measured) < 40 * len(x)  # of 480,000 pairs
    assert not whole
    expected = brute_force(x, y)
    assert torch.equal(x_radii, brute_force(x, x).fill_diagonal_(torch.inf).sort(1).values[:, [2, 9]])
    assert counts.fake_in_real == (expected <= x_radii[:, :1]).any(0).sum()
    assert counts.pairs_in_real == (expected < x_radii[:, :1]).sum()


@pytest.mark.parametrize("ranks", [[0], [-1], [2.0], [True], []])
def test_ranks_are_checked(ranks):
    x = features("gaussian")
    with pytest.raises(InputError, match=r"expected .*k, the number of nearest neighbours"):
        nearest(x, x, ranks)
