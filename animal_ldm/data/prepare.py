"""`animal-ldm prepare SOURCE OUT`: photos -> captioned squares, split into train and validation.

    source ──list──> photos ──chunks, in parallel──> squares + records ──duplicates, split, captions──> OUT

The chunks' squares and records wait in `OUT/.preparation` until all are there; the rest is a pure function of them. So
a preparation that was stopped at any moment goes on from its finished chunks and ends with the same bytes. The
`metadata.jsonl` files are written last: where they are, the dataset is complete.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from ..arguments import parse, positional
from ..errors import InputError
from .captions import caption
from .photos import (
    Box,
    SkippedPhoto,
    center_square,
    open_photo,
    pixel_digest,
    scale_square,
    square_around,
    visible,
)
from .sources import DatasetReader, FolderReader, Photo, Source, class_name, open_source

WORK_FOLDER = ".preparation"
REPORT = "preparation_report.json"
CHUNK_SIZE = 64  # photos; what a stopped preparation loses per worker


@dataclass(frozen=True)
class PrepareArguments:
    # A folder <class>/*.jpg, a folder train/<Class>/*.jpg in the Kaggle "Animals Detection Images" layout (boxes in
    # <Class>/Label/*.txt; photos of its test/ join the pool before our own split), or a dataset of the `datasets`
    # library, by folder or by name on the Hub. Nothing in it is changed.
    source: positional("SOURCE")
    # Folder to write: train/ and validation/ with PNG squares and metadata.jsonl, dataset_card.md,
    # preparation_report.json. New, empty, or a stopped preparation with the same arguments, which then goes on.
    out: positional("OUT")
    # Take this many classes, those with the most photos; ties by name.
    num_classes: int = 11
    # Take exactly these classes instead.
    classes: tuple[str, ...] = ()
    # Side of the squares in pixels. Photos whose shorter side is below half of it are skipped.
    image_size: int = 128
    # box: the square around the labelled animals where a photo has boxes, else the centre. center: always the centre.
    crop: Literal["box", "center"] = "box"
    # With --crop box: room left around the animals, as a share of the longer side of their common box.
    margin: float = 0.1
    # Share of each class that goes to validation; at least one photo of every class with two or more.
    val_fraction: float = 0.1
    # Decides the split and the captions.
    seed: int = 423432
    # Licence of the photos for the dataset card, as the Hub spells it (cc-by-4.0). Default: unknown.
    licence: str | None = None
    # Column with the pictures, for a dataset of the `datasets` library. Default: image.
    image_column: str | None = None
    # Column with the class names. Default: label, where there is one. Without it all photos form one unnamed class.
    label_column: str | None = None
    # Column with your own captions, which then replace ours. Default: text, where there is one.
    text_column: str | None = None
    # Processes that open, crop and write photos.
    workers: int = os.cpu_count() or 1

    def check(self) -> None:
        """Raise InputError for a value out of range."""
        for name, holds, expected in (
            ("num_classes", self.num_classes >= 1, "at least 1"),
            ("image_size", self.image_size >= 8, "at least 8 pixels"),
            ("margin", self.margin >= 0, "at least 0"),
            ("val_fraction", 0 <= self.val_fraction < 1, "at least 0 and below 1"),
            ("workers", self.workers >= 1, "at least 1"),
        ):
            if not holds:
                raise InputError(f"--{name} must be {expected}; it is {getattr(self, name)}.")

    def decisive(self) -> dict:
        """The arguments on which the result depends."""
        return {name: value for name, value in asdict(self).items() if name not in ("source", "out", "workers")}


def main(argv: list[str] | None = None) -> None:
    arguments = parse(PrepareArguments, argv, prog="animal-ldm prepare")
    arguments.check()
    source = open_source(arguments.source, arguments.image_column, arguments.label_column, arguments.text_column)
    photos = choose_classes(source.photos, arguments)
    out = Path(arguments.out)
    job = {"arguments": arguments.decisive(), "photos": list_fingerprint(photos)}
    if begin(out, Path(arguments.source), job):
        started = time.monotonic()
        process_photos(photos, source.reader, arguments, out / WORK_FOLDER)
        seconds = time.monotonic() - started
        print(f"{len(photos)} photos in {seconds:.0f} s ({len(photos) / seconds:.0f} a second)")
        finish(photos, source, arguments, job, out)
    shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
    print_summary(out)


def choose_classes(photos: list[Photo], arguments: PrepareArguments) -> list[Photo]:
    """The photos of the classes asked for.

    Raises:
        InputError: a class of `--classes` is not there.
    """
    counts = Counter(photo.label for photo in photos)
    by_size = sorted(counts, key=lambda label: (-counts[label], label))
    chosen = [class_name(name) for name in arguments.classes] or by_size[: arguments.num_classes]
    unknown = [name for name in chosen if name not in counts]
    if unknown:
        there = ", ".join(f"{label} ({counts[label]})" for label in by_size)
        raise InputError(f"--classes: {arguments.source} has no {', '.join(unknown)}. It has: {there}.")
    return [photo for photo in photos if photo.label in set(chosen)]


def list_fingerprint(photos: list[Photo]) -> str:
    """Changes when a photo or a label file is added, removed or changed."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(json.dumps([photo.name, photo.label, photo.text, photo.stamp]).encode())
    return digest.hexdigest()


