"""Exact neighbourhoods of large feature sets, block by block.

Distances between N and M features of D numbers are one matrix product away, |a - b|^2 = |a|^2 + |b|^2 - 2ab, but the
product cancels: in float32 its error can exceed the gap between a distance and a radius, in float64 it is slow. Here
the float32 product only screens. Its error is bounded (Higham, Accuracy and Stability of Numerical Algorithms, section
3.1: a dot product of length D errs by at most D*u/(1 - D*u) times sum |a_i b_i|, in any order of summation), so that
each block gives a lower and an upper bound of every squared distance. Where many pairs stay open, a float64 product
screens again. What is open then is measured in float64, from the difference a - b itself. Every decision is therefore
that of the float64 distances, also for duplicates (distance exactly 0, found by comparing rows) and at any scale: for
the screening, features are shifted and scaled by a power of two. Never more than a few blocks of distances are in
memory.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather, reduce

from ..errors import InputError

BLOCK = 1024  # rows and columns of a block of distances: 4 MiB in float32
PART = 1 << 16  # references in memory at a time: 512 MiB of Inception's features
SPARE = 6  # candidates kept beyond the largest rank, so that the exact order is settled among few
MANY = 1 / 64  # share of open pairs in a block from which another product is faster than measuring them
PAIR_BUDGET = 2**18  # float64 numbers held at once while pairs are measured: 2 MiB, within a core's cache


@dataclass(frozen=True)
class Counts:
    """What `ball_counts` found for one k; divide by the number of features for the metrics."""

    fake_in_real: int  # generated features within (<=) some real feature's radius: precision
    real_in_fake: int  # real features within (<=) some generated feature's radius: recall
    pairs_in_real: int  # pairs with the generated feature strictly within the real one's radius: density
    real_covered: int  # real features with a generated one strictly within their own radius: coverage


def check_ranks(ranks: Sequence[int], available: int) -> list[int]:
    """Ranks of neighbours (1 is the nearest) as ints.

    Raises:
        InputError: no rank, one that is not a whole number (Python's or numpy's), one below 1 or above `available`.
    """
    for rank in ranks:
        if isinstance(rank, bool | np.bool_) or not isinstance(rank, int | np.integer) or rank < 1:
            raise InputError(
                f"expected k, the number of nearest neighbours, to be a whole number of at least 1, found {rank!r}"
            )
    if not len(ranks):
        raise InputError("expected at least one k, the number of nearest neighbours, found none")
    if max(ranks) > available:
        raise InputError(
            f"expected more than {max(ranks)} features to find the {max(ranks)} nearest neighbours among, found "
            f"{available + 1}; generate more samples or choose a smaller k"
        )
    return [int(rank) for rank in ranks]


def nearest(
    queries: torch.Tensor,
    references: torch.Tensor,
    ranks: Sequence[int],
    block: int = BLOCK,
    state: PartialState | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each query's nearest references of the given ranks (1 is the nearest), exactly.

    Args:
        queries: (Q, D), float32 or float64.
        references: (R, D), on the same device. If it is `queries` itself, a feature is not its own neighbour, and
            every pair is computed once.
        ranks: K ranks, none above R (R - 1 within one set).
        block: rows and columns of a block of distances.
        state: accelerate's state, when every process makes this call and the blocks shall be shared among them.

    Returns:
        Distances (Q, K) in float64 and the indices (Q, K) of those references. Of equally near ones any.

    Raises:
        InputError: see `check_ranks`; features of different lengths or beyond 1e300.
    """
    within = queries is references
    _check_lengths(queries, references)
    ranks = check_ranks(ranks, len(references) - within)
    screen = _Screen(queries, references)
    everything = torch.arange(len(queries), device=queries.device)
    candidates = _candidates(screen, everything, max(ranks), block, state)
    distances, index, unproven = _settle(screen, everything, candidates, ranks)
    if len(rows := unproven.nonzero().flatten()):  # float32 could not tell the nearest from the others
        finer = screen.in_float64()
        candidates = _candidates(finer, rows, max(ranks), block)
        distances[rows], index[rows], unproven = _settle(finer, rows, candidates, ranks)
        rows = rows[unproven]
        for part in rows.split(max(1, block**2 // len(references))) if len(rows) else ():
            distances[part], index[part] = _by_measuring(screen, part, ranks)
    return distances, index


def nearest_in_parts(
    queries: torch.Tensor, references: torch.Tensor, ranks: Sequence[int], state: PartialState | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`nearest` among references on another device, or on disk and mapped into memory: `PART` of them at a time."""
    if len(references) <= PART:
        return nearest(queries, references.to(queries.device), ranks, state=state)
    ranks = check_ranks(ranks, len(references))
    distances, indices = [], []
    for start, part in zip(range(0, len(references), PART), references.split(PART), strict=True):
        known = range(1, min(max(ranks), len(part)) + 1)
        found, index = nearest(queries, part.to(queries.device), known, state=state)
        distances.append(found)
        indices.append(index + start)
    found, order = torch.cat(distances, 1).sort(1)
    at = torch.tensor(ranks, device=queries.device) - 1
    return found[:, at], torch.cat(indices, 1).gather(1, order)[:, at]


def _candidates(
    screen: "_Screen", queries: torch.Tensor, most: int, block: int, state: PartialState | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each query (its row), the references of the smallest lower bounds: (Q, C) bounds and (Q, C) indices."""
    within, everything = screen.a is screen.b, len(queries) == len(screen.a)
    kept = min(most + SPARE, len(screen.b) - within)
    lower = torch.full((len(queries), kept), torch.inf, device=queries.device, dtype=screen.dtype)
    index = torch.zeros((len(queries), kept), dtype=torch.int64, device=queries.device)

    def keep_smallest(rows: slice, values: torch.Tensor, first: int) -> None:
        values, columns = values.topk(min(kept, values.shape[1]), largest=False)
        values = torch.cat((lower[rows], values), 1)
        columns = torch.cat((index[rows], columns + first), 1)
        lower[rows], order = values.topk(kept, largest=False)
        index[rows] = columns.gather(1, order)

    once = within and everything  # every pair once
    for rows, columns in _blocks(len(queries), len(screen.b), block, state, upper_triangle=once):
        bounds = screen.lower_bounds(queries[rows], columns)
        if within:
            own = queries[rows, None] == torch.arange(columns.start, columns.stop, device=queries.device)
            bounds.masked_fill_(own, torch.inf)
        keep_smallest(rows, bounds, columns.start)
        if once and rows != columns:
            keep_smallest(columns, bounds.T, rows.start)
    if state is not None:
        lower, index = (torch.cat(from_all(x, state), 1) for x in (lower, index))
        lower, order = lower.topk(kept, largest=False)
        index = index.gather(1, order)
    return lower, index


def _settle(
    screen: "_Screen", queries: torch.Tensor, candidates: tuple[torch.Tensor, torch.Tensor], ranks: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances (Q, K) and indices (Q, K) of the given ranks among the candidates, and (Q,) where that is no proof.

    The distance of rank r lies between the r-th smallest lower and the r-th smallest upper bound. Candidates that
    reach into that interval are measured; the others lie for sure on their side of it.
    """
    lower, index = candidates
    at = torch.tensor(ranks, device=queries.device) - 1
    query = queries[:, None].expand_as(index)
    lower = lower.double()
    width = screen.width(query, index)
    upper = lower + width
    least, most = lower.sort(1).values[:, at], upper.sort(1).values[:, at]  # (Q, K)
    open_ = ((lower[:, :, None] <= most[:, None]) & (upper[:, :, None] >= least[:, None])).any(2) & (width > 0)
    distances = lower.clamp(min=0).sqrt() / screen.scale
    distances[open_] = screen.measure(query[open_], index[open_])
    distances, order = distances.sort(1)
    # What was not kept lies at or beyond the largest lower bound.
    complete = lower.shape[1] == len(screen.b) - (screen.a is screen.b)
    unproven = torch.zeros_like(queries, dtype=torch.bool) if complete else lower.amax(1) < most.amax(1)
    return distances[:, at], index.gather(1, order)[:, at], unproven


def _by_measuring(screen: "_Screen", queries: torch.Tensor, ranks: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """`nearest` of few queries, from all of their distances."""
    distances = screen.measure_all(queries, slice(0, len(screen.b)))
    if screen.a is screen.b:
        distances[torch.arange(len(queries), device=queries.device), queries] = torch.inf
    distances, index = distances.topk(max(ranks), largest=False)
    at = torch.tensor(ranks, device=queries.device) - 1
    return distances[:, at], index[:, at]


def ball_counts(
    real: torch.Tensor,
    fake: torch.Tensor,
    real_radii: torch.Tensor,
    fake_radii: torch.Tensor,
    block: int = BLOCK,
    state: PartialState | None = None,
) -> list[Counts]:
    """Count who lies in whose ball, for several radii of every feature, in one pass over the distances.

    Args:
        real: (N, D) features; `real_radii` (N, K) their radii in float64.
        fake: (M, D) features; `fake_radii` (M, K) likewise.
        block, state: as in `nearest`.

    Returns:
        `Counts` for each of the K radii.

    Raises:
        InputError: features of different lengths or beyond 1e300.
    """
    _check_lengths(real, fake)
    kinds = real_radii.shape[1]
    fake_in_real = torch.zeros((kinds, len(fake)), dtype=torch.int64, device=real.device)
    real_in_fake = torch.zeros((kinds, len(real)), dtype=torch.int64, device=real.device)
    real_covered = torch.zeros_like(real_in_fake)
    pairs_in_real = torch.zeros(kinds, dtype=torch.int64, device=real.device)
    screen = _Screen(real, fake)
    # Rounded up, so that the screening loses no pair.
    real_reach, fake_reach = (
        (radii.amax(1) * screen.scale).square() * (1 + 1e-6) for radii in (real_radii, fake_radii)
    )
    everything = torch.arange(len(real), device=real.device)

    def pairs(level: _Screen, rows: slice, columns: slice) -> tuple[torch.Tensor, ...]:
        """Of the pairs that may lie within a radius: rows, columns, upper bounds, radii (., 2 K), which are open."""
        bounds = level.lower_bounds(everything[rows], columns)
        near = bounds <= real_reach[rows, None].to(level.dtype)
        near |= bounds <= fake_reach[columns].to(level.dtype)
        i, j = near.nonzero(as_tuple=True)
        low = bounds[i, j].double()
        i, j = i + rows.start, j + columns.start
        width = level.width(i, j)
        high = (low + width).clamp(min=0).sqrt() / level.scale
        low = low.clamp(min=0).sqrt() / level.scale
        radii = torch.cat((real_radii[i], fake_radii[j]), 1)
        return i, j, high, radii, ((low[:, None] <= radii) & (radii <= high[:, None])).any(1) & (width > 0)

    for rows, columns in _blocks(len(real), len(fake), block, state):
        i, j, high, radii, open_ = pairs(screen, rows, columns)
        many = MANY * (rows.stop - rows.start) * (columns.stop - columns.start)
        if open_.sum() > many:
            i, j, high, radii, open_ = pairs(screen.in_float64(), rows, columns)
        if open_.sum() > many:
            distances = screen.measure_all(everything[rows], columns)
            high[open_] = distances[i[open_] - rows.start, j[open_] - columns.start]
        else:
            high[open_] = screen.measure(i[open_], j[open_])
        for kind in range(kinds):
            in_real, in_fake = radii[:, kind], radii[:, kinds + kind]
            fake_in_real[kind, j[high <= in_real]] = 1
            real_in_fake[kind, i[high <= in_fake]] = 1
            real_covered[kind, i[high < in_real]] = 1
            pairs_in_real[kind] += (high < in_real).sum()
    if state is not None:
        fake_in_real, real_in_fake, real_covered, pairs_in_real = (
            reduce(x.to(state.device), "sum") for x in (fake_in_real, real_in_fake, real_covered, pairs_in_real)
        )
    return [
        Counts(*(int(n) for n in counts))
        for counts in zip(
            (fake_in_real > 0).sum(1),
            (real_in_fake > 0).sum(1),
            pairs_in_real,
            (real_covered > 0).sum(1),
            strict=True,
        )
    ]


class _Screen:
    """Bounds of the squared distances between a (N, D) and b (M, D), from float32 or float64 products.

    All bounds are of features times `scale`, a power of two that brings the largest near 2^20: exact, and far from
    float32's limits. Pairs of equal rows have the bounds 0 and 0.
    """

    def __init__(self, a: torch.Tensor, b: torch.Tensor):
        self.a, self.b = a, b
        self.dtype = torch.float32
        largest = max(float(x.abs().max()) for x in (a, b))
        if largest > 1e300:
            raise InputError("expected features of at most 1e300, found larger ones; divide them all by one number")
        # A shift changes no distance, but it shortens the vectors and with them the error. The median of some features
        # stays with most of them when a few lie far away.
        self.centre = b[:: max(1, len(b) // 1024)].double().median(0).values
        reach = max(float((part.double() - self.centre).abs().max()) for x in (a, b) for part in x.split(256))
        self.scale = math.ldexp(1.0, min(max(20 - math.frexp(reach)[1], -1000), 1000)) if reach else 1.0
        # Shifting in float32 is faster, where neither the features nor the scale come near its limits.
        self.small = largest < 1e30 and 1e-25 < self.scale < 1e25
        if self.small:
            self.centre = self.centre.float().double()
        self.same = _equal_rows(a, b)
        self._set_errors()

    def in_float64(self) -> "_Screen":
        """The same from float64 products, for what float32 leaves open."""
        if self.finer is None:
            self.finer = copy(self)
            self.finer.dtype = torch.float64
            self.finer._set_errors()
        return self.finer

    def _set_errors(self) -> None:
        self.finer: _Screen | None = None
        self.a_norms = self._norms(self.a)
        self.b_norms = self.a_norms if self.a is self.b else self._norms(self.b)
        # D*u of the dot product; 16*u pay for the rounding of the shift, the norms and the sums. In float64 the norms
        # and the measured distances, which shall lie within the bounds, err as much. `least` pays for underflow.
        dim = self.a.shape[1]
        if self.dtype == torch.float32:
            self.error, self.least = 1.01 * (dim + 16) * 2.0**-24, dim * 2.0**-100
        else:
            self.error, self.least = 1.01 * (4 * dim + 64) * 2.0**-53, dim * 2.0**-1000

    def lower_bounds(self, rows: torch.Tensor, columns: slice) -> torch.Tensor:
        """(rows, columns) in `dtype`, at or below |a - b|^2."""
        a, b = self._shifted(self.a[rows]), self._shifted(self.b[columns])
        a_norms = ((1 - self.error) * self.a_norms[rows] - self.least).to(self.dtype)
        b_norms = ((1 - self.error) * self.b_norms[columns] - self.least).to(self.dtype)
        with _full_float32():
            bounds = torch.addmm(b_norms, a, b.T, alpha=-2).add_(a_norms[:, None])
        if self.same is not None:
            bounds.masked_fill_(self.same[0][rows, None] == self.same[1][columns], 0)
        return bounds

    def width(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Float64; |a_i - b_j|^2 lies at most this far above its lower bound."""
        width = 2 * self.error * (self.a_norms[i] + self.b_norms[j]) + 4 * self.least
        return width if self.same is None else width.masked_fill(self.same[0][i] == self.same[1][j], 0)

    def measure(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Float64 distances between a[i] and b[j], unscaled."""
        return _measure(self.a, self.b, i, j, self.scale)

    def measure_all(self, rows: torch.Tensor, columns: slice) -> torch.Tensor:
        """Float64 distances (rows, columns), unscaled: to the bit those of `measure`."""
        return _distances(self.a[rows], self.b[columns], self.scale)

    def _shifted(self, x: torch.Tensor) -> torch.Tensor:
        if self.small and x.dtype == self.dtype == torch.float32:
            return (x - self.centre.float()).mul_(self.scale)
        return ((x.double() - self.centre) * self.scale).to(self.dtype)

    def _norms(self, x: torch.Tensor) -> torch.Tensor:
        parts = (self._shifted(part).double().square().sum(1) for part in x.split(256))
        return torch.cat(list(parts))


def _equal_rows(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Numbers (N,) and (M,) that are the same for equal rows of a and b and for no others; None without equal rows."""
    parts = [a] if a is b else [a, b]
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (a.shape[1],), generator=generator).to(a.device) * 2 + 1

    def hashes(rows: torch.Tensor) -> torch.Tensor:
        bits = (rows.double() + 0.0).view(torch.int64)  # + 0.0 makes one zero of both
        return ((bits ^ (bits >> 29)) * factors).sum(1)

    found = torch.cat([hashes(rows) for part in parts for rows in part.split(256)])
    own = torch.arange(len(found), device=a.device)
    groups, group = found.unique(return_inverse=True)
    if len(groups) == len(found):
        return None
    first = torch.full((len(groups),), len(found), device=a.device).scatter_reduce_(0, group, own, "amin")[group]

    def take(rows: torch.Tensor) -> torch.Tensor:
        in_a = rows < len(a)
        taken = torch.empty((len(rows), a.shape[1]), dtype=torch.float64, device=a.device)
        taken[in_a], taken[~in_a] = a[rows[in_a]].double(), b[rows[~in_a] - len(a)].double()
        return taken

    for rows in (first < own).nonzero().flatten().split(256):  # equal hashes prove nothing
        equal = (take(rows) == take(first[rows])).all(1)
        first[rows[~equal]] = rows[~equal]
    return first[: len(a)], first[-len(b) :]


def _check_lengths(a: torch.Tensor, b: torch.Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"expected features of the same length, found {a.shape[1]} and {b.shape[1]} numbers per image; "
            "extract both sets with the same extractor"
        )


def _blocks(
    rows: int, columns: int, block: int, state: PartialState | None, upper_triangle: bool = False
) -> Iterator[tuple[slice, slice]]:
    """This process's share of the blocks of a (rows, columns) matrix, or of its upper triangle."""
    blocks = (
        (slice(row, min(row + block, rows)), slice(column, min(column + block, columns)))
        for row in range(0, rows, block)
        for column in range(row if upper_triangle else 0, columns, block)
    )
    return blocks if state is None else islice(blocks, state.process_index, None, state.num_processes)


def _measure(a: torch.Tensor, b: torch.Tensor, i: torch.Tensor, j: torch.Tensor, scale: float) -> torch.Tensor:
    """Float64 distances between a[i] and b[j]: the same number wherever a pair is measured."""
    distances = torch.empty(len(i), dtype=torch.float64, device=a.device)
    size = max(1, PAIR_BUDGET // (2 * a.shape[1]))
    for start in range(0, len(i), size):
        part = slice(start, start + size)
        distances[part] = _distances(a[i[part]].unsqueeze(1), b[j[part]].unsqueeze(1), scale)[:, 0, 0]
    return distances


def _distances(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """All float64 distances between rows, from the differences. The scale keeps the squares in float64's range."""
    a, b = a.double() * scale, b.double() * scale
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") / scale


def from_all(x: torch.Tensor, state: PartialState) -> tuple[torch.Tensor, ...]:
    """This tensor of every process, in the order of the processes."""
    gathered = gather(x.to(state.device))
    assert isinstance(gathered, torch.Tensor)
    return gathered.to(x.device).chunk(state.num_processes)


@contextmanager
def _full_float32():
    """No TF32 or bfloat16 inside float32 products, whatever the program around has chosen: the bound needs float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
