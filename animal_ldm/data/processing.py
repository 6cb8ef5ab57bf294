"""The part of `prepare` that works photo by photo, in parallel: from a photo to its square and a record of it.

Photos are processed in chunks. A chunk's records are written, whole or not at all, after all of its squares. So a
chunk with records is done, and a restart processes only the others.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..files import why, write_bytes, write_json
from .attributes import measure
from .duplicates import HEIGHT, WIDTH, thumbnail
from .folders import LabelFile
from .photos import Box, SkippedPhoto, center_square, open_photo, pixel_digest, scale_square, square_around, visible
from .reading import class_name
from .records import Photo, PhotoRecord
from .settings import Part
from .sources import Reader

CHUNK_SIZE = 64  # photos; what a stopped preparation loses per worker

Chunk = tuple[int, list[Photo]]  # the index of the first photo, and the photos


class Processing(NamedTuple):
    """What turns a photo into a square. `work` is the folder of squares and records.

    Photos with neither class nor caption are used if `without_text`, else skipped. `describe`: measure attributes.
    """

    reader: Reader
    image_size: int
    crop: Literal["box", "center"]
    margin: float
    work: Path
    without_text: bool = False
    describe: bool = False


class Share(NamedTuple):
    """What this machine does: with how many processes, and which part; None for all of it."""

    workers: int
    part: Part | None = None


class Processed(NamedTuple):
    """A record of every photo, in order, and their thumbnails, (N, HEIGHT * WIDTH) uint8."""

    records: list[PhotoRecord]
    thumbnails: np.ndarray


def process_photos(photos: list[Photo], processing: Processing, share: Share) -> Processed | None:
    """Write the square of every usable photo (`square_path`).

    Of a part only its photos are processed, and None is returned.
    """
    work, part = processing.work, share.part or Part(1, 1)
    chunks = [(start, photos[start : start + CHUNK_SIZE]) for start in range(0, len(photos), CHUNK_SIZE)]
    mine = chunks[part.index - 1 :: part.number]
    left = [chunk for chunk in mine if not record_path(work, chunk[0]).exists()]
    total, todo = (sum(len(chunk) for _, chunk in some) for some in (mine, left))
    with tqdm(total=total, initial=total - todo, unit=" photos", desc="prepare") as progress:
        for processed in process_chunks(left, processing, min(share.workers, len(left))):
            progress.update(processed)
    if share.part:
        return None
    processed = Processed([], np.zeros((len(photos), HEIGHT * WIDTH), np.uint8))
    for start, _ in chunks:
        for values in json.loads(record_path(work, start).read_text(encoding="utf-8")):
            if encoded := values.pop("thumbnail"):
                processed.thumbnails[len(processed.records)] = np.frombuffer(bytes.fromhex(encoded), np.uint8)
            processed.records.append(PhotoRecord.parse(values))
    return processed


def process_chunks(chunks: list[Chunk], processing: Processing, workers: int) -> Iterator[int]:
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """End this worker with its parent: an orphan would wait for ever, or write at the same time as a restart."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def process_chunk_in_worker(chunk: Chunk) -> int:
    return process_chunk(processing_of_worker, chunk)


def process_chunk(processing: Processing, chunk: Chunk) -> int:
    start, photos = chunk
    records = []
    for index, photo in enumerate(photos, start):
        try:
            records.append(process_photo(photo, processing, square_path(processing.work, index)))
        except SkippedPhoto as skipped:
            records.append(PhotoRecord(skipped=skipped.reason, detail=skipped.detail))
    write_json(record_path(processing.work, start), [asdict(record) for record in records])
    return len(photos)


def process_photo(photo: Photo, processing: Processing, square: Path) -> PhotoRecord:
    """Write the square of one photo and return its record.

    Raises:
        SkippedPhoto: the photo cannot be used.
    """
    if not photo.label and not photo.texts and not processing.without_text:
        raise SkippedPhoto("no_class", "neither class nor caption")
    try:
        data = processing.reader.photo_bytes(photo)
    except (OSError, MemoryError) as error:
        raise SkippedPhoto("unreadable", why(error)) from None
    image, profile_problem = open_photo(data)
    if 2 * min(image.size) < processing.image_size:
        raise SkippedPhoto("too_small", "{} x {} pixels".format(*image.size))
    boxes, others, wrong_lines = read_boxes(processing.reader.label_file(photo), photo.label, image)
    boxed = processing.crop == "box" and bool(boxes)
    if boxed:
        # Never smaller than the square to write as long as the photo has the pixels: enlarging only blurs.
        crop = square_around(boxes, *image.size, processing.margin, smallest=processing.image_size)
    else:
        crop = center_square(*image.size)
    encoded = BytesIO()
    scaled = scale_square(image, crop, processing.image_size)
    scaled.save(encoded, "PNG")
    png = encoded.getvalue()
    write_bytes(square, png)
    return PhotoRecord(
        digest=pixel_digest(image),
        thumbnail=thumbnail(image).hex(),
        crop="box" if boxed else "center",
        # A caption names a number only if the square shows all that were counted.
        count=len(boxes) if all(visible(box, crop) for box in boxes) else 0,
        boxes_of_other_classes=others,
        wrong_label_lines=wrong_lines,
        profile_problem=profile_problem,
        attributes=measure(np.asarray(scaled), in_square(boxes, crop, processing.image_size))
        if processing.describe
        else None,
        sha256=hashlib.sha256(png).hexdigest(),
    )


def in_square(boxes: list[Box], crop: Box, image_size: int) -> list[Box]:
    """Boxes of the photo in pixels of its square."""
    scale = image_size / (crop.right - crop.left)
    return [
        Box(*((value - origin) * scale for value, origin in zip(box, (crop.left, crop.top) * 2, strict=True)))
        for box in boxes
    ]


def read_boxes(file: LabelFile, label: str, image: Image.Image) -> tuple[list[Box], int, list[str]]:
    """The boxes of class `label` clipped to the image, the number of other classes' boxes, and what is wrong.

    A line is `Class xmin ymin xmax ymax`, in pixels; the class may hold spaces.
    """
    whole = Box(0, 0, *image.size)
    boxes, others = [], 0
    wrong = [f"{file.name}: {file.problem}"] if file.problem else []
    for number, line in enumerate(file.lines, start=1):
        if not line.strip():
            continue
        try:
            name, *corners = line.rsplit(maxsplit=4)
            box = Box(*map(float, corners)).within(whole)
        except (ValueError, TypeError):
            wrong.append(f"{file.name}:{number}: expected `Class xmin ymin xmax ymax`, found {line[:80]!r}")
            continue
        if not box.area > 0:
            size = f"{whole.right} x {whole.bottom} pixels"
            wrong.append(f"{file.name}:{number}: no box within {size}: {line[:80]!r}")
        elif class_name(name) == label:
            boxes.append(box)
        else:
            others += 1
    return boxes, others, wrong


def record_path(work: Path, start: int) -> Path:
    return work / f"records-{start:08d}.json"


def square_path(work: Path, index: int) -> Path:
    return work / f"square-{index:08d}.png"
