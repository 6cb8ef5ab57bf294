"""Distances between two sets of image features: Frechet, precision and recall, density and coverage.

Pure functions. Everywhere `real` comes first and `fake` (generated) second: (N, D) and (M, D) tensors or arrays of
float32 or float64. All sums are in float64. Every input is checked before any work, and an `InputError` says what was
expected, what was found and what to do.

Standard errors are infinitesimal jackknives (Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans,
chapter 6): the derivative of the whole estimate, subsets included, with respect to each feature's weight. Near a
distance of 0 they are up to 1.4 times too large; far from it, two of them cover the truth in 9 cases of 10.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from accelerate import PartialState

from ..errors import InputError
from .neighbours import BLOCK, ball_counts, check_ranks, from_all, nearest

Features = torch.Tensor | np.ndarray

ROWS = 1 << 14  # features read at a time


def as_features(features: Features) -> torch.Tensor:
    """`features` as a (N, D) tensor of float32 or float64.

    Raises:
        InputError: another shape or type, no rows, or values that are not finite.
    """
    features = torch.as_tensor(features)
    if features.ndim != 2 or not len(features) or features.dtype not in (torch.float32, torch.float64):
        raise InputError(
            "expected features of shape (N, D) in float32 or float64, "
            f"found {tuple(features.shape)} in {str(features.dtype).removeprefix('torch.')}"
        )
    # In parts: of features that are mapped into memory, only some are there.
    finite = torch.cat([torch.isfinite(rows).all(1) for rows in features.split(ROWS)])
    if not finite.all():
        raise InputError(
            f"expected finite features, found NaN or infinity in {int((~finite).sum())} of {len(features)} rows "
            f"(the first is row {int((~finite).nonzero()[0])}); check those images and the extractor"
        )
    return features


def as_pair(real: Features, fake: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sets by `as_features`.

    Raises:
        InputError: see `as_features`, or the two sets have features of different lengths.
    """
    real, fake = as_features(real), as_features(fake)
    _check_lengths(real.shape[1], fake.shape[1])
    return real, fake


def _check_lengths(real: int, fake: int) -> None:
    if real != fake:
        raise InputError(
            f"expected real and generated features of the same length, found {real} and {fake} numbers per image; "
            "extract both with the same extractor"
        )


