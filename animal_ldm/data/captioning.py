"""Captions by a model, written into a prepared dataset.

    metadata.jsonl ──> photos to caption ──captioner, in one or several processes──> work files ──> metadata.jsonl

Every batch of captions is appended to a work file at once. So a run that was stopped at any moment resumes, also with
another number of processes. The metadata is replaced, whole, after the last caption. Neither an interruption nor the
number of processes changes a caption: every batch has the same size, the last one padded.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from ..errors import InputError
from ..files import write_text
from ..loading import choose_device
from ..processes import connected
from .captioner import Captioner, ModelFiles, find_captioner
from .captions import caption_sources, plural, with_article
from .dataset_card import add_captioners, dataset_card
from .prepare import CARD, SPLITS, read_lines
from .prepared import PreparedPhoto, has_split, load_split, read_metadata
from .reading import stamp
from .records import MODEL_PREFIX, NO_CAPTION, OWN, MetadataLine
from .report import REPORT, CaptionerRecord, PreparationReport, read_report
from .settings import CaptioningSettings

WORK_FOLDER = ".captions"
# Settings that are applied to the captions afterwards: another value does not need another run of the model.
APPLIED_LATER = ("keep_class", "add_to_own", "keep_others")
# A process may wait this long for the slowest one.
WAIT = timedelta(days=7)

logger = logging.getLogger(__name__)


class ModelChoice(NamedTuple):
    """The captioner asked for: a folder or an id on the Hub, its revision there, and the device to run it on."""

    model: str
    revision: str | None = None
    device: str = "auto"


class CaptionedPhoto(NamedTuple):
    """A photo of a split, its line of metadata, and the photo itself where that is in a shard."""

    split: str
    line: MetadataLine
    packed: PreparedPhoto | None = None

    @property
    def key(self) -> str:
        return f"{self.split}/{self.line.file_name}"

    def stamp(self, folder: Path) -> str:
        """Changes when the photo does."""
        return self.line.sha256 if self.packed else stamp(folder / self.key)

    def image(self, folder: Path) -> Image.Image:
        try:
            data = self.packed.read_bytes() if self.packed else (folder / self.key).read_bytes()
            with Image.open(BytesIO(data)) as image:
                return image.convert("RGB")
        except OSError as error:
            raise InputError(f"{folder / self.key} cannot be read: {error}. Prepare the dataset again.") from error


@dataclass(frozen=True)
class CaptioningResult:
    """What a run did.

    Attributes:
        captioner: the model, with the number of photos and captions.
        left_out: photos that were left as they are because they have captions of the user's own.
        with_class_added: captions that lacked the class name and got it.
        unchanged: the dataset had these captions already.
    """

    captioner: CaptionerRecord
    left_out: int
    with_class_added: int = 0
    unchanged: bool = False


def caption_dataset(
    folder: Path, choice: ModelChoice, settings: CaptioningSettings, batch_size: int
) -> CaptioningResult | None:
    """Let a model describe the photos of the prepared dataset `folder`, or resume a stopped run.

    Returns:
        What was done; None in other processes than the main one.

    Raises:
        InputError: `folder` is not a prepared dataset, or the model is not a captioner that can be loaded.
    """
    photos = read_photos(folder)
    chosen = [photo for photo in photos if settings.add_to_own or OWN not in caption_sources(photo.line)]
    if not chosen:
        raise InputError(
            f"All {len(photos)} photos of {folder} have captions of your own. To add captions by a model after them, "
            "pass --add_to_own."
        )
    files = find_captioner(choice.model, choice.revision)
    settings = replace(settings, prompt=files.prompt(settings.prompt))
    state = connected(cpu=choice.device == "cpu", timeout=WAIT)
    left_out = len(photos) - len(chosen)
    earlier = finished_run(read_report(folder / REPORT), files, settings, len(chosen))
    if earlier:
        return CaptioningResult(earlier, left_out, unchanged=True) if state.is_main_process else None

    work = folder / WORK_FOLDER / job_name(files, settings)
    done = read_captions(work, folder, photos)
    # The others start to write once all have read: every process has the same list of photos that are left.
    state.wait_for_everyone()
    left = [photo for photo in chosen if photo.key not in done]
    if left:
        device = state.device if state.num_processes > 1 else None
        captioner = Captioner(files, settings, device or choose_device(choice.device))
        write_captions(folder, work, left, captioner, batch_size, state)
    state.wait_for_everyone()
    result = None
    if state.is_main_process:
        captions = read_captions(work, folder, photos)
        if not captions.keys() >= {photo.key for photo in chosen}:
            raise InputError(
                f"Captions are missing: photos of {folder} changed, or another run captioned them at the same time. "
                "Run the same command again."
            )
        result = finish(folder, work, photos, captions, files, settings)
        shutil.rmtree(work)
        if not any(work.parent.iterdir()):
            work.parent.rmdir()
        result = replace(result, left_out=left_out)
    state.wait_for_everyone()
    return result


def read_photos(folder: Path) -> list[CaptionedPhoto]:
    """All photos of a prepared dataset, in the order of its metadata.

    Raises:
        InputError: it is not a prepared dataset, or a line of its metadata is malformed.
    """
    photos = []
    for split in SPLITS:
        if (metadata := folder / split / "metadata.jsonl").exists():
            photos += [CaptionedPhoto(split, line) for line in read_metadata(folder, metadata)]
        elif has_split(folder, split):
            packed = zip(read_lines(folder, split), load_split(folder, split).photos, strict=True)
            photos += [CaptionedPhoto(split, line, photo) for line, photo in packed]
    if not photos:
        load_split(folder, SPLITS[0])  # says what is missing
    return photos


def finished_run(
    report: PreparationReport | None, files: ModelFiles, settings: CaptioningSettings, photos: int
) -> CaptionerRecord | None:
    """The record of an earlier run of just this job that came to its end, if there is one and nothing came after."""
    if report is None:
        return None
    others = [captioner for captioner in report.captioners if captioner.name != files.name]
    for captioner in report.captioners:
        same = (captioner.name, captioner.revision, captioner.settings, captioner.photos)
        if same == (files.name, files.revision, settings, photos) and (settings.keep_others or not others):
            return captioner
    return None


def job_name(files: ModelFiles, settings: CaptioningSettings) -> str:
    """A name for what decides the words of the model."""
    deciding = {name: value for name, value in asdict(settings).items() if name not in APPLIED_LATER}
    job = json.dumps([files.name, files.revision, deciding], sort_keys=True)
    return hashlib.sha256(job.encode()).hexdigest()[:16]


# --- captions in the work files --------------------------------------------------------------------------------------


def write_captions(
    folder: Path,
    work: Path,
    photos: list[CaptionedPhoto],
    captioner: Captioner,
    batch_size: int,
    state: PartialState,
) -> None:
    """Caption this process's share of the photos and append the captions to its work file."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"process-{state.process_index:04d}.jsonl"
    drop_torn_line(path)
    share = photos[state.process_index :: state.num_processes]
    with (
        path.open("ab", buffering=0) as file,
        tqdm(total=len(photos), unit=" photos", desc="caption", disable=not state.is_main_process) as progress,
    ):
        for start in range(0, len(share), batch_size):
            batch = share[start : start + batch_size]
            images = [photo.image(folder) for photo in batch]
            # A batch of another size may round differently, and so change a word.
            padded = [*range(len(batch)), *[len(batch) - 1] * (batch_size - len(batch))]
            captions = captioner.caption([images[i] for i in padded], [batch[i].line.file_name for i in padded])
            lines = [
                {"photo": photo.key, "stamp": photo.stamp(folder), "captions": texts}
                for photo, texts in zip(batch, captions, strict=False)
            ]
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            # The main process counts for all of them: their shares are equal.
            progress.update(min(len(batch) * state.num_processes, len(photos) - progress.n))


