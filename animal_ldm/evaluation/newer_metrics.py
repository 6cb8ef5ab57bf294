"""Metrics newer than the Frechet distance: MIND, CMMD, the Vendi score, and coverage class by class.

Conventions as in `metrics`: `real` comes first, features are (N, D) and (M, D), all sums are in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState

from ..errors import InputError
from .metrics import Features, as_features, as_pair, check_count
from .neighbours import check_ranks, nearest
from .results import ClassCoverage

PROJECTIONS = 1000
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
BLOCK = 1024  # rows of a kernel matrix held at once


@dataclass(frozen=True)
class Estimate:
    """A metric and how sure it is."""

    value: float
    standard_error: float  # over the choice of the generated features


def sliced_wasserstein(real: Features, fake: Features, projections: int = PROJECTIONS, seed: int = 2020) -> Estimate:
    """MIND with Inception's features (Berthet et al. 2026, arXiv 2605.06797): a sliced squared 2-Wasserstein distance.

    3 D / (n L) * sum over L random unit vectors u and ranks j of (sort(real u)_j - sort(fake u)_j)^2. Here n is
    min(N, M): of the larger set a random part is used. With the factor 3 D a shift of the set by s costs 3 |s|^2.
    Vectors and part are drawn as torch-fidelity 0.5 draws them (torch's CPU generator, generated features first), so
    that equal seeds give equal numbers; torch-fidelity sums in float32.

    Its bias falls with n. Compare at equal n only.

    Args:
        projections: L, at least 1.

    Raises:
        InputError: see `as_pair`; `projections` out of range.
    """
    real, fake = as_pair(real, fake)
    projections = check_count("projections", projections, 1)
    size, dim = min(len(real), len(fake)), real.shape[1]
    generator = torch.Generator().manual_seed(seed)
    fake, real = (
        x if len(x) == size else x[torch.randperm(len(x), generator=generator)[:size].to(x.device)]
        for x in (fake, real)
    )
    directions = torch.randn(projections, dim, generator=generator, dtype=torch.float32)
    directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    # A common shift changes no difference, but keeps the digits of features far from zero.
    centre = real.mean(0, dtype=torch.float64)
    real, fake = real.double() - centre, fake.double() - centre
    value, influence = 0.0, torch.zeros(size, dtype=torch.float64, device=fake.device)
    for part in directions.to(real.device, torch.float64).split(128):
        (x, order), y = (part @ fake.T).sort(1), (part @ real.T).sort(1).values  # (128, n)
        moved = x - y
        value += float(moved.square().sum())
        # The derivative with respect to a feature's weight is Kantorovich's potential, whose slope is 2 (x - y) (del
        # Barrio and Loubes 2019, arXiv 1705.01299, theorem 4.1).
        potential = torch.nn.functional.pad((x.diff(dim=1) * (moved[:, 1:] + moved[:, :-1])).cumsum(1), (1, 0))
        potential -= potential.mean(1, keepdim=True)
        influence.index_add_(0, order.flatten(), potential.flatten())
    scale = 3 * dim / (size * projections)
    return Estimate(scale * value, scale * float(influence.square().sum().sqrt()))


def cmmd(real: Features, fake: Features) -> Estimate:
    """CMMD (Jayasumana et al. 2024, arXiv 2401.09603): squared MMD of CLIP's image embeddings.

    1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), k(x, y) = exp(-|x - y|^2 / (2 * 10^2)), on embeddings scaled
    to length 1. As in the reference implementation the means include each feature's pair with itself: the value is at
    least 0, with a bias that falls as 1/N + 1/M. The paper's embeddings are those of ViT-L/14 at 336 pixels; numbers
    of another CLIP are not comparable with its own.

    Raises:
        InputError: see `as_pair`; a feature of length 0.
    """
    real, fake = as_pair(real, fake)
    real, fake = _unit_length(real), _unit_length(fake)
    fake_fake, fake_real = _kernel_means(fake, fake), _kernel_means(fake, real)  # (M,) each
    value = _kernel_means(real, real).mean() + fake_fake.mean() - 2 * fake_real.mean()
    # The derivative with respect to each generated feature's weight, as for the kernel distance.
    derivative = 2 * (fake_fake - fake_real)
    error = (derivative - derivative.mean()).square().sum().sqrt() / len(fake)
    return Estimate(max(0.0, CMMD_SCALE * float(value)), CMMD_SCALE * float(error))


def _kernel_means(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean of the kernel minus 1 over b, for every row of a: (len(a),).

    The kernel of two unit vectors is at most 0.02 below 1; without that 1, sums keep all digits of what differs.
    """
    squares = ((2 - 2 * part @ b.T).clamp_min(0) for part in a.split(BLOCK))  # |x - y|^2 of unit vectors
    return torch.cat([torch.expm1(-square / (2 * CMMD_SIGMA**2)).mean(1) for square in squares])


