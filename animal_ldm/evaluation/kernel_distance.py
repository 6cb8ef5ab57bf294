"""The kernel distance (KID with Inception's features), with its standard error."""

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InputError
from .metrics import Features, as_pair, check_count


@dataclass(frozen=True)
class KernelDistance:
    """`kernel_distance` and how sure it is."""

    mean: float  # over the subsets; unbiased, so that it may come out below 0
    std: float  # over the subsets, as other programs print it: they overlap, so it is not the error of `mean`
    subsets: int
    subset_size: int
    standard_error: float | None = None  # of `mean`, over new real and generated features
    note: str | None = None  # where `std` or `standard_error` means nothing, and why


def kernel_distance(
    real: Features, fake: Features, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> KernelDistance:
    """KID (Binkowski et al. 2018, arXiv 1801.01401, section 4): unbiased squared MMD with the kernel (x.y / D + 1)^3.

    The mean over random subsets, of `subset_size` or of the smaller set. Subsets are drawn as torch-fidelity draws
    them (numpy's frozen `RandomState` stream, generated features first), so that equal seeds give equal numbers.
    Features far from zero lose nothing: see `_CentredKernel`.

    Args:
        real, fake: (N, D) and (M, D), at least 2 each.
        subsets: number of subsets, at least 1.
        subset_size: at least 2.

    Raises:
        InputError: see `as_pair`; too few features; other numbers out of range; features so large that the kernel
            exceeds float64.
    """
    real, fake = as_pair(real, fake)
    subsets = check_count("subsets", subsets, 1)
    size = min(check_count("subset_size", subset_size, 2), len(real), len(fake))
    if size < 2:
        raise InputError(
            f"expected at least 2 features on both sides, found {len(real)} real and {len(fake)} generated"
        )
    rng = np.random.RandomState(seed)
    kernel = _CentredKernel((real.mean(0, dtype=torch.float64) + fake.mean(0, dtype=torch.float64)) / 2)
    real_influence, fake_influence = (torch.zeros(len(x), dtype=torch.float64, device=x.device) for x in (real, fake))
    values = []
    for _ in range(subsets):
        chosen_fake, chosen_real = (
            torch.from_numpy(rng.choice(len(x), size, replace=False)).to(x.device) for x in (fake, real)
        )
        x, y = fake[chosen_fake], real[chosen_real]
        across = kernel(x, y)
        value = -2 * across.mean()
        for features, others, chosen, influence in (
            (x, across.mean(1), chosen_fake, fake_influence),
            (y, across.mean(0), chosen_real, real_influence),
        ):
            within = kernel(features, features)
            within = (within.sum(1) - within.diagonal()) / (size - 1)  # (size,)
            value = value + within.mean()
            derivative = within - others
            influence[chosen] += 2 * (derivative - derivative.mean()) / size
        values.append(float(value))
    if not np.isfinite(values).all():
        largest = max(float(x.abs().max()) for x in (real, fake))
        raise InputError(
            f"expected features whose third powers fit into float64, found values up to {largest:.3g}; "
            "divide both sets by the same number"
        )
    variance = float(real_influence.square().sum() + fake_influence.square().sum()) / subsets**2
    notes = []
    whole, small = size == len(real) == len(fake), size < LEAST_FOR_ERROR
    if whole:
        notes.append(f"no spread over subsets: each of them holds all {size:,} features")
    if small:
        notes.append(f"no standard error: it needs {LEAST_FOR_ERROR} features on both sides, found {size}")
    return KernelDistance(
        mean=float(np.mean(values)),
        std=0.0 if whole else float(np.std(values)),
        subsets=subsets,
        subset_size=size,
        standard_error=None if small else variance**0.5,
        note="; ".join(notes) or None,
    )


LEAST_FOR_ERROR = 10  # below, the standard error of the kernel distance is itself wrong by half


class _CentredKernel:
    """(x.y / D + 1)^3 less terms that depend on x alone or on y alone: those cancel in the unbiased MMD.

    The kernel is not invariant to translation, but it can be written around a centre c. With a = x - c, b = y - c,
    s = |c|^2 / D + 1, p = a.c / D, q = b.c / D, g = a.b / D and w = s + p + q it is (w + g)^3, where (w + g)^3 - w^3 =
    g (3 w^2 + g (3 w + g)), and w^3 is 3 p q (s + w) plus terms of one side. What remains is as small as the features'
    spread, so that a mean of 1e8 leaves float64 its digits.
    """

    def __init__(self, centre: torch.Tensor):
        self.centre = centre
        self.constant = centre @ centre / len(centre) + 1

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(n, D) and (m, D) features to (n, m) values."""
        dim = len(self.centre)
        a, b = x.double() - self.centre, y.double() - self.centre
        p, q = (a @ self.centre / dim)[:, None], b @ self.centre / dim
        g = a @ b.T / dim
        w = self.constant + p + q
        return g * (3 * w * w + g * (3 * w + g)) + 3 * p * q * (self.constant + w)


def kernel_distance_difference(real: Features, first: Features, second: Features) -> tuple[float, float]:
    """The kernel distance of `first` less that of `second`, each with all features, and its standard error.

    Feature i of both comes from the same seed and prompt, so that what the seeds have in common cancels. The error is
    that of new pairs and new real features, by the influence of each (the delta method); below some 50 pairs it is
    too small.

    Args:
        real: (N, D), at least 2.
        first, second: (M, D), at least 2 pairs.

    Raises:
        InputError: see `as_pair`; sets of unlike sizes, or too few features.
    """
    (real, first), (_, second) = as_pair(real, first), as_pair(real, second)
    if len(first) != len(second) or min(len(real), len(first)) < 2:
        raise InputError(
            "expected pairs of generated features, at least 2, and at least 2 real ones; found "
            f"{len(first)} and {len(second)} generated, {len(real)} real"
        )
    kernel = _CentredKernel(torch.cat([real, first, second]).mean(0, dtype=torch.float64))

    def of_pairs_and_photos(fake: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
        within, across = kernel(fake, fake), kernel(fake, real)  # (M, M), (M, N)
        within = (within.sum(1) - within.diagonal()) / (len(fake) - 1)  # (M,)
        return 2 * (within - across.mean(1)), -2 * across.mean(0), float(within.mean() - 2 * across.mean())

    one, other = of_pairs_and_photos(first), of_pairs_and_photos(second)
    variance = sum(float((a - b).var()) / len(a) for a, b in zip(one[:2], other[:2], strict=True))
    return one[2] - other[2], variance**0.5
