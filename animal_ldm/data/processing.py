"""The part of `prepare` that works photo by photo, in parallel: from a photo to its square and a record of it.

Photos are processed in chunks. A chunk's records are written, whole or not at all, after all of its squares, so a
chunk with records is done: a start after a stop goes on with the others.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from .duplicates import thumbnail
from .photos import Box, SkippedPhoto, center_square, open_photo, pixel_digest, scale_square, square_around, visible
from .sources import DatasetReader, FolderReader, Photo, class_name

CHUNK_SIZE = 64  # photos; what a stopped preparation loses per worker


class Processing(NamedTuple):
    """What turns a photo into a square: `work` is the folder of squares and records."""

    reader: FolderReader | DatasetReader
    image_size: int
    crop: Literal["box", "center"]
    margin: float
    work: Path


def process_photos(photos: list[Photo], processing: Processing, workers: int) -> list[dict]:
    """Write the square of every usable photo (`square_path`); return a record of every photo, in order.

    A record holds `skipped` and `detail` (why), or `digest`, `thumbnail` (hexadecimal), `crop`, `count` (animals that
    the square shows, 0 where not known), `boxes_of_other_classes`, `wrong_label_lines` and `profile_problem`.
    """
    work = processing.work
    chunks = [(start, photos[start : start + CHUNK_SIZE]) for start in range(0, len(photos), CHUNK_SIZE)]
    left = [chunk for chunk in chunks if not record_path(work, chunk[0]).exists()]
    done = len(photos) - sum(len(chunk) for _, chunk in left)
    with tqdm(total=len(photos), initial=done, unit=" photos", desc="prepare") as progress:
        for processed in process_chunks(left, processing, min(workers, len(left))):
            progress.update(processed)
    return [record for start, _ in chunks for record in read_json(record_path(work, start))]


def process_chunks(chunks: list[tuple[int, list[Photo]]], processing: Processing, workers: int) -> Iterator[int]:
    """Yield the number of photos of each chunk when it is done."""
    if workers <= 1:
        yield from map(partial(process_chunk, processing), chunks)
        return
    # Spawned rather than forked: the library behind a dataset's reader has threads of its own.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, start_worker, (processing,))
    try:
        yield from executor.map(process_chunk_in_worker, chunks)
    finally:
        executor.shutdown(cancel_futures=True)


def start_worker(processing: Processing) -> None:
    global processing_of_worker
    processing_of_worker = processing
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """An executor's workers outlive a killed parent, waiting for work; ours must not write beside a second start."""
    multiprocessing.parent_process().join()
    os._exit(1)


def process_chunk_in_worker(chunk: tuple[int, list[Photo]]) -> int:
    return process_chunk(processing_of_worker, chunk)


def process_chunk(processing: Processing, chunk: tuple[int, list[Photo]]) -> int:
    start, photos = chunk
    records = []
    for index, photo in enumerate(photos, start):
        try:
            records.append(process_photo(photo, processing, square_path(processing.work, index)))
        except SkippedPhoto as skipped:
            records.append({"skipped": skipped.reason, "detail": skipped.detail})
    write_json(records, record_path(processing.work, start), processing.work)
    return len(photos)


def process_photo(photo: Photo, processing: Processing, square: Path) -> dict:
    """Write the square of one photo and return its record.

    Raises:
        SkippedPhoto: the photo cannot be used.
    """
    if not photo.label and not photo.text:
        raise SkippedPhoto("no_class", "neither class nor caption")
    try:
        data = processing.reader.photo_bytes(photo)
    except OSError as error:
        raise SkippedPhoto("unreadable", str(error)) from None
    image, profile_problem = open_photo(data)
    if 2 * min(image.size) < processing.image_size:
        raise SkippedPhoto("too_small", "{} x {} pixels".format(*image.size))
    boxes, others, wrong_lines = read_boxes(*processing.reader.label_lines(photo), photo.label, Box(0, 0, *image.size))
    boxed = processing.crop == "box" and bool(boxes)
    if boxed:
        # Never smaller than the square to write as long as the photo has the pixels: enlarging only blurs.
        crop = square_around(boxes, *image.size, processing.margin, smallest=processing.image_size)
    else:
        crop = center_square(*image.size)
    encoded = BytesIO()
    scale_square(image, crop, processing.image_size).save(encoded, "PNG")
    write_whole(encoded.getvalue(), square, processing.work)
    return {
        "digest": pixel_digest(image),
        "thumbnail": thumbnail(image).hex(),
        "crop": "box" if boxed else "center",
        # A count is only said of a square that shows all that were counted.
        "count": len(boxes) if all(visible(box, crop) for box in boxes) else 0,
        "boxes_of_other_classes": others,
        "wrong_label_lines": wrong_lines,
        "profile_problem": profile_problem,
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
        if not box.area > 0:
            wrong.append(f"{file}:{number}: no box within {picture.right} x {picture.bottom} pixels: {line[:80]!r}")
        elif class_name(name) == label:
            boxes.append(box)
        else:
            others += 1
    return boxes, others, wrong


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
