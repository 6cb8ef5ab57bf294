"""Distances between two sets of image features: Frechet, kernel, precision and recall, density and coverage.

Pure functions. Everywhere `real` comes first and `fake` (generated) second; both are (N, D) and (M, D) tensors or
arrays of float32 or float64, and what is summed is summed in float64. Features with NaN or infinity are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState

from ..errors import InputError
from .neighbours import BLOCK, ball_counts, nearest

Features = torch.Tensor | np.ndarray


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
    if not (finite := torch.isfinite(features).all(1)).all():
        raise InputError(
            f"expected finite features, found NaN or infinity in {int((~finite).sum())} of {len(features)} rows "
            f"(the first is row {int((~finite).nonzero()[0])}); look at those pictures and at the extractor"
        )
    return features


# Frechet distance: Dowson and Landau 1982; as FID, Heusel et al. 2017, arXiv 1706.08500, equation 6.
# tr (S1 S2)^1/2 is the sum of the singular values of R1 R2^T for any roots R^T R = S: no matrix root is ever taken.


def mean_and_covariance(features: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and unbiased covariance (D, D) in float64."""
    features = as_features(features)
    mean = features.mean(0, dtype=torch.float64)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for rows in features.split(1024):
        rows = rows.double() - mean
        for start in range(0, len(mean), 512):  # the lower triangle, for half the work
            covariance[start:, start : start + 512].addmm_(rows[:, start:].T, rows[:, start : start + 512])
    covariance = covariance.tril() + covariance.tril(-1).T
    return mean, covariance / max(1, len(features) - 1)


@dataclass(frozen=True)
class Gaussian:
    """The Gaussian fitted to a set of features: its mean (D,) and a root R (r, D) of its covariance, R^T R = S."""

    mean: torch.Tensor
    root: torch.Tensor


def fit_gaussian(features: Features) -> Gaussian:
    """With no more features than dimensions no (D, D) matrix is formed: the centred features are a root already."""
    features = as_features(features)
    if len(features) > features.shape[1]:
        mean, covariance = mean_and_covariance(features)
        return Gaussian(mean, _root(covariance))
    mean = features.mean(0, dtype=torch.float64)
    return Gaussian(mean, (features.double() - mean) / max(1, len(features) - 1) ** 0.5)


def frechet_distance(mean1: Features, covariance1: Features, mean2: Features, covariance2: Features) -> float:
    """Squared Frechet distance of two Gaussians: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2)."""
    mean1, covariance1, mean2, covariance2 = (
        torch.as_tensor(x).double() for x in (mean1, covariance1, mean2, covariance2)
    )
    return frechet_distance_of_gaussians(Gaussian(mean1, _root(covariance1)), Gaussian(mean2, _root(covariance2)))


def frechet_distance_of_gaussians(real: Gaussian, fake: Gaussian) -> float:
    """`frechet_distance`, from the roots."""
    traces = real.root.square().sum() + fake.root.square().sum()
    return float((real.mean - fake.mean).square().sum() + traces - 2 * _nuclear_norm(real.root @ fake.root.T))


def frechet_distance_of_features(real: Features, fake: Features) -> float:
    """`frechet_distance` of the Gaussians fitted to two sets."""
    return frechet_distance_of_gaussians(fit_gaussian(real), fit_gaussian(fake))


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """R with R^T R = S; by eigenvalues where S is singular."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return lower.T
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return eigenvalues.clamp(min=0).sqrt()[:, None] * vectors.T


def _nuclear_norm(matrix: torch.Tensor) -> torch.Tensor:
    """Sum of the singular values, through the eigenvalues of the smaller Gram matrix where those are sure enough."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    eigenvalues = torch.linalg.eigvalsh(gram).clamp(min=0)
    total = eigenvalues.sqrt().sum()
    # Eigenvalues err by about this much, and the root blows the error of a small one up. Singular values do not.
    noise = 4 * torch.finfo(torch.float64).eps * eigenvalues[-1]
    error = (noise / (eigenvalues + noise).sqrt()).sum()
    return total if error <= 1e-9 * total else torch.linalg.svdvals(matrix).sum()


