"""Exact neighbourhoods of large feature sets, block by block.

Distances between N and M features of D numbers are one matrix product away, |a - b|^2 = |a|^2 + |b|^2 - 2ab, but the
product cancels: in float32 its error can exceed the gap between a distance and a radius, in float64 it is slow. Here
the float32 product only screens. Its error is bounded (Higham, Accuracy and Stability of Numerical Algorithms, section
3.1: a dot product of length D errs by at most D*u/(1 - D*u) times sum |a_i b_i|, in any order of summation), so that
each block gives a lower and an upper bound of every squared distance, and only pairs that the bounds leave open are
measured in float64, from the difference a - b itself. Every decision is therefore that of the float64 distances, also
for duplicates (distance exactly 0). Never more than one block of distances is in memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from accelerate import PartialState
from accelerate.utils import gather, reduce

from ..errors import InputError

BLOCK = 1024  # rows and columns of a block of distances: 4 MiB in float32
SPARE = 6  # candidates kept beyond the largest rank, so that the exact order is settled among few
PAIR_BUDGET = 2**18  # float64 numbers held at once while pairs are measured: 2 MiB, within a core's cache


@dataclass(frozen=True)
class Counts:
    """What `ball_counts` found for one k; divide by the number of features for the metrics."""

    fake_in_real: int  # generated features within (<=) some real feature's radius: precision
    real_in_fake: int  # real features within (<=) some generated feature's radius: recall
    pairs_in_real: int  # pairs with the generated feature strictly within the real one's radius: density
    real_covered: int  # real features with a generated one strictly within their own radius: coverage


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
        Distances (Q, K) in float64 and the indices (Q, K) of those references.

    Raises:
        InputError: there are fewer neighbours than the largest rank.
    """
    within = queries is references
    available = len(references) - within
    if max(ranks) > available:
        raise InputError(
            f"expected more than {max(ranks)} features to find the {max(ranks)} nearest neighbours among, found "
            f"{len(references)}; draw more samples or choose a smaller k"
        )
    screen = _Screen(queries, references)
    kept = min(max(ranks) + SPARE, available)
    lower = torch.full((len(queries), kept), torch.inf, device=queries.device)
    index = torch.zeros((len(queries), kept), dtype=torch.int64, device=queries.device)

    def keep_smallest(rows: slice, values: torch.Tensor, first: int) -> None:
        values, columns = values.topk(min(kept, values.shape[1]), largest=False)
        values = torch.cat((lower[rows], values), 1)
        columns = torch.cat((index[rows], columns + first), 1)
        lower[rows], order = values.topk(kept, largest=False)
        index[rows] = columns.gather(1, order)

    for rows, columns in _blocks(len(queries), len(references), block, state, upper_triangle=within):
        bounds = screen.lower_bounds(rows, columns)
        if within and rows == columns:
            bounds.fill_diagonal_(torch.inf)
        keep_smallest(rows, bounds, columns.start)
        if within and rows != columns:
            keep_smallest(columns, bounds.T, rows.start)
    if state is not None:
        lower, index = (torch.cat(_from_all(x, state), 1) for x in (lower, index))
        lower, order = lower.topk(kept, largest=False)
        index = index.gather(1, order)

    # The distance of rank r lies between the r-th smallest lower and the r-th smallest upper bound. Candidates that
    # reach into that interval are measured; the others lie for sure on their side of it.
    at = torch.tensor(ranks, device=queries.device) - 1
    query = torch.arange(len(queries), device=queries.device)[:, None].expand_as(index)
    lower = lower.double()
    upper = lower + screen.width(query, index)
    least, most = lower.sort(1).values[:, at], upper.sort(1).values[:, at]  # (Q, K)
    open_ = ((lower[:, :, None] <= most[:, None]) & (upper[:, :, None] >= least[:, None])).any(2)
    distances = lower.clamp(min=0).sqrt()
    distances[open_] = _measure(queries, references, query[open_], index[open_])
    distances, order = distances.sort(1)
    distances, index = distances[:, at], index.gather(1, order)[:, at]

    # What was not kept lies at or beyond the largest lower bound. Where that is no proof, measure the whole row.
    unproven = (lower.amax(1) <= most.amax(1)) if kept < available else torch.zeros(0)
    for row in unproven.nonzero().flatten().tolist():
        columns = torch.arange(len(references), device=queries.device)
        columns = columns[columns != row] if within else columns
        measured, order = _measure(queries, references, torch.full_like(columns, row), columns).sort()
        distances[row], index[row] = measured[at], columns[order[at]]
    return distances, index


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
    """
    kinds = real_radii.shape[1]
    fake_in_real = torch.zeros((kinds, len(fake)), dtype=torch.int64, device=real.device)
    real_in_fake = torch.zeros((kinds, len(real)), dtype=torch.int64, device=real.device)
    real_covered = torch.zeros_like(real_in_fake)
    pairs_in_real = torch.zeros(kinds, dtype=torch.int64, device=real.device)
    screen = _Screen(real, fake)
    # Rounded up to float32, so that the screening loses no pair.
    real_reach, fake_reach = ((radii.amax(1).square() * (1 + 1e-6)).float() for radii in (real_radii, fake_radii))

    for rows, columns in _blocks(len(real), len(fake), block, state):
        bounds = screen.lower_bounds(rows, columns)
        near = bounds <= real_reach[rows, None]
        near |= bounds <= fake_reach[columns]
        i, j = near.nonzero(as_tuple=True)
        low = bounds[i, j].double()
        i, j = i + rows.start, j + columns.start
        high = (low + screen.width(i, j)).clamp(min=0).sqrt()
        low = low.clamp(min=0).sqrt()
        radii = torch.cat((real_radii[i], fake_radii[j]), 1)  # (pairs, 2 K)
        open_ = ((low[:, None] <= radii) & (radii <= high[:, None])).any(1)
        high[open_] = _measure(real, fake, i[open_], j[open_])
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
    """Bounds of the squared distances between a (N, D) and b (M, D), from float32 products."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor):
        self.a, self.b = a, b
        # A shift changes no distance, but it shortens the vectors and with them the error.
        self.centre = b.mean(0)
        self.a_norms = self._norms(a)
        self.b_norms = self.a_norms if a is b else self._norms(b)
        # D*u of the dot product; 16*u pay for the rounding of the shift, the norms and the sums.
        self.error = 1.01 * (a.shape[1] + 16) * 2**-24

    def lower_bounds(self, rows: slice, columns: slice) -> torch.Tensor:
        """Float32 (rows, columns), at or below |a - b|^2."""
        a, b = self._shifted(self.a[rows]), self._shifted(self.b[columns])
        a_norms = ((1 - self.error) * self.a_norms[rows]).float()
        b_norms = ((1 - self.error) * self.b_norms[columns]).float()
        with _full_float32():
            return torch.addmm(b_norms, a, b.T, alpha=-2).add_(a_norms[:, None])

    def width(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Float64; |a_i - b_j|^2 lies at most this far above its lower bound."""
        return 2 * self.error * (self.a_norms[i] + self.b_norms[j])

    def _shifted(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.centre).float()

    def _norms(self, x: torch.Tensor) -> torch.Tensor:
        parts = (self._shifted(part).double().square().sum(1) for part in x.split(256))
        return torch.cat(list(parts))


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


def _measure(a: torch.Tensor, b: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Float64 distances between a[i] and b[j]: the same number wherever a pair is measured."""
    distances = torch.empty(len(i), dtype=torch.float64, device=a.device)
    size = max(1, PAIR_BUDGET // (2 * a.shape[1]))
    for start in range(0, len(i), size):
        part = slice(start, start + size)
        distances[part] = torch.cdist(
            a[i[part]].double().unsqueeze(1),
            b[j[part]].double().unsqueeze(1),
            compute_mode="donot_use_mm_for_euclid_dist",
        )[:, 0, 0]
    return distances


def _from_all(x: torch.Tensor, state: PartialState) -> tuple[torch.Tensor, ...]:
    """This tensor of every process, in the order of the processes."""
    return gather(x.to(state.device)).to(x.device).chunk(state.num_processes)


@contextmanager
def _full_float32():
    """No TF32 or bfloat16 inside float32 products, whatever the program around has chosen: the bound needs float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
