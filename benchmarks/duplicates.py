"""Growth of the search for near duplicates, on synthetic thumbnails: `python benchmarks/duplicates.py`.

Thumbnails have the 1/f spectrum of photos. One in fifty shows a small thing on white, which makes crowds of nearly
equal hashes. One in a hundred is a copy of another with noise, every second of these mirrored. `found` is the share of
copies within both limits that are found; peak memory is that of the whole process, thumbnails included.
"""

import resource
import time
from dataclasses import dataclass

import numpy as np
from side_by_side import describe_machine

from animal_ldm.commands.parsing import parse
from animal_ldm.data import duplicates
from animal_ldm.data.duplicates import HEIGHT, LEAST_CORRELATION, MOST_DIFFERING_BITS, WIDTH

PART = 10_000  # thumbnails made at a time


@dataclass(frozen=True)
class BenchmarkArguments:
    """Time and memory of the search for near duplicates."""

    # Numbers of photos, ascending.
    sizes: tuple[int, ...] = (10_000, 100_000, 300_000, 1_000_000)
    # Photos up to which all pairs are compared.
    all_pairs: int = 0


def synthetic(number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, HEIGHT, WIDTH) uint8 thumbnails; of the copies and of their originals, the indices."""
    frequencies = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequencies[0, 0] = np.inf
    images = np.empty((number, HEIGHT, WIDTH), np.uint8)
    for start in range(0, number, PART):
        shape = (min(PART, number - start), *frequencies.shape)
        fields = np.fft.irfft2((rng.normal(size=shape) + 1j * rng.normal(size=shape)) / frequencies, (HEIGHT, WIDTH))
        images[start : start + PART] = (128 + 50 * fields / fields.std(axis=(1, 2), keepdims=True)).clip(0, 255)
    for index in range(0, number, 50):
        top, left = rng.integers(0, 11, 2)
        thing = images[index, top : top + 5, left : left + 5].copy()
        images[index] = 255
        images[index, top : top + 5, left : left + 5] = thing
    copies = np.arange(number - number // 100, number)
    originals = rng.permutation(len(images) - len(copies))[: len(copies)]
    for copy, original in zip(copies, originals, strict=True):
        noise = rng.normal(scale=rng.uniform(0, 15), size=(HEIGHT, WIDTH))
        images[copy] = (images[original, :, :: 1 - 2 * (copy % 2)] + noise).clip(0, 255)
    return images, copies, originals


def alike(images: np.ndarray, copies: np.ndarray, originals: np.ndarray) -> set[tuple[int, int]]:
    """The pairs of originals and copies that are near duplicates."""
    correlations = duplicates.Correlations(images)
    stacked = np.concatenate([images[copies], images[copies][:, :, ::-1]])
    hashes, others = duplicates.difference_hashes(images[originals]), duplicates.difference_hashes(stacked)
    found = set()
    for half in (0, len(copies)):
        close = duplicates.differing_bits(hashes, others[:, half : half + len(copies)]) <= MOST_DIFFERING_BITS
        close &= correlations(originals, copies + len(images) * (half > 0)) >= LEAST_CORRELATION
        found |= set(zip(originals[close].tolist(), copies[close].tolist(), strict=True))
    return found


def main() -> None:
    arguments = parse(BenchmarkArguments, None, prog="benchmarks/duplicates.py")
    duplicates.ALL_PAIRS = arguments.all_pairs
    print(describe_machine())
    seconds = []
    for number in arguments.sizes:
        images, copies, originals = synthetic(number, np.random.default_rng(number))
        expected = alike(images, copies, originals)
        started = time.process_time()  # one thread, whatever else the machine does
        pairs = set(duplicates.near_duplicates(images))
        seconds.append(time.process_time() - started)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{number:9,} photos  {seconds[-1]:8.1f} s  {peak:7,.0f} MiB  {len(pairs):9,} pairs  "
            f"found {len(expected & pairs):,} of {len(expected):,} copies",
            flush=True,
        )
    if len(seconds) > 1:
        exponent = np.polyfit(np.log(arguments.sizes), np.log(seconds), 1)[0]
        print(f"time grows as N^{exponent:.2f}")


if __name__ == "__main__":
    main()
