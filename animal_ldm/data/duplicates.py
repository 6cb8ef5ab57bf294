"""Near duplicates: the same photo scaled, recompressed, brightened, cut by some 2 % at the border, or mirrored.

Every photo is reduced to a grey thumbnail. Two photos are the same when two measures agree that see different things:
the signs of the differences between neighbouring pixels ("dHash", N. Krawetz, "Kind of like that", 2013) capture edges
whatever the tint, but are unreliable in large flat areas; the correlation captures large shapes, but no details.

Up to `ALL_PAIRS` photos, every pair is compared. Larger sets are searched by bit sampling (Indyk and Motwani 1998,
Approximate Nearest Neighbors, section 4.2), the locality-sensitive hashing for Hamming distances.
"""

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 16, 17  # 16 x 16 differences
BITS = HEIGHT * (WIDTH - 1)  # of a hash
# On 13,346 photos, every pair within both limits showed the same scene; unrelated pairs began at 42 bits.
MOST_DIFFERING_BITS = 40
LEAST_CORRELATION = 0.85
BLOCK = 1024  # hashes compared with as many others at a time
ALL_PAIRS = 20_000  # photos; some seconds
FOUND = 0.99  # the least probability that a sampled search finds a pair of `MOST_DIFFERING_BITS`
WINDOW = 32  # hashes of a crowded group that each of its hashes is compared with
CHUNK = 1 << 12  # pairs of photos correlated at a time

Pairs = tuple[np.ndarray, np.ndarray]


def thumbnail(image: Image.Image) -> bytes:
    """The photo in grey at `WIDTH` x `HEIGHT` pixels."""
    return image.convert("L").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).tobytes()