def begin(out: Path, source: Path, job: dict) -> bool:
    """Whether there is anything left to do in `out`.

    Raises:
        InputError: `out` lies within the source, or holds something else than this preparation.
    """
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"OUT {out} lies within SOURCE, in which nothing is to be changed; choose another folder.")
    if out.exists() and not out.is_dir():
        raise InputError(f"OUT must be a folder, and {out} is a file.")
    stopped, finished = read_json(out / WORK_FOLDER / "job.json"), read_json(out / REPORT)
    earlier = stopped or (finished and {key: finished[key] for key in job if key in finished})
    there = {path.name for path in out.iterdir()} - {WORK_FOLDER} if out.is_dir() else set()
    if earlier is None and there:
        raise InputError(f"OUT {out} holds something else ({', '.join(sorted(there)[:5])}); choose another folder.")
    job = json.loads(json.dumps(job))  # tuples become lists, as in the file
    if earlier is not None and earlier != job:
        raise InputError(
            f"OUT {out} holds a preparation {describe_difference(earlier, job)}; "
            "delete it, choose another folder, or give the same arguments."
        )
    if stopped is None and finished is not None and is_complete(out):
        return False
    (out / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
    write_json(job, out / WORK_FOLDER / "job.json", out / WORK_FOLDER)
    return True


def describe_difference(earlier: dict, job: dict) -> str:
    before, now = earlier.get("arguments", {}), job["arguments"]
    different = [f"{name} {before.get(name)} there, {now[name]} here" for name in now if before.get(name) != now[name]]
    return f"with other arguments ({'; '.join(different)})" if different else "of other or since changed photos"


def is_complete(out: Path) -> bool:
    """Whether all pictures that the metadata of a finished preparation names are there."""
    return all(
        (metadata.parent / json.loads(line)["file_name"]).exists()
        for metadata in (out / "train" / "metadata.jsonl", out / "validation" / "metadata.jsonl")
        if metadata.exists()
        for line in metadata.open(encoding="utf-8")
    )


# --- photo by photo, in parallel -------------------------------------------------------------------------------------


def process_photos(
    photos: list[Photo], reader: FolderReader | DatasetReader, arguments: PrepareArguments, work: Path
) -> None:
    """Write the square of every usable photo and a record of every photo into `work`, chunk by chunk."""
    chunks = [(start, photos[start : start + CHUNK_SIZE]) for start in range(0, len(photos), CHUNK_SIZE)]
    left = [chunk for chunk in chunks if not record_path(work, chunk[0]).exists()]
    with tqdm(total=len(photos), unit=" photos", desc="prepare") as progress:
        progress.update(len(photos) - sum(len(chunk) for _, chunk in left))
        for processed in map_in_processes(left, reader, arguments, work):
            progress.update(processed)


def map_in_processes(
    chunks: list[tuple[int, list[Photo]]], reader, arguments: PrepareArguments, work: Path
) -> Iterator[int]:
    workers = min(arguments.workers, len(chunks))
    if workers <= 1:
        yield from map(partial(process_chunk, reader, arguments, work), chunks)
        return
    # Spawned rather than forked: the library behind a dataset's reader has threads of its own.
    executor = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), start_worker, (reader, arguments, work)
    )
    try:
        yield from executor.map(process_chunk_in_worker, chunks)
    finally:
        executor.shutdown(cancel_futures=True)