def check_count(name: str, value: object, least: int) -> int:
    """`value` as an int; floats and booleans are refused."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"expected {name} to be a whole number of at least {least}, found {value!r}")
    return int(value)


# Frechet distance: Dowson and Landau 1982; as FID, Heusel et al. 2017, arXiv 1706.08500, equation 6.
# tr (S1 S2)^1/2 is the sum of the singular values of R1 R2^T for any roots R^T R = S: no matrix root is ever taken.


@dataclass(frozen=True)
class Moments:
    """Number, mean (D,) and scatter (D, D) of features, in float64: two of them make those of both sets.

    The scatter is the sum of the products of deviations from the mean. Merging is that of Chan, Golub and LeVeque
    1983 (Algorithms for Computing the Sample Variance, equation 2.1): it does not cancel, as sums of squares do.
    """

    number: int
    mean: torch.Tensor
    scatter: torch.Tensor

    @property
    def covariance(self) -> torch.Tensor:
        """Unbiased, (D, D); 0 for a single feature."""
        return self.scatter / max(1, self.number - 1)

    def merged(self, other: "Moments") -> "Moments":
        number, step = self.number + other.number, other.mean - self.mean
        mean = self.mean + step * (other.number / number)
        spread = torch.outer(step, step) * (self.number * other.number / number)
        return Moments(number, mean, self.scatter + other.scatter + spread)

    def gaussian(self) -> "Gaussian":
        return Gaussian(self.mean, _root(self.covariance))


def moments(features: Features, state: PartialState | None = None) -> Moments:
    """The moments of (N, D) features, read once and a part at a time: they may be mapped into memory.

    Args:
        state: accelerate's state, when every process makes this call, N is at least their number, and each shall read
            its share.
    """
    features = torch.as_tensor(features)
    if state is not None:
        own = _moments(features.tensor_split(state.num_processes)[state.process_index])
        packed = torch.cat([own.mean.new_full((1, len(own.mean)), own.number), own.mean[None], own.scatter])
        parts = from_all(packed, state)
        return reduce(Moments.merged, (Moments(int(part[0, 0]), part[1], part[2:]) for part in parts))
    return _moments(features)


def _moments(features: torch.Tensor) -> Moments:
    return reduce(Moments.merged, map(_moments_at_once, features.split(ROWS)))


def _moments_at_once(features: torch.Tensor) -> Moments:
    features = as_features(features)
    mean = features.mean(0, dtype=torch.float64)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for rows in features.split(1024):
        rows = rows.double() - mean
        for start in range(0, len(mean), 512):  # the lower triangle, for half the work
            scatter[start:, start : start + 512].addmm_(rows[:, start:].T, rows[:, start : start + 512])
    return Moments(len(features), mean, scatter.tril() + scatter.tril(-1).T)


@dataclass(frozen=True)
class Gaussian:
    """The Gaussian fitted to a set of features: its mean (D,) and a root R (r, D) of its covariance, R^T R = S."""

    mean: torch.Tensor
    root: torch.Tensor


def fit_gaussian(features: Features) -> Gaussian:
    """The Gaussian with the mean and the unbiased covariance of (N, D) features.

    With N <= D no (D, D) matrix is formed: the centred features are a root already.
    """
    features = as_features(features)
    if len(features) > features.shape[1]:
        return moments(features).gaussian()
    mean = features.mean(0, dtype=torch.float64)
    return Gaussian(mean, (features.double() - mean) / max(1, len(features) - 1) ** 0.5)


def frechet_distance(mean1: Features, covariance1: Features, mean2: Features, covariance2: Features) -> float:
    """Squared Frechet distance of two Gaussians: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2).

    Args:
        mean1, mean2: (D,).
        covariance1, covariance2: (D, D), symmetric and positive semi-definite.

    Returns:
        The distance in squared feature units, at least 0. It is symmetric in the two Gaussians.

    Raises:
        InputError: shapes that do not fit, or a covariance that is not finite, not symmetric or has a negative
            eigenvalue, beyond the rounding error of its type.
    """
    real, fake = checked_gaussian(mean1, covariance1, "first"), checked_gaussian(mean2, covariance2, "second")
    return frechet_distance_of_gaussians(real, fake)


def checked_gaussian(mean: Features, covariance: Features, which: str) -> Gaussian:
    """The Gaussian of a mean (D,) and a covariance (D, D); see `frechet_distance` for what is refused."""
    mean, covariance = torch.as_tensor(mean), torch.as_tensor(covariance)
    size = len(mean) if mean.ndim == 1 else 0
    if not size or covariance.shape != (size, size):
        raise InputError(
            f"expected a mean (D,) and a covariance (D, D) of the {which} Gaussian, found shapes "
            f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        )
    types = [x.dtype for x in (mean, covariance) if x.is_floating_point()]
    precision = max((torch.finfo(dtype).eps for dtype in types), default=torch.finfo(torch.float64).eps)
    mean, covariance = mean.double(), covariance.double()
    if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
        raise InputError(
            f"expected a finite mean and covariance of the {which} Gaussian, found NaN or infinity; "
            "compute them anew from finite features"
        )
    tolerance = 8 * size * precision * float(covariance.abs().max())
    if (asymmetry := float((covariance - covariance.T).abs().max())) > tolerance:
        raise InputError(
            f"expected a symmetric covariance of the {which} Gaussian, found elements that differ from their "
            f"transposed ones by up to {asymmetry:.3g}; is it a covariance, rows and columns in the same order?"
        )
    covariance = (covariance + covariance.T) / 2
    if torch.linalg.cholesky_ex(covariance)[1] and (least := float(torch.linalg.eigvalsh(covariance)[0])) < -tolerance:
        raise InputError(
            f"expected a covariance of the {which} Gaussian without negative eigenvalues, found {least:.3g}; "
            "compute it from features, in float64"
        )
    return Gaussian(mean, _root(covariance))


def frechet_distance_of_gaussians(real: Gaussian, fake: Gaussian) -> float:
    """`frechet_distance`, from the roots.

    Raises:
        InputError: the Gaussians have different numbers of dimensions.
    """
    _check_lengths(len(real.mean), len(fake.mean))
    traces = float(real.root.square().sum() + fake.root.square().sum())
    norm, error = _nuclear_norm(real.root @ fake.root.T)
    distance = float((real.mean - fake.mean).square().sum()) + traces - 2 * norm
    # Of exact arithmetic on these roots no negative number comes. Rounding alone reaches down to this bound; anything
    # below it would be a mistake of this program, and stays visible.
    bound = 2 * error + torch.finfo(torch.float64).eps * len(real.mean) * traces
    return 0.0 if -bound <= distance < 0 else distance


def frechet_distance_of_features(real: Features, fake: Features) -> float:
    """`frechet_distance` of the Gaussians fitted to (N, D) and (M, D) features.

    Its bias is about a / M for M generated features. Compare distances at equal N and M only.

    Raises:
        InputError: see `as_pair`.
    """
    real, fake = as_pair(real, fake)
    return frechet_distance_of_gaussians(fit_gaussian(real), fit_gaussian(fake))


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """R with R^T R = S; by eigenvalues where S is singular."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return lower.T
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return eigenvalues.clamp(min=0).sqrt()[:, None] * vectors.T


