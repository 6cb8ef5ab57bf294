"""Photos -> captioned squares, split into train and validation: a prepared dataset.

    source ──list──> photos ──processing, in parallel──> squares + records ──duplicates, split, captions──> OUT

Squares and records wait in `OUT/.preparation` until all of them are there; the rest is a pure function of them. So a
preparation that was stopped at any moment resumes and ends with the same bytes. The `metadata.jsonl` files are written
last: where they are, the dataset is complete.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from ..files import write_bytes, write_json, write_text
from ..locks import locked
from .captions import caption, caption_sources, described_captions
from .dataset_card import SHEET_COLUMNS, contact_sheet, dataset_card
from .duplicates import near_duplicates
from .processing import Processing, Share, process_photos, square_path
from .reading import class_name, folder_name, shown
from .records import (
    ATTRIBUTES,
    MODEL_PREFIX,
    NO_CAPTION,
    OWN,
    TEMPLATE,
    MetadataLine,
    Photo,
    PhotoRecord,
)
from .report import REPORT, Job, PreparationReport, build_report, read_report, read_settings, with_attributes
from .settings import Part, PreparationSettings
from .sources import Source, open_source

WORK_FOLDER = ".preparation"
CARD = "dataset_card.md"
CONTACT_SHEET = "contact_sheet.jpg"
SPLITS = ("train", "validation")
FOLDERS_BELOW = 20_000  # photos; from here on shards are the default

logger = logging.getLogger(__name__)


def prepare(
    source_name: str, out: Path, settings: PreparationSettings, workers: int, part: Part | None = None
) -> PreparationReport | None:
    """Prepare the photos of `source_name` in the folder `out`, or resume a stopped preparation there.

    Of a `part` only the squares are made, and None is returned. A preparation without it makes what is missing and
    the dataset, which does not depend on the parts.

    Raises:
        InputError: the source or the settings cannot be used, `out` holds something else, or another process writes
            to it.
    """
    source = open_source(source_name, settings.image_column, settings.label_column, settings.text_column)
    photos = choose_classes(source, settings)
    if not source.has_text:
        logger.warning(
            "The photos of %s have neither classes nor captions, so their texts are empty: a model trained on them "
            "ignores its prompt. To train a text-to-image model, put the photos of each class into a folder with the "
            "class's name, or a text file with a caption beside each photo (zebra.jpg, zebra.txt).",
            source.name,
        )
    settings = replace(settings, format=settings.format or default_format(out, len(photos)))
    job = Job(settings, list_fingerprint(photos))
    check_folders(out, Path(source_name))
    place = out.resolve()
    suffix = f".part-{part.index}-of-{part.number}" if part else ""
    with locked(place.with_name(f".{place.name}{suffix}.lock"), f"OUT {shown(out)}"):
        return prepare_photos(source, photos, job, out, Share(workers, part))


def default_format(out: Path, photos: int) -> Literal["folders", "shards"]:
    """That of the preparation in `out`, if there is one."""
    report, job = read_report(out / REPORT), read_job(out / WORK_FOLDER / "job.json")
    for earlier in (report and report.arguments, job and job.arguments):
        if earlier and earlier.format:
            return earlier.format
    return "folders" if photos < FOLDERS_BELOW else "shards"


def prepare_photos(source: Source, photos: list[Photo], job: Job, out: Path, share: Share) -> PreparationReport | None:
    """The rest of `prepare`, while no other process writes to `out` but those of other parts."""
    settings = job.arguments
    report = finished_report(out, job)
    if report is None:
        begin(out, job)
        work = out / WORK_FOLDER
        processing = Processing(
            source.reader,
            settings.image_size,
            settings.crop,
            settings.margin,
            work,
            without_text=not source.has_text,
            describe=settings.describe,
        )
        processed = process_photos(photos, processing, share)
        if processed is None:
            return None
        records, thumbnails = processed
        skip_duplicates(photos, records, thumbnails)
        del processed, thumbnails  # a fifth of the memory
        report = finish(out, job, source, photos, records)
    shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
    return report


def choose_classes(source: Source, settings: PreparationSettings) -> list[Photo]:
    """The photos of the classes asked for.

    Raises:
        InputError: the source lacks a class of `--classes`.
    """
    counts = Counter(photo.label for photo in source.photos)
    by_size = sorted(counts, key=lambda label: (-counts[label], label))
    chosen = [class_name(name) for name in settings.classes] or by_size[: settings.num_classes]
    unknown = [name for name in chosen if name not in counts]
    if unknown:
        there = ", ".join(f"{label or '(no class)'} ({counts[label]})" for label in by_size)
        raise InputError(f"--classes: {source.name} has no {', '.join(unknown)}. It has: {there}.")
    return [photo for photo in source.photos if photo.label in set(chosen)]


def list_fingerprint(photos: list[Photo]) -> str:
    """Changes when a photo, a caption or a label file is added, removed or changed."""
    digest = hashlib.sha256()
    for photo in photos:
        # One caption is a string: so is it in the reports of earlier versions.
        texts = photo.texts if len(photo.texts) > 1 else "".join(photo.texts)
        digest.update(json.dumps([photo.name, photo.label, texts, photo.stamp]).encode())
    return digest.hexdigest()


# --- the folder to write ---------------------------------------------------------------------------------------------


def check_folders(out: Path, source: Path) -> None:
    """Raise an `InputError` when `out` is not a folder, or is inside the source."""
    if os.path.lexists(out) and not out.is_dir():
        raise InputError(f"OUT must be a folder, and {shown(out)} is a file.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"OUT {shown(out)} is inside SOURCE, which must not be changed. Choose another folder.")


def finished_report(out: Path, job: Job) -> PreparationReport | None:
    """The report in `out`, if it holds the whole dataset of this job, every image included."""
    report = read_report(out / REPORT)
    if report is None or Job(report.arguments, report.photos) != job:
        return None
    for split, photos in zip(SPLITS, (report.train, report.validation), strict=True):
        try:
            for line in read_lines(out, split) if photos else ():
                if report.arguments.format == "folders" and not (out / split / line.file_name).exists():
                    return None
        except (OSError, ValueError):
            return None
    return report


def read_lines(out: Path, split: str) -> Iterator[MetadataLine]:
    """The metadata of a split. Raises an OSError or ValueError where it is missing or damaged."""
    if next((out / split).glob("*.parquet"), None):
        from .shards import read_shards  # imports `datasets`, which takes seconds and which folders do not need

        yield from read_shards(out / split)
    else:
        content = (out / split / "metadata.jsonl").read_text(encoding="utf-8")
        yield from map(MetadataLine.parse, content.splitlines())


def begin(out: Path, job: Job) -> None:
    """Create `out`, or check that it holds a stopped preparation of this job.

    Raises:
        InputError: `out` holds something else.
    """
    report = read_report(out / REPORT)
    earlier = read_job(out / WORK_FOLDER / "job.json") or (report and Job(report.arguments, report.photos))
    there = {path.name for path in out.iterdir()} - {WORK_FOLDER} if out.is_dir() else set()
    if earlier is None and there:
        found = ", ".join(map(shown, sorted(there)[:5]))
        raise InputError(f"OUT {shown(out)} holds something else ({found}). Choose another folder.")
    if earlier is not None and earlier != job:
        raise InputError(
            f"OUT {shown(out)} holds a preparation {describe_difference(earlier, job)}. "
            "Delete it, choose another folder, or pass the same arguments."
        )
    write_json(out / WORK_FOLDER / "job.json", asdict(job))


def read_job(path: Path) -> Job | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Job(read_settings(content["arguments"]), content["photos"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def describe_difference(earlier: Job, job: Job) -> str:
    before, now = asdict(earlier.arguments), asdict(job.arguments)
    different = [f"{name} {before[name]} there, {now[name]} here" for name in now if before[name] != now[name]]
    return f"with other arguments ({'; '.join(different)})" if different else "of other or since changed photos"


# --- from squares and records to the dataset -------------------------------------------------------------------------


@dataclass(frozen=True)
class Lines(Sequence[MetadataLine]):
    """The metadata of a split. Lines are made when they are asked for: all of a large set would fill the memory.

    Attributes:
        photos, records: of the whole source.
        indices: the photos of the split, in the order of the lines.
        before: by `file_name`, the lines of an earlier preparation whose captions by models are kept.
    """

    photos: Sequence[Photo]
    records: Sequence[PhotoRecord]
    seed: int
    indices: Sequence[int]
    before: Mapping[str, MetadataLine] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: Any) -> Any:
        index = self.indices[number]
        line = metadata_line(self.photos[index], self.records[index], self.seed)
        return with_captions_of(line, self.before.get(line.file_name)) if self.before else line


def finish(out: Path, job: Job, source: Source, photos: list[Photo], records: list[PhotoRecord]) -> PreparationReport:
    """Split, caption, and put everything into place, the metadata last.

    Files are written in the work folder first: what a killed process leaves behind is removed with it.
    """
    work, packed = out / WORK_FOLDER, job.arguments.format == "shards"
    if all(record.skipped for record in records):
        reasons = dict(Counter(record.skipped for record in records))
        raise InputError(f"None of the {len(photos)} photos of {source.name} can be used: {reasons}.")
    validation = choose_validation(photos, records, job.arguments)
    used = [index for index, record in enumerate(records) if not record.skipped]
    used.sort(key=lambda index: file_name(photos[index], records[index]))
    of_split = {
        split: [index for index in used if (index in validation) == (split == "validation")] for split in SPLITS
    }

    def square_of(index: int) -> Path:
        if packed:
            return square_path(work, index)
        return out / SPLITS[index in validation] / file_name(photos[index], records[index])

    for index in used if not packed else ():
        square = square_path(work, index)
        if square.exists():  # else a stopped start has moved it already
            move(square, square_of(index))
    lines = {split: Lines(photos, records, job.arguments.seed, indices) for split, indices in of_split.items()}
    report = build_report(job, source, photos, records, validation)
    if job.arguments.describe:
        report = with_attributes(report, [*lines.values()])
    lines, report = with_captions_by_models(lines, report, out)
    report.write(work / REPORT)
    write_text(work / CARD, dataset_card(report))
    examples = {label: [] for label in report.classes}  # those of the training split before the others
    for index in chain(*of_split.values()):
        if len(own := examples[photos[index].label]) < SHEET_COLUMNS:
            own.append(square_of(index))
    write_bytes(work / CONTACT_SHEET, contact_sheet(examples))
    for name in (REPORT, CARD, CONTACT_SHEET):
        move(work / name, out / name)
    for split, own in lines.items():
        if own and packed:
            from .shards import write_shards  # imports `datasets`, see above

            write_shards(out / split, own, lambda number, of=of_split[split]: square_of(of[number]))
        elif own:
            with (work / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(line.json() for line in own)
            move(work / f"{split}.jsonl", out / split / "metadata.jsonl")
    return report


def skip_duplicates(photos: list[Photo], records: list[PhotoRecord], thumbnails: np.ndarray) -> None:
    """Keep the first, by name, of photos that are equal pixel by pixel or nearly so, and skip the others."""
    originals: dict[str, str] = {}
    for photo, record in zip(photos, records, strict=True):
        if not record.skipped:
            original = originals.setdefault(record.digest, photo.name)
            if original != photo.name:
                record.skipped, record.detail = "duplicate", f"same pixels as {original}"
    del originals
    left = np.array([index for index, record in enumerate(records) if not record.skipped], int)
    for first, second in near_duplicates(thumbnails[left]):
        original, record = left[first], records[left[second]]
        if not records[original].skipped and not record.skipped:
            record.skipped, record.detail = "near_duplicate", f"nearly the same as {photos[original].name}"


def choose_validation(photos: list[Photo], records: list[PhotoRecord], settings: PreparationSettings) -> set[int]:
    """The photos of each class with the lowest hash of (seed, pixels), whatever their order and names."""

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"split {settings.seed} {records[index].digest}".encode()).digest()

    by_class = defaultdict(list)
    for index in sorted((index for index, record in enumerate(records) if not record.skipped), key=rank):
        by_class[photos[index].label].append(index)
    validation = set()
    for indices in by_class.values():
        number = round(settings.val_fraction * len(indices))
        if settings.val_fraction > 0 and len(indices) > 1:
            number = min(max(number, 1), len(indices) - 1)
        validation.update(indices[:number])
    return validation


def metadata_line(photo: Photo, record: PhotoRecord, seed: int) -> MetadataLine:
    """The photo's own captions; without any, those made from its class; without a class, an empty text."""
    if photo.texts:
        texts, sources = photo.texts, photo.sources or (OWN,) * len(photo.texts)
    elif photo.label:
        texts, sources = (caption(photo.label, record.count, seed, record.digest),), (TEMPLATE,)
        if record.attributes:
            described = described_captions(photo.label, record.attributes, seed, record.digest)
            texts, sources = texts + described, sources + (ATTRIBUTES,) * len(described)
    else:
        texts, sources = ("",), (NO_CAPTION,)
    name = file_name(photo, record)
    return MetadataLine(name, texts[0], photo.label, texts, sources, record.attributes, record.sha256)