def start_worker(reader, arguments: PrepareArguments, work: Path) -> None:
    global process_in_worker
    process_in_worker = partial(process_chunk, reader, arguments, work)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """An executor's workers outlive a killed parent, waiting for work; ours must not write beside a second start."""
    multiprocessing.parent_process().join()
    os._exit(1)


def process_chunk_in_worker(chunk: tuple[int, list[Photo]]) -> int:
    return process_in_worker(chunk)


def process_chunk(reader, arguments: PrepareArguments, work: Path, chunk: tuple[int, list[Photo]]) -> int:
    start, photos = chunk
    records = []
    for index, photo in enumerate(photos, start):
        try:
            records.append(process_photo(photo, reader, arguments, work, square_path(work, index)))
        except SkippedPhoto as skipped:
            records.append({"skipped": skipped.reason, "detail": skipped.detail})
    write_json(records, record_path(work, start), work)
    return len(photos)


def process_photo(photo: Photo, reader, arguments: PrepareArguments, work: Path, square: Path) -> dict:
    """Write one photo's square; the record says what the later steps need to know of it."""
    image = open_photo(reader.photo_bytes(photo))
    if 2 * min(image.size) < arguments.image_size:
        raise SkippedPhoto("too_small", "{} x {} pixels".format(*image.size))
    boxes, others, wrong_lines = read_boxes(*reader.label_lines(photo), photo.label, Box(0, 0, *image.size))
    boxed = arguments.crop == "box" and bool(boxes)
    if boxed:
        # Never smaller than the square to write as long as the photo has the pixels: enlarging only blurs.
        crop = square_around(boxes, *image.size, arguments.margin, smallest=arguments.image_size)
    else:
        crop = center_square(*image.size)
    encoded = BytesIO()
    scale_square(image, crop, arguments.image_size).save(encoded, "PNG")
    write_whole(encoded.getvalue(), square, work)
    return {
        "digest": pixel_digest(image),
        # A count is only said of a picture that shows all that were counted.
        "count": len(boxes) if all(visible(box, crop) for box in boxes) else 0,
        "crop": "box" if boxed else "center",
        "boxes_of_other_classes": others,
        "wrong_label_lines": wrong_lines,
    }


def read_boxes(file: str, lines: list[str], label: str, picture: Box) -> tuple[list[Box], int, list[str]]:
    """The boxes of class `label` clipped to the picture, the number of other animals' boxes, and what is wrong.

    A line is `Class xmin ymin xmax ymax`, in pixels; the class may hold spaces.
    """
    boxes, others, wrong = [], 0, []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name, *corners = line.rsplit(maxsplit=4)
            box = Box(*map(float, corners)).within(picture)
        except (ValueError, TypeError):
            wrong.append(f"{file}:{number}: expected `Class xmin ymin xmax ymax`, found {line[:80]!r}")
            continue
        if not box.area > 0:  # nan included
            wrong.append(f"{file}:{number}: no box within {picture.right} x {picture.bottom} pixels: {line[:80]!r}")
        elif class_name(name) == label:
            boxes.append(box)
        else:
            others += 1
    return boxes, others, wrong


# --- all together ----------------------------------------------------------------------------------------------------


def finish(photos: list[Photo], source: Source, arguments: PrepareArguments, job: dict, out: Path) -> None:
    """From squares and records to the dataset."""
    work = out / WORK_FOLDER
    records = read_records(work, len(photos))
    mark_duplicates(photos, records)
    kept = [index for index, record in enumerate(records) if "skipped" not in record]
    if not kept:
        raise InputError(f"None of the {len(photos)} photos can be used: {dict(count_skips(records))}.")
    validation = choose_validation(photos, records, kept, arguments)
    lines = defaultdict(list)
    for index in kept:
        photo, record = photos[index], records[index]
        split = "validation" if index in validation else "train"
        file_name = f"{folder_name(photo.label)}/{record['digest']}.png"
        text = photo.text or caption(photo.label, record["count"], arguments.seed, record["digest"])
        lines[split].append({"file_name": file_name, "text": text, "label": photo.label})
        move(square_path(work, index), out / split / file_name)
    write_json(build_report(photos, records, validation, source, job), out / REPORT, work)
    for split, rows in lines.items():
        rows.sort(key=lambda row: row["file_name"])
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_whole(text.encode(), out / split / "metadata.jsonl", work)


