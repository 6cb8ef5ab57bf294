"""How time and memory grow with the number of photos, on synthetic ones of 32 px: `python benchmarks/growth.py`.

One file for all steps whose cost depends on the number of photos alone, each measured in a process of its own: CPU
time of its one thread, and how far its peak memory rose above that of the imports, without and with the pages of files
that are mapped into memory (0: it did not). Exponents are fitted to all three.
"""

import hashlib
import multiprocessing
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import duplicates as duplicates_benchmark
import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from side_by_side import describe_machine

from animal_ldm.commands.parsing import parse
from animal_ldm.data.duplicates import near_duplicates
from animal_ldm.data.prepare import WORK_FOLDER, prepare
from animal_ldm.data.prepared import load_split
from animal_ldm.data.processing import CHUNK_SIZE, record_path, square_path
from animal_ldm.data.records import PhotoRecord
from animal_ldm.data.settings import PreparationSettings
from animal_ldm.evaluation.metrics import moments
from animal_ldm.evaluation.neighbours import nearest_in_parts
from animal_ldm.files import write_json
from animal_ldm.training.cache import Cache
from animal_ldm.training.stream import ImageStream

SIDE = 32
CLASSES = 100
BATCHES = 100  # of 128
DIM = 512  # numbers in a feature: SqueezeNet's


@dataclass(frozen=True)
class BenchmarkArguments:
    """Time and memory by number of photos."""

    # Numbers of photos, ascending.
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    # Steps to measure. load and stream need prepare or finish, which is prepare after its last photo: for more photos
    # than this machine is to process.
    steps: tuple[str, ...] = ("prepare", "load", "stream", "duplicates", "cache", "evaluate")
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


def write_records(number: int, folder: Path) -> None:
    """What a preparation has after its last photo. The pixels are those of one picture, which all squares link to."""
    encoded = BytesIO()
    Image.new("RGB", (SIDE, SIDE), "green").save(encoded, "PNG")
    png, work = encoded.getvalue(), folder / "prepared" / WORK_FOLDER
    columns = {"image": [{"bytes": png, "path": None}] * number}
    columns |= {"label": [f"class {index % CLASSES}" for index in range(number)]}
    features = Features({"image": ImageFeature(), "label": Value("string")})
    (folder / "source").mkdir()
    Dataset.from_dict(columns, features).to_parquet(str(folder / "source" / "photos.parquet"))
    work.mkdir(parents=True)
    (folder / "square.png").write_bytes(png)
    rng, sha256 = np.random.default_rng(number), hashlib.sha256(png).hexdigest()
    for start in range(0, number, CHUNK_SIZE):
        indices = range(start, min(start + CHUNK_SIZE, number))
        records = [
            PhotoRecord(digest=f"{index:016x}", thumbnail=rng.bytes(272).hex(), crop="center", sha256=sha256)
            for index in indices
        ]
        write_json(record_path(work, start), [asdict(record) for record in records])
        for index in indices:
            square_path(work, index).symlink_to(folder / "square.png")


def write_features(number: int, folder: Path) -> None:
    rng = np.random.default_rng(number)
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float32, (number, DIM))
    for start in range(0, number, 10_000):
        part = features[start : start + 10_000]
        part[:] = rng.standard_normal(part.shape, np.float32) + 0.5


def measure_prepare(number: int, folder: Path) -> None:
    settings = PreparationSettings(num_classes=CLASSES, image_size=SIDE, format="shards")
    prepare(str(folder / "source"), folder / "prepared", settings, workers=1)


measure_finish = measure_prepare


def measure_evaluate(number: int, folder: Path) -> None:
    """Mean and covariance of the reference, and the nearest photo of 1,000 samples."""
    features = torch.from_numpy(np.load(folder / "features.npy", mmap_mode="c"))
    moments(features)
    nearest_in_parts(torch.randn(1000, DIM), features, [1])


def measure_load(number: int, folder: Path) -> None:
    """What every process of a training does with the metadata, and some photos at random places."""
    split = load_split(folder / "prepared", "train")
    assert split.fingerprint and len(split.classes) == CLASSES
    for index in np.random.default_rng(0).integers(len(split), size=1000).tolist():
        split.image(index)


def measure_stream(number: int, folder: Path) -> None:
    labels = load_split(folder / "prepared", "train").labels
    for balance in (0.0, 1.0):
        stream = ImageStream(labels, 0, balance)
        for batch in range(BATCHES):
            stream.indices(batch * 128, 128)


def measure_duplicates(number: int, folder: Path) -> None:
    for _ in near_duplicates(np.load(folder / "thumbnails.npy")):
        pass


def measure_cache(number: int, folder: Path) -> None:
    """An array of 128 bytes a photo is filled, opened again with its digest compared, and read at random places."""
    for _ in range(2):
        array = Cache(Accelerator(cpu=True), folder / "arrays").array(
            "key", (number, 64), np.float16, lambda start, stop: np.zeros((stop - start, 64), np.float16), "cache"
        )
    for batch in range(BATCHES):
        array[np.random.default_rng(batch).integers(number, size=128)].sum()


def own_memory() -> float:
    """MiB of this process now, without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measured(step: Callable[[int, Path], None], number: int, folder: Path) -> tuple[float, float, float]:
    """CPU seconds and MiB, without and with mapped files, of a step, in a fresh process."""
    torch.set_num_threads(1)
    before, own, done = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [own_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            own.append(own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.thread_time()
    step(number, folder)
    seconds = time.thread_time() - started
    done.set()
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, max(own) - own[0], (after - before) / 1024


def main() -> None:
    arguments = parse(BenchmarkArguments, None, prog="benchmarks/growth.py")
    print(describe_machine())
    steps = {step: globals()[f"measure_{step}"] for step in arguments.steps}
    results: dict[str, list[tuple[float, float, float]]] = {step: [] for step in steps}
    for number in arguments.sizes:
        shutil.rmtree(arguments.folder, ignore_errors=True)
        arguments.folder.mkdir(parents=True)
        for step, write in (("prepare", write_source), ("finish", write_records), ("evaluate", write_features)):
            if step in steps:
                write(number, arguments.folder)
        if "duplicates" in steps:
            thumbnails, *_ = duplicates_benchmark.synthetic(number, np.random.default_rng(number))
            np.save(arguments.folder / "thumbnails.npy", thumbnails)
        for name, step in steps.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                results[name].append(process.submit(partial(measured, step, number, arguments.folder)).result())
            seconds, own, peak = results[name][-1]
            print(f"{name:11s} {number:9,} photos  {seconds:9.2f} s  {own:8,.0f} MiB  {peak:8,.0f} MiB", flush=True)
    shutil.rmtree(arguments.folder)
    for name, values in results.items():
        if len(values) > 1:
            logs = np.log(np.maximum(values, 1e-3))
            exponents = "{:.2f}, own memory as N^{:.2f}, with files as N^{:.2f}".format(
                *np.polyfit(np.log(arguments.sizes), logs, 1)[0]
            )
            print(f"{name:11s} time grows as N^{exponents}")


if __name__ == "__main__":
    main()
