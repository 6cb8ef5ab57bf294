"""`animal-ldm prepare SOURCE OUT`: photos -> captioned squares, split into train and validation.

    source ──list──> photos ──processing, in parallel──> squares + records ──duplicates, split, captions──> OUT

Squares and records wait in `OUT/.preparation` until all are there; the rest is a pure function of them. So a
preparation that was stopped at any moment goes on from where it was and ends with the same bytes. The `metadata.jsonl`
files are written last: where they are, the dataset is complete.
"""

import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..arguments import parse, positional
from ..errors import InputError
from .captions import caption, may_be_plural, with_article
from .dataset_card import SHEET_COLUMNS, contact_sheet, dataset_card
from .duplicates import near_duplicates
from .processing import Processing, process_photos, read_json, square_path, write_json, write_whole
from .sources import Photo, class_name, open_source

WORK_FOLDER = ".preparation"
REPORT = "preparation_report.json"
CARD = "dataset_card.md"
CONTACT_SHEET = "contact_sheet.jpg"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class PrepareArguments:
    """Crop, scale and caption photos, drop what is broken or a duplicate, and split the rest.

    Writes train/ and validation/ with metadata.jsonl, as `datasets` loads them, dataset_card.md, and
    preparation_report.json, which names every photo left out. Stopped and started again, it goes on.
    """

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
        """The arguments on which the result depends, as JSON gives them back."""
        values = {name: value for name, value in asdict(self).items() if name not in ("source", "out", "workers")}
        return {**values, "classes": list(self.classes)}


def main(argv: list[str] | None = None) -> None:
    arguments = parse(PrepareArguments, argv, prog="animal-ldm prepare")
    arguments.check()
    source = open_source(arguments.source, arguments.image_column, arguments.label_column, arguments.text_column)
    photos = choose_classes(source.photos, arguments)
    out = Path(arguments.out)
    work = out / WORK_FOLDER
    job = {"arguments": arguments.decisive(), "photos": list_fingerprint(photos)}
    check_folders(out, Path(arguments.source))
    if not is_done(out, job):
        begin(out, job)
        processing = Processing(source.reader, arguments.image_size, arguments.crop, arguments.margin, work)
        records = process_photos(photos, processing, arguments.workers)
        finish(photos, records, source.name, arguments, job, out)
    shutil.rmtree(work, ignore_errors=True)
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


# --- the folder to write ---------------------------------------------------------------------------------------------


