"""`animal-ldm prepare`: photos -> captioned square images, split into train and validation."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..data.reading import shown
from ..data.settings import Part, PreparationSettings
from ..errors import InputError
from .parsing import parse

if TYPE_CHECKING:
    from ..data.report import PreparationReport


@dataclass(frozen=True, kw_only=True)
class PrepareArguments(PreparationSettings):
    """Crop, scale and caption photos, and split them into train and validation.

    Broken, undersized and duplicate photos are skipped and listed in preparation_report.json. If it is interrupted,
    run the same command again to resume.
    """

    # Photos: folders by class (<class>/*.jpg), the Kaggle "Animals Detection Images" layout (train/<Class>/*.jpg,
    # boxes in <Class>/Label/*.txt; its train/ and test/ are pooled), a folder of photos (*.jpg), a folder with
    # metadata.jsonl or metadata.csv, or a dataset of the `datasets` library, by folder or by name on the Hub. Captions
    # may be in text files beside the photos (zebra.jpg, zebra.txt), one per line. Nothing in it is changed.
    source: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]]
    # Folder to write: train/ and validation/ with PNG squares and metadata.jsonl or with shards, dataset_card.md,
    # preparation_report.json. New, empty, or an interrupted preparation with the same arguments.
    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    # Processes that open, crop and write photos.
    workers: int = os.cpu_count() or 1
    # Only make the squares of part i of n, written i/n: for as many machines, which write to one OUT on a shared disk,
    # or into folders whose .preparation you copy into one. When all parts have ended, run the command without --part:
    # it makes the dataset, the same as from one machine.
    part: str | None = None

    def check(self) -> None:
        super().check()
        self.chosen_part()
        if self.workers < 1:
            raise InputError(f"--workers must be at least 1, but is {self.workers}.")

    def chosen_part(self) -> Part | None:
        """`--part`.

        Raises:
            InputError: it is not a part of a whole.
        """
        if self.part is None:
            return None
        index, _, number = self.part.partition("/")
        if not (index.isdecimal() and number.isdecimal() and 1 <= int(index) <= int(number)):
            raise InputError(f"--part must be i/n with i from 1 to n, such as 2/8, but is {self.part}.")
        return Part(int(index), int(number))

    def settings(self) -> PreparationSettings:
        """The arguments that decide the result."""
        return PreparationSettings(**{f.name: getattr(self, f.name) for f in fields(PreparationSettings)})


def main(argv: list[str] | None = None) -> None:
    arguments = parse(PrepareArguments, argv, prog="animal-ldm prepare")
    arguments.check()
    from ..data.prepare import prepare

    report = prepare(arguments.source, arguments.out, arguments.settings(), arguments.workers, arguments.chosen_part())
    if report is None:
        print(f"{shown(arguments.out)}: part {arguments.part} is done")
    else:
        print_summary(report, arguments.out)


def print_summary(report: "PreparationReport", out: Path) -> None:
    print(f"{shown(out)}: {report.train} training photos, {report.validation} validation photos")
    if report.attributes:
        said = ", ".join(f"{kind} {sum(words.values())}" for kind, words in report.attributes.items())
        print(f"  measured: {said}; {report.described} captions say so")
    for reason, number in report.skipped.items():
        print(f"  skipped {number}: {reason.replace('_', ' ')}")
    for number, problem in (
        (len(report.wrong_label_lines), "invalid lines of label files were ignored"),
        (len(report.wrong_colour_profiles), "photos have a broken colour profile and were read as sRGB"),
        (len(report.source_problems), "other files or folders were ignored or renamed"),
        (report.photos_without_text, "photos have neither class nor caption, and an empty text"),
    ):
        if number:
            print(f"  {number} {problem}")
    for name in report.possible_plurals:
        print(f"  {name!r} looks like a plural. Captions treat class names as singular; rename the class if it is one")
    print("  files and reasons: preparation_report.json; description: dataset_card.md; overview: contact_sheet.jpg")