def read_records(work: Path, number: int) -> list[dict]:
    return [record for start in range(0, number, CHUNK_SIZE) for record in read_json(record_path(work, start))]


def mark_duplicates(photos: list[Photo], records: list[dict]) -> None:
    """Skip all but the first, by name, of photos that are equal pixel by pixel."""
    first = {}
    for photo, record in zip(photos, records, strict=True):
        if "digest" in record:
            original = first.setdefault(record["digest"], photo.name)
            if original != photo.name:
                record.update(skipped="duplicate", detail=f"same pixels as {original}")


def choose_validation(
    photos: list[Photo], records: list[dict], kept: Sequence[int], arguments: PrepareArguments
) -> set[int]:
    """The photos of each class with the lowest hash of (seed, pixels): no order or neighbour has a say in it."""
    by_class = defaultdict(list)
    for index in kept:
        by_class[photos[index].label].append(index)

    def draw(index: int) -> bytes:
        return hashlib.sha256(f"split {arguments.seed} {records[index]['digest']}".encode()).digest()

    validation = set()
    for indices in by_class.values():
        number = round(arguments.val_fraction * len(indices))
        if arguments.val_fraction > 0 and len(indices) > 1:
            number = min(max(number, 1), len(indices) - 1)
        validation.update(sorted(indices, key=draw)[:number])
    return validation


def folder_name(label: str) -> str:
    """ "polar bear" -> "polar_bear"; what no folder's name should hold becomes "_" as well."""
    return "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in label) or "unlabelled"


def count_skips(records: list[dict]) -> Counter:
    return Counter(record["skipped"] for record in records if "skipped" in record)


def build_report(photos: list[Photo], records: list[dict], validation: set[int], source: Source, job: dict) -> dict:
    """What `preparation_report.json` holds: counts and the files behind them, no times and no machine."""
    classes = defaultdict(lambda: {"found": 0, "train": 0, "validation": 0})
    skipped_files = defaultdict(list)
    for index, (photo, record) in enumerate(zip(photos, records, strict=True)):
        classes[photo.label]["found"] += 1
        if "skipped" in record:
            skipped_files[record["skipped"]].append({"file": photo.name, "why": record["detail"]})
        else:
            classes[photo.label]["validation" if index in validation else "train"] += 1
    used = [record for record in records if "skipped" not in record]
    return {
        **job,
        "source": source.name,
        "found": len(photos),
        "train": len(used) - len(validation),
        "validation": len(validation),
        "classes": dict(sorted(classes.items(), key=lambda item: (-item[1]["found"], item[0]))),
        "crops": dict(Counter(record["crop"] for record in used)),
        "skipped": {reason: len(files) for reason, files in sorted(skipped_files.items())},
        "skipped_files": dict(sorted(skipped_files.items())),
        "boxes_of_other_classes": sum(record.get("boxes_of_other_classes", 0) for record in records),
        "wrong_label_lines": [line for record in records for line in record.get("wrong_label_lines", [])],
    }


def print_summary(out: Path) -> None:
    report = read_json(out / REPORT)
    print(f"{out}: {report['train']} photos to train on, {report['validation']} for validation")
    for reason, number in report["skipped"].items():
        print(f"  skipped {number}: {reason.replace('_', ' ')}")
    if report["wrong_label_lines"]:
        print(f"  {len(report['wrong_label_lines'])} wrong label lines")
    print(f"  files and reasons: {out / REPORT}")


# --- files -----------------------------------------------------------------------------------------------------------


def record_path(work: Path, start: int) -> Path:
    return work / f"records-{start:08d}.json"


def square_path(work: Path, index: int) -> Path:
    return work / f"square-{index:08d}.png"


def read_json(path: Path):
    """The content of `path`, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_json(content, path: Path, work: Path) -> None:
    write_whole((json.dumps(content, indent=1) + "\n").encode(), path, work)


def write_whole(data: bytes, path: Path, work: Path) -> None:
    """Write a file that is there whole or not at all; what is half written stays in `work`, which is removed."""
    temporary = work / f"{path.name}.{os.getpid()}"
    temporary.write_bytes(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, path)


def move(square: Path, destination: Path) -> None:
    """Put a square into place, unless a stopped start did so already."""
    if square.exists():
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(square, destination)


if __name__ == "__main__":
    main()