@dataclass(frozen=True)
class Extrapolation:
    """`fd_infinity`'s line: `distances[i]` at `sizes[i]` generated features, `value` where it meets 1/N = 0."""

    value: float
    slope: float
    sizes: list[int]
    distances: list[float]


def fd_infinity(real: Features | Gaussian, fake: Features, points: int = 15, seed: int = 0) -> Extrapolation:
    """The Frechet distance extrapolated to infinitely many generated features: a straight line over 1/N.

    The estimate's bias falls as 1/N, by a factor that differs between models, so that equal N alone does not make two
    distances comparable (Chong and Forsyth 2020, arXiv 1911.07023). Sizes run from a tenth of the set (at most 5,000)
    to all of it, as in dgm-eval, each a subset drawn anew without replacement.
    """
    real, fake = real if isinstance(real, Gaussian) else fit_gaussian(real), as_features(fake)
    first = min(5000, max(len(fake) // 10, 2))
    sizes = [int(size) for size in np.linspace(first, len(fake), points)]
    rng = np.random.default_rng(seed)
    distances = []
    for size in sizes:
        subset = torch.from_numpy(rng.choice(len(fake), size, replace=False)).to(fake.device)
        distances.append(frechet_distance_of_gaussians(real, fit_gaussian(fake[subset])))
    slope, value = np.polyfit(1 / np.array(sizes), distances, 1)
    return Extrapolation(float(value), float(slope), sizes, distances)


@dataclass(frozen=True)
class KernelDistance:
    mean: float
    std: float  # over the subsets
    subsets: int
    subset_size: int


def kernel_distance(
    real: Features, fake: Features, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> KernelDistance:
    """KID (Binkowski et al. 2018, arXiv 1801.01401): unbiased squared MMD with the kernel (x.y / D + 1)^3.

    The mean over random subsets, of `subset_size` or of the smaller set. Subsets are drawn as torch-fidelity draws
    them (numpy's frozen `RandomState` stream, generated features first), so that equal seeds give equal numbers.
    """
    real, fake = as_features(real), as_features(fake)
    size = min(subset_size, len(real), len(fake))
    if size < 2:
        raise InputError(
            f"expected at least 2 features on both sides, found {len(real)} real and {len(fake)} generated"
        )
    rng = np.random.RandomState(seed)

    def draw(features: torch.Tensor) -> torch.Tensor:
        chosen = torch.from_numpy(rng.choice(len(features), size, replace=False))
        return features[chosen.to(features.device)].double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean_off_diagonal(k: torch.Tensor) -> torch.Tensor:
        return (k.sum() - k.trace()) / (size * (size - 1))

    values = []
    for _ in range(subsets):
        x, y = draw(fake), draw(real)
        within = mean_off_diagonal(kernel(x, x)) + mean_off_diagonal(kernel(y, y))
        values.append(float(within - 2 * kernel(x, y).mean()))
    return KernelDistance(float(np.mean(values)), float(np.std(values)), subsets, size)


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
        real_radii: (N, K) distances to the k-th nearest real features for every k, where they are known already.
        block, state: see `neighbours.nearest`; the result depends on neither.

    Raises:
        InputError: a set has no more than k features.
    """
    real, fake = as_features(real), as_features(fake)
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
    """Improved precision and recall, see `Neighbourhoods`. Publish k, N, M and the extractor beside them."""
    (found,) = neighbourhoods(real, fake, [k])
    return found.precision, found.recall


def density_coverage(real: Features, fake: Features, k: int = 5) -> tuple[float, float]:
    """Density and coverage, see `Neighbourhoods`."""
    (found,) = neighbourhoods(real, fake, [k])
    return found.density, found.coverage
