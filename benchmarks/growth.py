"""How time and memory grow with the number of photos, on synthetic ones of 32 px: `python benchmarks/growth.py`.

One file for all steps whose cost depends on the number of photos alone, each measured in a process of its own: CPU
time of its one thread, and how far peak memory rose above that of the imports (0: it did not). Exponents are fitted
to both.
"""

import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import duplicates as duplicates_benchmark
import numpy as np
from accelerate import Accelerator
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from side_by_side import describe_machine

from animal_ldm.commands.parsing import parse
from animal_ldm.data.duplicates import near_duplicates
from animal_ldm.data.prepare import prepare
from animal_ldm.data.prepared import load_split
from animal_ldm.data.settings import PreparationSettings
from animal_ldm.training.cache import Cache
from animal_ldm.training.stream import ImageStream

SIDE = 32
CLASSES = 100
BATCHES = 100  # of 128


@dataclass(frozen=True)
class BenchmarkArguments:
    """Time and memory by number of photos."""

    # Numbers of photos, ascending.
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    # Steps to measure. load and stream need prepare.
    steps: tuple[str, ...] = ("prepare", "load", "stream", "duplicates", "cache")
    # Folder for the synthetic photos and what is made of them; it is emptied.
    folder: Path = Path(tempfile.gettempdir(), "growth")


def write_source(number: int, folder: Path) -> None:
    """Smooth random photos in a Parquet file."""

    def rows() -> object:
        rng = np.random.default_rng(number)
        for index in range(number):
            small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            encoded = BytesIO()
            small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(encoded, "PNG", compress_level=1)
            yield {"image": {"bytes": encoded.getvalue(), "path": None}, "label": f"class {index % CLASSES}"}

    features = Features({"image": ImageFeature(), "label": Value("string")})
    source = Dataset.from_generator(rows, features=features, cache_dir=str(folder / "cache"))
    assert isinstance(source, Dataset)
    (folder / "source").mkdir()
    source.to_parquet(str(folder / "source" / "photos.parquet"))


def measure_prepare(number: int, folder: Path) -> None:
    settings = PreparationSettings(num_classes=CLASSES, image_size=SIDE, format="shards")
    prepare(str(folder / "source"), folder / "prepared", settings, workers=1)


def measure_load(number: int, folder: Path) -> None:
    """What every process of a training does with the metadata, and some photos at random places."""
    split = load_split(folder / "prepared", "train")
    assert split.fingerprint and len(split.classes) == CLASSES
    for index in np.random.default_rng(0).integers(len(split), size=1000).tolist():
        split.image(index)


def measure_stream(number: int, folder: Path) -> None:
    labels = load_split(folder / "prepared", "train").labels
    for balanced in (False, True):
        stream = ImageStream(labels, seed=0, balanced=balanced)
        for batch in range(BATCHES):
            stream.indices(batch * 128, 128)


def measure_duplicates(number: int, folder: Path) -> None:
    images = np.load(folder / "thumbnails.npy")
    for _ in near_duplicates([image.tobytes() for image in images]):
        pass


def measure_cache(number: int, folder: Path) -> None:
    """An array of 128 bytes a photo is filled, opened again with its digest compared, and read at random places."""
    for _ in range(2):
        array = Cache(Accelerator(cpu=True), folder / "arrays").array(
            "key", (number, 64), np.float16, lambda start, stop: np.zeros((stop - start, 64), np.float16), "cache"
        )
    for batch in range(BATCHES):
        array[np.random.default_rng(batch).integers(number, size=128)].sum()


def measured(step: Callable[[int, Path], None], number: int, folder: Path) -> tuple[float, float]:
    """CPU seconds and MiB of a step, in a fresh process."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    step(number, folder)
    return time.process_time() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    arguments = parse(BenchmarkArguments, None, prog="benchmarks/growth.py")
    print(describe_machine())
    steps = {step: globals()[f"measure_{step}"] for step in arguments.steps}
    results: dict[str, list[tuple[float, float]]] = {step: [] for step in steps}
    for number in arguments.sizes:
        shutil.rmtree(arguments.folder, ignore_errors=True)
        arguments.folder.mkdir(parents=True)
        if "prepare" in steps:
            write_source(number, arguments.folder)
        if "duplicates" in steps:
            thumbnails, *_ = duplicates_benchmark.synthetic(number, np.random.default_rng(number))
            np.save(arguments.folder / "thumbnails.npy", thumbnails)
        for name, step in steps.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                results[name].append(process.submit(partial(measured, step, number, arguments.folder)).result())
            seconds, mebibytes = results[name][-1]
            print(f"{name:11s} {number:9,} photos  {seconds:9.2f} s  {mebibytes:8,.0f} MiB", flush=True)
    shutil.rmtree(arguments.folder)
    for name, values in results.items():
        if len(values) > 1:
            logs = np.log(np.maximum(values, 1e-3))
            time_exponent, memory_exponent = np.polyfit(np.log(arguments.sizes), logs, 1)[0]
            print(f"{name:11s} time grows as N^{time_exponent:.2f}, memory as N^{memory_exponent:.2f}")


if __name__ == "__main__":
    main()