def near_duplicates(thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the pairs (i, j), i < j, of near duplicates, in increasing order of j and then i.

    Up to `ALL_PAIRS` photos these are all pairs. Beyond, a pair is found with a probability that grows with its
    likeness; see `sampled_close_hashes`. Whatever is found is checked exactly, and the same set gives the same pairs.
    One core of an AMD EPYC took 7 s for 100,000 synthetic thumbnails and 50 s for 300,000, in a process of 0.8 GB
    (`benchmarks/duplicates.py`).

    Args:
        thumbnails: (N, HEIGHT * WIDTH) uint8, each as `thumbnail` makes it.
    """
    images = thumbnails.reshape(-1, HEIGHT, WIDTH)
    number = len(images)
    # (4, 2 N): those of the mirrored photos follow those of the photos.
    hashes = np.concatenate([difference_hashes(images), difference_hashes(images[:, :, ::-1])], axis=1)
    correlations = Correlations(images)
    search = close_hashes if number <= ALL_PAIRS else sampled_close_hashes
    found, fresh = np.empty(0, np.int64), [np.empty(0, np.int64)]
    for i, j in search(hashes):
        forward = i < j % number
        i, j = i[forward], j[forward]
        for start in range(0, len(i), CHUNK):
            some_i, some_j = i[start : start + CHUNK], j[start : start + CHUNK]
            alike = correlations(some_i, some_j) >= LEAST_CORRELATION
            fresh.append((some_j % number * number + some_i)[alike])
        if sum(map(len, fresh)) > len(found) + CHUNK:  # memory stays within a few times that of the pairs
            found, fresh = distinct([found, *fresh]), []
    for pair in distinct([found, *fresh]).tolist():
        yield pair % number, pair // number


def distinct(parts: list[np.ndarray]) -> np.ndarray:
    """The different numbers of all parts, ascending; much faster on millions than numpy's `unique`."""
    numbers = np.sort(np.concatenate(parts))
    return numbers[np.diff(numbers, prepend=-1) > 0]


def difference_hashes(images: np.ndarray) -> np.ndarray:
    """(N, HEIGHT, WIDTH) uint8 -> (4, N) uint64: one bit per pixel, whether its right neighbour is brighter."""
    bits = images[:, :, 1:] > images[:, :, :-1]
    return np.ascontiguousarray(np.packbits(bits.reshape(len(bits), BITS), axis=1).view(np.uint64).T)


class Correlations:
    """Of (N, HEIGHT, WIDTH) uint8 images, through sums of whole numbers: exact, and faster than floats."""

    def __init__(self, images: np.ndarray):
        self.images = images
        self.sums = np.einsum("nhw->n", images, dtype=np.int64)
        squares = np.einsum("nhw,nhw->n", images, images, dtype=np.int64)
        spreads = np.sqrt(HEIGHT * WIDTH * squares - self.sums**2)
        self.spreads = np.where(spreads > 0, spreads, np.inf)  # an image of one colour correlates with none

    def __call__(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """(P,) float64: of photos i with photos j, or from N on with the mirrored photos j - N."""
        mirrored, j = j >= len(self.images), j % len(self.images)
        products = np.empty(len(i), np.int64)
        for rows, images in ((~mirrored, self.images), (mirrored, self.images[:, :, ::-1])):
            products[rows] = np.einsum("nhw,nhw->n", self.images[i[rows]], images[j[rows]], dtype=np.int32)
        covariances = HEIGHT * WIDTH * products - self.sums[i] * self.sums[j]
        return covariances / self.spreads[i] / self.spreads[j]


def differing_bits(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of (4, …) uint64 hashes and others: uint16, of the shape that both broadcast to."""
    differing = np.zeros(np.broadcast_shapes(hashes.shape[1:], others.shape[1:]), np.uint16)
    for row, column in zip(hashes, others, strict=True):
        differing += np.bitwise_count(row ^ column)
    return differing


def close_hashes(hashes: np.ndarray) -> Iterator[Pairs]:
    """Yield every (i, j) with i < j % N whose hashes differ in few bits; of the others only what falls into a block.

    Args:
        hashes: (4, 2 N), of photos and then of the same photos mirrored; i is a photo, j either.
    """
    number = hashes.shape[1] // 2
    for top in range(0, number, BLOCK):
        rows = hashes[:, top : min(top + BLOCK, number), None]
        for left in (*range(top, number, BLOCK), *range(number + top, 2 * number, BLOCK)):
            i, j = np.nonzero(differing_bits(rows, hashes[:, None, left : left + BLOCK]) <= MOST_DIFFERING_BITS)
            yield top + i, left + j


def sampled_close_hashes(hashes: np.ndarray) -> Iterator[Pairs]:
    """Yield most of what `close_hashes` yields, some of it repeatedly, comparing some N^1.25 pairs.

    Every table groups the hashes by b = log2(2 N) bits chosen at random, so that unrelated hashes share a group with
    few others. Two hashes that differ in d of 256 bits agree in these bits with P(d) = C(256 - d, b) / C(256, b), and
    do so in at least one of L tables with p = 1 - (1 - P(d))^L. L makes p = `FOUND` at the limit of d = 40. The
    mirrored photos give every pair a second chance.

    Groups of more than `WINDOW`, as flat backgrounds make them, do not become quadratic: there a hash is compared with
    its group's first photo and with `WINDOW` others that agree in further bits, in another order for every table. A
    pair in such a crowd is found less surely, but copies of one photo, however many, are found to be copies of the
    first.
    """
    number = hashes.shape[1] // 2
    rng = np.random.default_rng(0)
    bits = (2 * number - 1).bit_length()
    for _ in range(tables(bits)):
        for a, b in companions(hashes, *grouped(hashes, bits, rng)):
            # What holds for two mirrored photos holds for the photos, but for equal neighbours: hence the check.
            i, j = np.minimum(a % number, b % number), np.maximum(a % number, b % number)
            j += number * ((a < number) != (b < number))
            close = differing_bits(hashes[:, i], hashes[:, j]) <= MOST_DIFFERING_BITS
            yield i[close], j[close]


def tables(bits: int) -> int:
    """How many tables of `bits` bits find a pair at the limit with probability `FOUND`."""
    together = math.comb(BITS - MOST_DIFFERING_BITS, bits) / math.comb(BITS, bits)
    return math.ceil(math.log(1 - FOUND) / math.log1p(-together))


def grouped(hashes: np.ndarray, bits: int, rng: np.random.Generator) -> Pairs:
    """(M,) the order of (4, M) hashes by 32 bits chosen at random, equal ones shuffled, and (M,) the first `bits`."""
    keys = np.zeros(hashes.shape[1], np.uint64)
    for bit in rng.permutation(BITS)[:32].tolist():
        keys = keys << 1 | (hashes[bit // 64] >> (bit % 64) & 1)
    shuffled = rng.permutation(len(keys))
    # One array of numbers, the key above the position, sorts several times faster than by argsort.
    keys = np.sort(keys[shuffled] << 32 | np.arange(len(keys), dtype=np.uint64))
    return shuffled[keys & 0xFFFFFFFF], keys >> (64 - bits)


def companions(hashes: np.ndarray, order: np.ndarray, groups: np.ndarray) -> Iterator[Pairs]:
    """Pairs of hashes of the same group, of most of them only those that differ in few bits."""
    ordered = hashes[:, order]
    a = np.arange(len(order))
    for distance in range(1, WINDOW + 1):
        a = a[: np.searchsorted(a, len(order) - distance)]
        a = a[groups[a] == groups[a + distance]]
        close = a[differing_bits(ordered[:, a], ordered[:, a + distance]) <= MOST_DIFFERING_BITS]
        yield order[close], order[close + distance]
    (starts,) = np.nonzero(np.diff(groups, prepend=~groups[:1]))
    sizes = np.diff(starts, append=len(groups))
    firsts, crowded = np.minimum.reduceat(order, starts), sizes > WINDOW
    yield np.repeat(firsts[crowded], sizes[crowded]), order[np.repeat(crowded, sizes)]