def vendi_score(features: Features) -> Estimate:
    """Vendi score (Friedman and Dieng 2023, arXiv 2210.02410) with the cosine kernel: how many distinct images.

    exp(-sum l log l) over the eigenvalues l of K / N, K the cosine similarities: 1 for N features of one direction, N
    for N orthogonal ones. It grows with N and does not see the reference: noise scores high. Compare with photos at
    the same N.

    Raises:
        InputError: see `as_features`; a feature of length 0.
    """
    features = _unit_length(as_features(features))  # X
    # The eigenvalues of K / N = X X^T / N are those of X^T X / N, but for zeros.
    short = len(features) <= features.shape[1]
    gram = features @ features.T if short else features.T @ features
    eigenvalues, vectors = torch.linalg.eigh(gram / len(features))
    value = math.exp(float(torch.special.entr(eigenvalues.clamp_min(0)).sum()))
    # The entropy's derivative with respect to a feature's weight is -x^T log(X^T X / N) x - 1.
    sure = eigenvalues > 1e-12 * eigenvalues[-1]
    eigenvalues, vectors = eigenvalues[sure], vectors[:, sure]
    along = len(features) * vectors.square() * eigenvalues if short else (features @ vectors).square()  # (N, r)
    influence = -along @ eigenvalues.log()
    error = float((influence - influence.mean()).square().sum().sqrt()) / len(features)
    return Estimate(value, value * error)


def _unit_length(features: torch.Tensor) -> torch.Tensor:
    """Features in float64, scaled to length 1."""
    features = features.double()
    norms = features.norm(dim=1, keepdim=True)
    if not (norms > 0).all():
        raise InputError(
            f"expected features of a length above 0, whose direction is compared, found {int((norms <= 0).sum())} of "
            f"{len(features)} that are all zeros (the first is row {int((norms <= 0).flatten().nonzero()[0])}); check "
            "those images and the extractor"
        )
    return features / norms


def coverage(real: Features, fake: Features, k: int = 5, state: PartialState | None = None) -> float:
    """Coverage alone (Naeem et al. 2020, arXiv 2002.09797, equation 10), as `neighbourhoods` gives it.

    The share of real features with a generated one strictly nearer than their k-th nearest real one. It needs a single
    generated feature, where the other metrics of neighbourhoods need more than k.

    Raises:
        InputError: see `as_pair`; k out of range.
    """
    real, fake = as_pair(real, fake)
    [k] = check_ranks([k], len(real) - 1)
    radii, distances = nearest(real, real, [k], state=state)[0], nearest(real, fake, [1], state=state)[0]
    return float((distances < radii).double().mean())


def class_coverage(
    real: torch.Tensor, fake: torch.Tensor, held_out: torch.Tensor, k: int = 5, state: PartialState | None = None
) -> ClassCoverage | None:
    """Coverage within one class by generated and by held-out features, as many of the one as of the other: the first.

    Neighbourhoods are those within the class (N, D), so that another class's images cover nothing. None where that is
    not defined: no more than k real features, or none on one of the other sides.
    """
    n = min(len(fake), len(held_out))
    if len(real) <= k or n == 0:
        return None
    value, photos = (coverage(real, features[:n], k, state) for features in (fake, held_out))
    return ClassCoverage(value, photos, n)


def rows_of(labels: Sequence[str], label: str) -> torch.Tensor:
    """The positions of a class among labels."""
    return torch.tensor([i for i, own in enumerate(labels) if own == label], dtype=torch.int64)
