"""Our metrics against the reference implementations, side by side: `python benchmarks/evaluation.py`.

Precision, recall, density and coverage (k=5) against `prdc` and `torch-fidelity`, the Frechet distance against
`clean-fid` and `torch-fidelity`. Every measurement runs in a fresh process with the same number of threads; memory is
the peak beyond what imports and the two sets of features take: hence the imports inside functions, each in the process
that needs it. Features have 2048 numbers and the decaying spectrum of real ones.
"""

import contextlib
import io
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from side_by_side import describe_machine

from animal_ldm.commands.parsing import parse

K = 5


@dataclass(frozen=True)
class BenchmarkArguments:
    """Time and peak memory of evaluation metrics."""

    # Numbers of features on each side.
    sizes: tuple[int, ...] = (2_000, 10_000, 20_000)
    # One more size, for our implementation alone; 0 skips it.
    ours_alone: int = 50_000
    # Numbers in a feature.
    dim: int = 2048
    # Threads of every implementation (prdc starts 8 more of its own).
    threads: int = os.cpu_count() or 1


def ours_prdc(real: np.ndarray, fake: np.ndarray) -> Callable[[], tuple]:
    from animal_ldm.evaluation.metrics import neighbourhoods

    def run():
        (found,) = neighbourhoods(real, fake, [K])
        return found.precision, found.recall, found.density, found.coverage

    return run


def prdc(real: np.ndarray, fake: np.ndarray) -> Callable[[], tuple]:
    import prdc

    return lambda: tuple(float(value) for value in prdc.compute_prdc(real, fake, K).values())


def torch_fidelity_prc(real: np.ndarray, fake: np.ndarray) -> Callable[[], tuple]:
    import torch
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    return lambda: calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real), K)


def ours_fd(real: np.ndarray, fake: np.ndarray) -> Callable[[], tuple]:
    from animal_ldm.evaluation.metrics import frechet_distance_of_features

    return lambda: (frechet_distance_of_features(real, fake),)


def clean_fid(real: np.ndarray, fake: np.ndarray) -> Callable[[], tuple]:
    from cleanfid.fid import fid_from_feats

    return lambda: (float(fid_from_feats(real, fake)),)


def torch_fidelity_fd(real: np.ndarray, fake: np.ndarray) -> Callable[[], tuple]:
    import torch
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    def run():
        statistics = [fid_features_to_statistics(torch.from_numpy(features)) for features in (fake, real)]
        return (fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID],)

    return run


PRDC = {"ours": ours_prdc, "prdc": prdc, "torch-fidelity": torch_fidelity_prc}
FD = {"ours": ours_fd, "clean-fid": clean_fid, "torch-fidelity": torch_fidelity_fd}


def features(n: int, dim: int, seed: int, scale: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = (1 + np.arange(dim, dtype=np.float32)) ** -0.5
    return rng.standard_normal((n, dim), np.float32) * spread * np.float32(scale) + np.float32(0.4)


def memory(field: str) -> float:
    """MiB of this process: `VmRSS` now, `VmHWM` at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(build: Callable, folder: str, answer: multiprocessing.Queue) -> None:
    """Runs in a process of its own: seconds, peak MiB beyond the start, and what was found."""
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        run = build(*(np.load(Path(folder) / f"{name}.npy") for name in ("real", "fake")))
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before, start = memory("VmRSS"), time.perf_counter()
        found = run()
        answer.put((time.perf_counter() - start, memory("VmHWM") - before, found))


def in_fresh_process(build: Callable, folder: str) -> tuple[float, float, tuple]:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=measure, args=(build, folder, answer))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{build.__name__} ended with exit code {process.exitcode}")
    return answer.get()


def main() -> None:
    arguments = parse(BenchmarkArguments, None, prog="benchmarks/evaluation.py")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)
    print(describe_machine(), f"threads: {arguments.threads}", sep="\n")
    sizes = [*arguments.sizes, *([arguments.ours_alone] if arguments.ours_alone else [])]
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "real.npy", features(n, arguments.dim, 0, 1.0))
            np.save(Path(folder) / "fake.npy", features(n, arguments.dim, 1, 0.97))
            for title, contenders in ((f"P/R/D/C, k={K}", PRDC), ("Frechet distance", FD)):
                print(f"\n{title}, {n:,} x {n:,} x {arguments.dim}")
                ours = None
                for name, build in contenders.items():
                    if name != "ours" and n == arguments.ours_alone:
                        continue
                    seconds, peak, found = in_fresh_process(build, folder)
                    ours = ours or (seconds, peak)
                    ratios = f"{seconds / ours[0]:6.1f} x time  {peak / ours[1]:6.1f} x memory"
                    values = "  ".join(f"{value:.6g}" for value in found)
                    print(f"  {name:<15} {seconds:8.1f} s  {peak:8,.0f} MiB  {ratios}   {values}", flush=True)


if __name__ == "__main__":
    main()