def _nuclear_norm(matrix: torch.Tensor) -> tuple[float, float]:
    """Sum of the singular values, through the eigenvalues of the smaller Gram matrix where those are sure enough.

    Also returns the size of its rounding error.
    """
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    total, error = _sum_of_roots(torch.linalg.eigvalsh(gram))
    if error <= SURE_ENOUGH * total:
        return total, error
    singular_values = torch.linalg.svdvals(matrix)
    error = 4 * torch.finfo(torch.float64).eps * len(singular_values) * singular_values[0]
    return float(singular_values.sum()), float(error)


SURE_ENOUGH = 1e-9  # relative error of a sum of roots of eigenvalues


def _sum_of_roots(eigenvalues: torch.Tensor) -> tuple[float, float]:
    """Sum of the square roots of computed eigenvalues, ascending, and the size of its rounding error."""
    eigenvalues = eigenvalues.clamp(min=0)
    # Eigenvalues err by about this much, and the root blows the error of a small one up. Singular values do not.
    noise = 4 * torch.finfo(torch.float64).eps * eigenvalues[-1]
    error = (noise / (eigenvalues + noise).sqrt()).sum() if noise > 0 else eigenvalues.sum()
    return float(eigenvalues.sqrt().sum()), float(error)


# The extrapolation over 1/N. With M <= D features the covariance is singular and the distance no low power of 1/M.
# Just above, the series in 1/M converges slowly. Simulated for D = 64 to 512 (spectrum 1/i) and 256
# (flat), equal and unequal distributions: from M = 4 D on, a parabola stays within three of its standard errors of the
# truth. A straight line over sizes from 1.5 D misses it by three to ten of its own, at 3 D and still at 5 D.
LEAST_RATIO = 4


