"""The records that travel between the steps of `prepare` and, in `metadata.jsonl`, to every later step."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .attributes import Attributes

# Where a caption comes from: `MetadataLine.caption_sources`. Captions by a model have its name after the prefix.
OWN = "own"
TEMPLATE = "template"
ATTRIBUTES = "attributes"
NO_CAPTION = "none"  # of the empty text
MODEL_PREFIX = "model:"

# Why a photo was skipped: `PhotoRecord.skipped` -> what the dataset card says.
SKIP_REASONS = {
    "broken": "truncated or damaged",
    "decompression_bomb": "too many pixels to be opened safely",
    "duplicate": "the same pixels as another photo",
    "near_duplicate": "nearly the same as another photo, or its mirror image",
    "no_class": "neither class nor caption",
    "not_an_image": "not an image",
    "too_slow": "takes too long to decode",
    "too_small": "smaller than half of the square",
    "unreadable": "could not be read",
}


@dataclass(frozen=True)
class Columns:
    """The columns that are asked for; None for the default."""

    image: str | None = None
    label: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo of a source, not opened yet.

    Attributes:
        name: path within the source ("train/Lion/a1.jpg") or split and row ("train/00000012"), fit to be shown.
        label: lower-case class name, which may hold spaces; empty where the photo has no class.
        texts: the captions that the source has, if any.
        sources: where each of `texts` comes from, if the source says so; else they are the user's own.
        stamp: changes when the photo's file or label file does.
        row: the row of a dataset; 0 for files.
        path: the path within the source as the file system has it, where that is not `name`.
    """

    name: str
    label: str
    texts: tuple[str, ...] = ()
    stamp: str = ""
    row: int = 0
    path: str = ""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileProblem:
    """A file of the source and what is wrong with it."""

    file: str
    why: str


@dataclass(slots=True)
class PhotoRecord:
    """What processing found out about one photo.

    Attributes:
        skipped: a key of `SKIP_REASONS`; empty for a photo that is used. `detail` says it for this photo.
        digest: of size and pixels, 16 hexadecimal digits.
        thumbnail: see `duplicates.thumbnail`, in hexadecimal; in the file of the record alone.
        crop: where the square comes from.
        count: animals that the square shows; 0 where nobody counted.
        boxes_of_other_classes: boxes in the photo's label file that are of another class.
        wrong_label_lines: what is wrong with the label file, with file and line.
        profile_problem: why the colour profile was ignored; empty where it was not.
        attributes: what was measured; None without `--describe`.
        sha256: of the square's file.
    """

    skipped: str = ""
    detail: str = ""
    digest: str = ""
    thumbnail: str = ""
    crop: Literal["", "box", "center"] = ""
    count: int = 0
    boxes_of_other_classes: int = 0
    wrong_label_lines: Sequence[str] = ()
    profile_problem: str = ""
    attributes: Attributes | None = None
    sha256: str = ""

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "PhotoRecord":
        """The record that `asdict` made these values of. What many have in common is in memory once."""
        shared: dict[str, Any] = {name: sys.intern(values[name]) for name in ("skipped", "crop")}
        shared["wrong_label_lines"] = tuple(values["wrong_label_lines"])
        record = cls(**values | shared)
        if record.attributes is not None:
            record.attributes = Attributes.parse(record.attributes)
        return record


@dataclass(frozen=True, slots=True)
class MetadataLine:
    """A line of `metadata.jsonl`: one square.

    Attributes:
        file_name: path of the square within its split's folder, with forward slashes.
        text: the first caption; empty where the photo has neither caption nor class.
        label: class name; empty where the photo has no class.
        texts: all captions, `text` first. Folders of earlier versions lack it: they have one caption per photo.
        caption_sources: where each of `texts` comes from: "own" (the user's), "template" (the class name in a
            sentence), "attributes" (the class name with measured words), "model:NAME" (written by that model) or
            "none" (the empty text). Empty for folders of earlier
            versions; `captions.caption_sources` tells then.
        attributes: words measured by `prepare --describe`, "" for those that are not sure; None without it.
        sha256: of the square's file; empty for folders of earlier versions.
    """

    file_name: str
    text: str
    label: str
    texts: tuple[str, ...]
    caption_sources: tuple[str, ...] = ()
    attributes: Attributes | None = None
    sha256: str = ""

    @classmethod
    def parse(cls, line: str) -> "MetadataLine":
        """Read a line.

        Raises:
            ValueError: it is not a JSON object with these fields.
        """
        try:
            value = json.loads(line)
        except RecursionError:
            raise ValueError("JSON that is nested too deeply") from None
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        file_name, text, label = value.get("file_name"), value.get("text"), value.get("label")
        if not (isinstance(file_name, str) and isinstance(text, str) and isinstance(label, str)):
            raise ValueError("file_name, text and label must be strings")
        texts = value.get("texts")
        texts = [text] if texts is None else texts
        if not isinstance(texts, list) or not all(isinstance(caption, str) for caption in texts):
            raise ValueError("texts must be a list of strings")
        if texts[:1] != [text]:
            raise ValueError("text must be the first of texts")
        sources = value.get("caption_sources")
        sources = [] if sources is None else sources
        if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
            raise ValueError("caption_sources must be a list of strings")
        if sources and len(sources) != len(texts):
            raise ValueError("caption_sources must be as many as texts")
        attributes = value.get("attributes")
        attributes = None if attributes is None else Attributes.parse(attributes)
        sha256 = value.get("sha256", "")
        if not isinstance(sha256, str) or not re.fullmatch("([0-9a-f]{64})?", sha256):
            raise ValueError("sha256 must be 64 hexadecimal digits")
        return cls(file_name, text, label, tuple(texts), tuple(sources), attributes, sha256)

    def json(self) -> str:
        values = asdict(self)
        if not self.caption_sources:
            del values["caption_sources"]
        if self.attributes is None:
            del values["attributes"]
        if not self.sha256:
            del values["sha256"]
        return json.dumps(values) + "\n"