def drop_torn_line(path: Path) -> None:
    """Cut a line whose writing was interrupted off the end of the file."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def read_captions(work: Path, folder: Path, photos: Sequence[CaptionedPhoto]) -> dict[str, list[str]]:
    """The captions made so far, by photo. Those of photos that have changed since are left out."""
    captions, known = {}, {photo.key: photo for photo in photos}
    for path in sorted(work.glob("process-*.jsonl")):
        for content in path.read_bytes().splitlines(keepends=True):
            if content.endswith(b"\n"):
                line = json.loads(content)
                photo = known.get(line["photo"])
                if photo and line["stamp"] == photo.stamp(folder):
                    captions[line["photo"]] = line["captions"]
    return captions


# --- captions in the dataset -----------------------------------------------------------------------------------------


def finish(
    folder: Path,
    work: Path,
    photos: list[CaptionedPhoto],
    captions: dict[str, list[str]],
    files: ModelFiles,
    settings: CaptioningSettings,
) -> CaptioningResult:
    """Put the captions into the metadata, the report and the card.

    The report forgets the captions that are replaced before the metadata changes, and learns of the new ones after it:
    where it names a captioner, all of its captions are there.
    """
    source = MODEL_PREFIX + files.name
    lines: dict[str, list[MetadataLine]] = {}
    described = written = with_class_added = 0
    for split, line, _ in photos:
        own = OWN in caption_sources(line) and not settings.add_to_own
        texts = [] if own else captions.get(f"{split}/{line.file_name}", [])
        if settings.keep_class:
            named = [name_class(text, line.label) for text in texts]
            with_class_added += sum(before != after for before, after in zip(texts, named, strict=True))
            texts = named
        line = with_captions(line, texts, source, settings.keep_others)
        lines.setdefault(split, []).append(line)
        described += not own
        written += line.caption_sources.count(source)
    record = CaptionerRecord(
        name=files.name, revision=files.revision, settings=settings, photos=described, captions=written
    )
    report = read_report(folder / REPORT)
    kept = []
    if report is None:
        logger.warning("%s has no %s, so neither it nor the card names the captioner.", folder, REPORT)
    else:
        kept = [other for other in report.captioners if settings.keep_others and other.name != files.name]
        replace(report, captioners=kept).write(folder / REPORT)
    for split, content in lines.items():
        if (folder / split / "metadata.jsonl").exists():
            write_text(folder / split / "metadata.jsonl", "".join(line.json() for line in content))
        else:
            from .shards import write_metadata  # imports `datasets`, which takes seconds and which folders do not need

            write_metadata(folder / split, content, work / "shard.parquet")
    if report is not None:
        all_lines = [line for content in lines.values() for line in content]
        new = replace(
            report,
            captioners=[*kept, record],
            num_captions=sum(text != "" for line in all_lines for text in line.texts),
            photos_without_text=sum(line.text == "" for line in all_lines),
        )
        update_card(folder / CARD, report, new)
        new.write(folder / REPORT)
    return CaptioningResult(record, 0, with_class_added)


def with_captions(line: MetadataLine, texts: list[str], source: str, keep_others: bool) -> MetadataLine:
    """The line with new captions of `source` after those of the user and the templates.

    Captions that models wrote earlier are dropped: those of the same model, and without `keep_others` all of them.
    """
    kept = [
        (text, earlier)
        for text, earlier in zip(line.texts, caption_sources(line), strict=True)
        if earlier != NO_CAPTION and not (earlier.startswith(MODEL_PREFIX) and (earlier == source or not keep_others))
    ]
    there = {text for text, _ in kept}
    new = [(text, source) for text in dict.fromkeys(texts) if text not in there]
    all_texts, sources = zip(*(kept + new or [("", NO_CAPTION)]), strict=True)
    return replace(line, text=all_texts[0], texts=all_texts, caption_sources=sources)


def name_class(text: str, label: str) -> str:
    """The caption, with the class before it unless it has the class's name, singular or plural, anywhere."""
    if not label or any(f" {words(name)} " in f" {words(text)} " for name in (label, plural(label))):
        return text
    return f"{with_article(label)}: {text}"


def words(text: str) -> str:
    """Lower-case words with single spaces between them."""
    return " ".join(re.findall(r"\w+", text.lower()))


def update_card(path: Path, before: PreparationReport, after: PreparationReport) -> None:
    """Write the card again; where somebody has edited it, only its section on captioners."""
    try:
        card = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        card = dataset_card(before)
    write_text(path, dataset_card(after) if card == dataset_card(before) else add_captioners(card, after))