def check_folders(out: Path, source: Path) -> None:
    """Raise InputError when `out` is no folder, or lies within the source."""
    if out.exists() and not out.is_dir():
        raise InputError(f"OUT must be a folder, and {out} is a file.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"OUT {out} lies within SOURCE, in which nothing is to be changed; choose another folder.")


def is_done(out: Path, job: dict) -> bool:
    """Whether `out` holds the whole dataset of this job, every picture included."""
    report = read_json(out / REPORT)
    if report is None or any(report.get(key) != value for key, value in job.items()):
        return False
    splits = [split for split in SPLITS if report[split]]
    return all((out / split / "metadata.jsonl").exists() for split in splits) and all(
        (out / split / json.loads(line)["file_name"]).exists()
        for split in splits
        for line in (out / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    )


def begin(out: Path, job: dict) -> None:
    """Make `out`, or go on in it when it holds a stopped start of this job.

    Raises:
        InputError: `out` holds something else than this job.
    """
    earlier = read_json(out / WORK_FOLDER / "job.json") or read_json(out / REPORT)
    there = {path.name for path in out.iterdir()} - {WORK_FOLDER} if out.is_dir() else set()
    if earlier is None and there:
        raise InputError(f"OUT {out} holds something else ({', '.join(sorted(there)[:5])}); choose another folder.")
    if earlier is not None and any(earlier.get(key) != value for key, value in job.items()):
        raise InputError(
            f"OUT {out} holds a preparation {describe_difference(earlier, job)}; "
            "delete it, choose another folder, or give the same arguments."
        )
    (out / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
    write_json(job, out / WORK_FOLDER / "job.json", out / WORK_FOLDER)


def describe_difference(earlier: dict, job: dict) -> str:
    before, now = earlier.get("arguments", {}), job["arguments"]
    different = [f"{name} {before.get(name)} there, {now[name]} here" for name in now if before.get(name) != now[name]]
    return f"with other arguments ({'; '.join(different)})" if different else "of other or since changed photos"


# --- from squares and records to the dataset -------------------------------------------------------------------------


def finish(
    photos: list[Photo], records: list[dict], source: str, arguments: PrepareArguments, job: dict, out: Path
) -> None:
    """Drop duplicates, split, caption, and write all but the squares, which are moved into place."""
    work = out / WORK_FOLDER
    skip_duplicates(photos, records)
    kept = [index for index, record in enumerate(records) if "skipped" not in record]
    if not kept:
        reasons = dict(Counter(record["skipped"] for record in records))
        raise InputError(f"None of the {len(photos)} photos of {arguments.source} can be used: {reasons}.")
    validation = choose_validation(photos, records, kept, arguments)
    rows = {split: [] for split in SPLITS}
    for index in kept:
        photo, record = photos[index], records[index]
        split = "validation" if index in validation else "train"
        file_name = f"{folder_name(photo.label)}/{record['digest']}.png"
        text = photo.text or caption(photo.label, record["count"], arguments.seed, record["digest"])
        rows[split].append({"file_name": file_name, "text": text, "label": photo.label})
        move(square_path(work, index), out / split / file_name)

    report = build_report(photos, records, validation, source, job)
    write_json(report, out / REPORT, work)
    write_whole(dataset_card(report).encode(), out / CARD, work)
    for split in rows:
        rows[split].sort(key=lambda row: row["file_name"])
    write_whole(contact_sheet(photos_by_class(rows, list(report["classes"]), out)), out / CONTACT_SHEET, work)
    for split in SPLITS:
        if rows[split]:
            lines = "".join(json.dumps(row) + "\n" for row in rows[split])
            write_whole(lines.encode(), out / split / "metadata.jsonl", work)


def skip_duplicates(photos: list[Photo], records: list[dict]) -> None:
    """Keep the first, by name, of photos that are equal pixel by pixel or nearly so, and skip the others."""
    originals = {}
    for photo, record in zip(photos, records, strict=True):
        if "skipped" not in record:
            original = originals.setdefault(record["digest"], photo.name)
            if original != photo.name:
                record.update(skipped="duplicate", detail=f"same pixels as {original}")
    left = [index for index, record in enumerate(records) if "skipped" not in record]
    for first, second in near_duplicates([bytes.fromhex(records[index]["thumbnail"]) for index in left]):
        original, record = left[first], records[left[second]]
        if "skipped" not in records[original] and "skipped" not in record:
            record.update(skipped="near_duplicate", detail=f"nearly the same as {photos[original].name}")


def choose_validation(
    photos: list[Photo], records: list[dict], kept: list[int], arguments: PrepareArguments
) -> set[int]:
    """The photos of each class with the lowest hash of (seed, pixels): neither order nor names have a say in it."""

    def draw(index: int) -> bytes:
        return hashlib.sha256(f"split {arguments.seed} {records[index]['digest']}".encode()).digest()

    by_class = defaultdict(list)
    for index in sorted(kept, key=draw):
        by_class[photos[index].label].append(index)
    validation = set()
    for indices in by_class.values():
        number = round(arguments.val_fraction * len(indices))
        if arguments.val_fraction > 0 and len(indices) > 1:
            number = min(max(number, 1), len(indices) - 1)
        validation.update(indices[:number])
    return validation


def folder_name(label: str) -> str:
    """The class as a folder: "polar bear" -> "polar_bear"; what no folder's name should hold becomes "_" as well."""
    return "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in label) or "unlabelled"


def move(square: Path, destination: Path) -> None:
    """Put a square into place, unless a stopped start did so already."""
    if square.exists():
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(square, destination)


def build_report(photos: list[Photo], records: list[dict], validation: set[int], source: str, job: dict) -> dict:
    """What `preparation_report.json` holds: counts and the files behind them, no times and no machine."""
    classes = defaultdict(lambda: {"found": 0, "train": 0, "validation": 0})
    skipped = defaultdict(list)
    crops = {"box": 0, "center": 0}
    captions = {"own": 0, "templates": 0}
    for index, (photo, record) in enumerate(zip(photos, records, strict=True)):
        classes[photo.label]["found"] += 1
        if "skipped" in record:
            skipped[record["skipped"]].append({"file": photo.name, "why": record["detail"]})
            continue
        classes[photo.label]["validation" if index in validation else "train"] += 1
        crops[record["crop"]] += 1
        captions["own" if photo.text else "templates"] += 1
    return {
        **job,
        "source": source,
        "found": len(photos),
        "train": sum(count["train"] for count in classes.values()),
        "validation": sum(count["validation"] for count in classes.values()),
        "classes": dict(sorted(classes.items(), key=lambda item: (-item[1]["found"], item[0]))),
        "crops": crops,
        "captions": captions,
        "possible_plurals": [name for name in sorted(classes) if captions["templates"] and may_be_plural(name)],
        "skipped": {reason: len(files) for reason, files in sorted(skipped.items())},
        "skipped_files": dict(sorted(skipped.items())),
        "boxes_of_other_classes": sum(record.get("boxes_of_other_classes", 0) for record in records),
        "wrong_label_lines": [line for record in records for line in record.get("wrong_label_lines", [])],
        "wrong_colour_profiles": [
            {"file": photo.name, "why": record["profile_problem"]}
            for photo, record in zip(photos, records, strict=True)
            if record.get("profile_problem")
        ],
    }


def photos_by_class(rows: dict[str, list[dict]], classes: list[str], out: Path) -> dict[str, list[Path]]:
    """The first photos of each class for the contact sheet, those to train on before those for validation."""
    photos = {label: [] for label in classes}
    for split in SPLITS:
        for row in rows[split]:
            if len(photos[row["label"]]) < SHEET_COLUMNS:
                photos[row["label"]].append(out / split / row["file_name"])
    return photos


def print_summary(out: Path) -> None:
    report = read_json(out / REPORT)
    print(f"{out}: {report['train']} photos to train on, {report['validation']} for validation")
    for reason, number in report["skipped"].items():
        print(f"  skipped {number}: {reason.replace('_', ' ')}")
    if report["wrong_label_lines"]:
        print(f"  left out {len(report['wrong_label_lines'])} wrong label lines")
    if report["wrong_colour_profiles"]:
        print(f"  took {len(report['wrong_colour_profiles'])} photos with a broken colour profile as sRGB")
    for name in report["possible_plurals"]:
        print(f"  is {name!r} a plural? Captions say {with_article(name)!r}: name the class in the singular if it is")
    print(f"  {REPORT} names the files, {CARD} describes the dataset, {CONTACT_SHEET} shows it")


if __name__ == "__main__":
    main()