@dataclass(frozen=True)
class Extrapolation:
    """The Frechet distance at several numbers of generated features, and its value at infinitely many.

    `distances[i]` is the mean over the subsets of `sizes[i]` features; the last is that of the whole set. The fit is
    `value + slope / N + curvature / N^2`. All of its numbers are None where the set is too small; `note` says why.
    """

    value: float | None  # at 1/N = 0, squared feature units; an estimate, so that it may come out below 0
    slope: float | None
    sizes: list[int]
    distances: list[float]
    curvature: float | None = None
    # Covers the choice of the generated features and of the subsets. It covers neither the reference set, which is
    # taken as given, nor terms beyond 1/N^2.
    standard_error: float | None = None
    note: str | None = None  # why there is no value


def fd_infinity(
    real: Features | Gaussian, fake: Features, points: int = 5, seed: int = 0, repeats: int = 3
) -> Extrapolation:
    """The Frechet distance extrapolated to infinitely many generated features.

    The estimate's bias falls about as 1/N, by a factor that differs between models, so that equal N alone does not
    make two distances comparable (Chong and Forsyth 2020, arXiv 1911.07023). They fit a straight line over 1/N; here
    it is a parabola, because the bias has a term in 1/N^2 too, and only where the set has `LEAST_RATIO` times as many
    features as dimensions. Sizes run from 3 D or a tenth of the set, but at most half of it, to all of it. Least
    squares are weighted by N^2, since the distance's variance near 0 falls so. The reference set stays as it is: what
    it contributes to the distance remains.

    Args:
        real: (N, D) features, or the Gaussian fitted to them.
        fake: (M, D) features, M >= 3.
        points: number of sizes, at least 3.
        seed: of the random subsets.
        repeats: subsets per size. They are windows on a shuffled circle, so that each feature has an equal share.

    Raises:
        InputError: see `as_pair`; fewer than 3 generated features; `points` below 3 or `repeats` below 1.
    """
    points, repeats = check_count("points", points, 3), check_count("repeats", repeats, 1)
    real, fake = real if isinstance(real, Gaussian) else fit_gaussian(real), as_features(fake)
    n, dim = fake.shape
    _check_lengths(len(real.mean), dim)
    if n < 3:
        raise InputError(
            f"expected at least 3 generated features to extrapolate from, found {n}; generate more samples"
        )
    sizes = sorted({int(size) for size in np.linspace(max(2, min(n // 2, max(3 * dim, n // 10))), n, points)})
    measured = n >= LEAST_RATIO * dim
    rng = np.random.default_rng(seed)
    subset_sizes, subset_distances = [], []
    subset_influences = []  # (M,) each
    for size in sizes:
        circle = torch.from_numpy(rng.permutation(n)).to(fake.device)
        for repeat in range(repeats if size < n else 1):
            subset = circle.roll(-repeat * size)[:size].sort().values
            distance, influence = _distance_and_influence(real, fake[subset], measured)
            subset_sizes.append(size)
            subset_distances.append(distance)
            if measured:
                subset_influences.append(torch.zeros(n, dtype=torch.float64).index_put((subset.cpu(),), influence))
    ns, found = np.array(subset_sizes, float), np.array(subset_distances)
    means = [float(found[ns == size].mean()) for size in sizes]
    if not measured:
        note = (
            f"not measured: {n:,} samples for features of {dim:,} numbers; the distance is a smooth function of 1/N "
            f"only where N is well above that, and the extrapolation needs {LEAST_RATIO * dim:,} samples or more"
        )
        return Extrapolation(None, None, sizes, means, note=note)
    powers = np.stack([(n / ns) ** power for power in range(3)], 1)  # (subsets, 3)
    weights = ns**2 / np.where(ns < n, repeats, 1)
    solve = np.linalg.solve(powers.T @ (weights[:, None] * powers), powers.T * weights)  # (3, subsets)
    value, slope, curvature = solve @ found * (1, n, n**2)
    influences = torch.from_numpy(solve[0]) @ torch.stack(subset_influences)  # (M,)
    error = float(influences.square().sum().sqrt())
    return Extrapolation(float(value), float(slope), sizes, means, float(curvature), error)


def _distance_and_influence(real: Gaussian, fake: torch.Tensor, wanted: bool) -> tuple[float, torch.Tensor]:
    """`frechet_distance` of (n, D) features and, if wanted, its derivative with respect to each one's weight, (n,).

    The distance's gradient over the generated covariance is 1 - R^T (R S R^T)^-1/2 R, with R the real root.
    """
    if not wanted:
        return frechet_distance_of_gaussians(real, fit_gaussian(fake)), torch.empty(0)
    found = moments(fake)
    mean, covariance = found.mean, found.covariance
    difference = mean - real.mean
    eigenvalues, vectors = torch.linalg.eigh(real.root @ covariance @ real.root.T)
    sure = eigenvalues > 1e-12 * eigenvalues[-1]
    root = real.root.T @ vectors[:, sure] * eigenvalues[sure] ** -0.25  # (D, r), root root^T = R^T (R S R^T)^-1/2 R
    parts = []
    for rows in fake.split(4096):
        rows = rows.double() - mean
        parts.append(2 * rows @ difference + rows.square().sum(1) - (rows @ root).square().sum(1))
    influence = torch.cat(parts).cpu()
    total, error = _sum_of_roots(eigenvalues)
    if error <= SURE_ENOUGH * total:
        traces = real.root.square().sum() + covariance.trace()
        distance = float(difference.square().sum() + traces - 2 * total)
    else:
        distance = frechet_distance_of_gaussians(real, Gaussian(mean, _root(covariance)))
    return distance, (influence - influence.mean()) / len(fake)


@dataclass(frozen=True)
class Neighbourhoods:
    """Precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991: distance <= radius), density and coverage
    (Naeem et al. 2020, arXiv 2002.09797: distance < radius). A feature's radius is the distance to the k-th nearest of
    its own set.
    """

    k: int
    precision: float  # share of generated features within a real one's radius
    recall: float  # share of real features within a generated one's radius
    density: float  # mean number of real balls around a generated feature, over k; may exceed 1
    coverage: float  # share of real features with a generated one within their own radius


def neighbourhoods(
    real: Features,
    fake: Features,
    ks: Sequence[int],
    real_radii: torch.Tensor | None = None,
    block: int = BLOCK,
    state: PartialState | None = None,
) -> list[Neighbourhoods]:
    """All four metrics for every k of `ks`, from one pass over the distances.

    Args:
        real, fake: (N, D) and (M, D).
        ks: whole numbers of at least 1, below N and M; Python's or numpy's.
        real_radii: (N, K) distances to the k-th nearest real features for every k, where they are known already.
        block, state: see `neighbours.nearest`; the result depends on neither.

    Raises:
        InputError: see `as_pair`; a k that is not a whole number of at least 1; a set with no more than k features.
    """
    real, fake = as_pair(real, fake)
    ks = check_ranks(ks, min(len(real), len(fake)) - 1)
    if real_radii is None:
        real_radii, _ = nearest(real, real, ks, block, state)
    fake_radii, _ = nearest(fake, fake, ks, block, state)
    return [
        Neighbourhoods(
            k=k,
            precision=counts.fake_in_real / len(fake),
            recall=counts.real_in_fake / len(real),
            density=counts.pairs_in_real / (k * len(fake)),
            coverage=counts.real_covered / len(real),
        )
        for k, counts in zip(ks, ball_counts(real, fake, real_radii, fake_radii, block, state), strict=True)
    ]


def precision_recall(real: Features, fake: Features, k: int = 10) -> tuple[float, float]:
    """Improved precision and recall, each 0 to 1; see `neighbourhoods`. Publish k, N, M and the extractor too."""
    (found,) = neighbourhoods(real, fake, [k])
    return found.precision, found.recall


def density_coverage(real: Features, fake: Features, k: int = 5) -> tuple[float, float]:
    """Density (at least 0) and coverage (0 to 1); see `neighbourhoods`."""
    (found,) = neighbourhoods(real, fake, [k])
    return found.density, found.coverage