def file_name(photo: Photo, record: PhotoRecord) -> str:
    """Below the folder of the split."""
    return f"{folder_name(photo.label)}/{record.digest}.png"


def move(file: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, destination)


def with_captions_by_models(
    lines: dict[str, Lines], report: PreparationReport, out: Path
) -> tuple[dict[str, Lines], PreparationReport]:
    """The lines and the report with the captions that models wrote into `out` since it was prepared.

    A dataset that lacks a file is prepared again; these captions are not to be made again.
    """
    earlier = read_report(out / REPORT)
    if earlier is None or not earlier.captioners:
        return lines, report
    for split, own in lines.items():
        with contextlib.suppress(OSError, ValueError):
            lines[split] = replace(own, before={line.file_name: line for line in read_lines(out, split)})
    written, texts, without_text = Counter[str](), 0, 0
    for line in chain(*lines.values()):
        written.update(line.caption_sources)
        texts += sum(text != "" for text in line.texts)
        without_text += line.text == ""
    report = replace(
        report,
        captioners=[model for model in earlier.captioners if written[MODEL_PREFIX + model.name] == model.captions],
        num_captions=texts,
        photos_without_text=without_text,
    )
    return lines, report


def with_captions_of(line: MetadataLine, before: MetadataLine | None) -> MetadataLine:
    """The line with the captions by models that the photo had before."""
    captions = zip(before.texts, caption_sources(before), strict=True) if before else ()
    by_models = [found for found in captions if found[1].startswith(MODEL_PREFIX) and found[0] not in line.texts]
    if not by_models:
        return line
    kept = [found for found in zip(line.texts, line.caption_sources, strict=True) if found[1] != NO_CAPTION]
    texts, sources = zip(*kept, *by_models, strict=True)
    return replace(line, text=texts[0], texts=texts, caption_sources=sources)
