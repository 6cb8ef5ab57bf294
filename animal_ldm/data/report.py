"""`preparation_report.json`: the settings of a preparation, its counts, and every file behind them."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ..files import write_json
from .attributes import KINDS
from .captions import may_be_plural
from .reading import MAX_FOLDER_NAME, folder_name
from .records import FileProblem, MetadataLine, Photo, PhotoRecord
from .settings import CaptioningSettings, PreparationSettings
from .sources import Source

REPORT = "preparation_report.json"
VERSION = 2  # version 1, without a number, had `licence`, and lacked the fields with a default below


@dataclass
class ClassCounts:
    """Photos of one class: found in the source, and used in each split."""

    found: int = 0
    train: int = 0
    validation: int = 0


@dataclass
class CropCounts:
    """Squares around labelled animals, and squares from the middle of the photo."""

    box: int = 0
    center: int = 0


@dataclass
class CaptionCounts:
    """Photos with captions of the source, and photos with a caption from a template."""

    own: int = 0
    templates: int = 0


@dataclass(frozen=True, kw_only=True)
class CaptionerRecord:
    """A model that wrote captions of the dataset.

    Attributes:
        name: its id on the Hub, or the name of its folder.
        revision: its commit on the Hub, or "sha256:" and 16 digits of the digest of its files.
        settings: what decides the captions beside the model.
        photos, captions: the photos it described, and the captions they got from it.
    """

    name: str
    revision: str
    settings: CaptioningSettings
    photos: int
    captions: int


@dataclass(frozen=True, kw_only=True)
class PreparationReport:
    """The content of `preparation_report.json`. It holds no times and nothing of the machine.

    Attributes:
        arguments: the settings that decide the result.
        photos: SHA-256 over the list of photos: names, classes, captions, sizes and times of change.
        source: name of the source.
        found, train, validation: numbers of photos.
        classes: counts by class, the class with the most photos first; "" for photos without a class.
        crops, captions: counts of the photos that are used.
        possible_plurals: classes that look like plurals, for people to judge.
        skipped, skipped_files: by reason (`records.SKIP_REASONS`), the number of photos and their files.
        boxes_of_other_classes: boxes in label files that are of another class than the photo's.
        wrong_label_lines: ignored lines of label files, each with its file, number and what is wrong.
        wrong_colour_profiles: used photos whose colour profile was ignored.
        num_captions: captions of all used photos; more than photos where some have several.
        photos_without_text: used photos with neither class nor caption; their text is empty.
        source_problems: everything else in the source that was ignored or renamed.
        captioners: the models that wrote captions, after the preparation.
        described: captions with measured words, which `num_captions` counts as well.
        attributes: photos by measured word, by kind of word (the fields of `attributes.Attributes`).
    """

    arguments: PreparationSettings
    photos: str
    source: str
    found: int
    train: int
    validation: int
    classes: dict[str, ClassCounts]
    crops: CropCounts
    captions: CaptionCounts
    possible_plurals: list[str]
    skipped: dict[str, int]
    skipped_files: dict[str, list[FileProblem]]
    boxes_of_other_classes: int
    wrong_label_lines: list[str]
    wrong_colour_profiles: list[FileProblem]
    num_captions: int = 0
    photos_without_text: int = 0
    source_problems: list[FileProblem] = field(default_factory=list)
    captioners: list[CaptionerRecord] = field(default_factory=list)
    described: int = 0
    attributes: dict[str, dict[str, int]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        content = {"version": VERSION, **asdict(self)}
        if self.arguments.format == "folders":  # as before there was a choice
            del content["arguments"]["format"]
        if not self.arguments.describe:  # the report of a preparation without it stays as it was before the option
            del content["arguments"]["describe"], content["described"], content["attributes"]
        write_json(path, content)


@dataclass(frozen=True)
class Job:
    """What decides the result: the settings, and a fingerprint of the list of photos."""

    arguments: PreparationSettings
    photos: str


def read_report(path: Path) -> PreparationReport | None:
    """The report in `path`, of this version or the first; None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("version", 1) not in (1, VERSION):
            return None
        known = {f.name: content[f.name] for f in fields(PreparationReport) if f.name in content}
        return PreparationReport(
            **known
            | {
                "arguments": read_settings(content["arguments"]),
                "classes": {name: ClassCounts(**counts) for name, counts in content["classes"].items()},
                "crops": CropCounts(**content["crops"]),
                "captions": CaptionCounts(**content["captions"]),
                "skipped_files": {reason: read_problems(files) for reason, files in content["skipped_files"].items()},
                "wrong_colour_profiles": read_problems(content["wrong_colour_profiles"]),
                "source_problems": read_problems(content.get("source_problems", [])),
                "captioners": [
                    CaptionerRecord(**captioner | {"settings": CaptioningSettings(**captioner["settings"])})
                    for captioner in content.get("captioners", [])
                ],
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def read_settings(values: dict[str, Any]) -> PreparationSettings:
    """The settings in a report or in the file of a job.

    Raises:
        KeyError, TypeError, AttributeError: they are not of a known version.
    """
    renamed: dict[str, Any] = {"license" if name == "licence" else name: value for name, value in values.items()}
    renamed["classes"] = tuple(renamed["classes"])
    renamed.setdefault("format", "folders")  # as before there was a choice
    return PreparationSettings(**renamed)


def read_problems(values: list[dict[str, str]]) -> list[FileProblem]:
    return [FileProblem(**value) for value in values]


# --- from photos and their records -----------------------------------------------------------------------------------


def build_report(
    job: Job, source: Source, photos: list[Photo], records: list[PhotoRecord], validation: set[int]
) -> PreparationReport:
    classes: defaultdict[str, ClassCounts] = defaultdict(ClassCounts)
    skipped: defaultdict[str, list[FileProblem]] = defaultdict(list)
    crops, captions = Counter[str](), Counter[str]()
    num_captions = 0
    for index, (photo, record) in enumerate(zip(photos, records, strict=True)):
        counts = classes[photo.label]
        counts.found += 1
        if record.skipped:
            skipped[record.skipped].append(FileProblem(photo.name, record.detail))
            continue
        if index in validation:
            counts.validation += 1
        else:
            counts.train += 1
        crops[record.crop] += 1
        captions["own" if photo.texts else "templates" if photo.label else "none"] += 1
        num_captions += max(1, len(photo.texts)) if photo.texts or photo.label else 0
    return PreparationReport(
        arguments=job.arguments,
        photos=job.photos,
        source=source.name,
        found=len(photos),
        train=sum(counts.train for counts in classes.values()),
        validation=sum(counts.validation for counts in classes.values()),
        classes=dict(sorted(classes.items(), key=lambda item: (-item[1].found, item[0]))),
        crops=CropCounts(crops["box"], crops["center"]),
        captions=CaptionCounts(captions["own"], captions["templates"]),
        possible_plurals=[name for name in sorted(classes) if captions["templates"] and may_be_plural(name)],
        skipped={reason: len(files) for reason, files in sorted(skipped.items())},
        skipped_files=dict(sorted(skipped.items())),
        boxes_of_other_classes=sum(record.boxes_of_other_classes for record in records),
        wrong_label_lines=[line for record in records for line in record.wrong_label_lines],
        wrong_colour_profiles=[
            FileProblem(photo.name, record.profile_problem)
            for photo, record in zip(photos, records, strict=True)
            if record.profile_problem
        ],
        num_captions=num_captions,
        photos_without_text=captions["none"],
        source_problems=[*source.problems, *long_names(classes)],
    )


def with_attributes(report: PreparationReport, splits: Sequence[Sequence[MetadataLine]]) -> PreparationReport:
    """The report with the counts of what `--describe` measured and wrote."""
    words, texts = Counter[tuple[str, str]](), 0
    for line in chain(*splits):
        words.update(line.attributes.words().items() if line.attributes else ())
        texts += len(line.texts)
    attributes: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    for (kind, word), number in sorted(words.items(), key=lambda item: (-item[1], item[0])):
        attributes[kind][word] = number
    described = texts - report.num_captions - report.photos_without_text
    return replace(report, num_captions=report.num_captions + described, described=described, attributes=attributes)


def long_names(classes: dict[str, Any]) -> list[FileProblem]:
    """The classes whose name is too long for a folder."""
    return [
        FileProblem(name, f"too long for the name of a folder; the folder is called {folder_name(name)}")
        for name in classes
        if len(name.encode()) > MAX_FOLDER_NAME
    ]
