"""Hundreds of sources, each with several faults drawn at random; the outcome of each is known beforehand.

`python -m tests.faults sources` prints the table of outcomes.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest

from animal_ldm.errors import InputError

from .photos_on_disk import photo
from .test_hostile_sources import HOSTILE, progressive, with_scans
from .test_prepare import prepare, rows

SOURCES = 600
SECONDS = 20  # to prepare a dozen small photos
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "AVIF", "TGA", "PPM", "ICO", "PCX", "SGI", "DDS")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, devices and links of POSIX")


class Hang(BaseException):
    pass


def encoded(draw: random.Random) -> bytes:
    buffer = BytesIO()
    photo(draw.randrange(1 << 30)).save(buffer, draw.choice(FORMATS))
    return buffer.getvalue()


def write_source(root: Path, layout: str) -> tuple[str, int]:
    """Photos in this layout; the folder they are in, and how many they are. Every photo has a caption or a class."""
    inner = {"classes": "cat", "kaggle": "train/Polar bear", "flat": "", "metadata": "train"}[layout]
    folder = root / inner
    folder.mkdir(parents=True)
    for index in range(8):
        photo(index).save(folder / f"good-{index}.png")
        if layout == "flat":
            (folder / f"good-{index}.txt").write_text(f"photo {index} of mine\n")
    if layout == "kaggle":
        (folder / "Label").mkdir()
        (folder / "Label" / "good-0.txt").write_text("Polar bear 0 0 30 30\n")
    if layout == "metadata":
        lines = [{"file_name": f"good-{index}.png", "texts": ["one", "two"]} for index in range(8)]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return inner, 8


def damage(root: Path, inner: str, layout: str, draw: random.Random) -> str:
    """Add one bad entry; returns its kind. None of them costs a good photo."""
    folder = root / inner
    number = draw.randrange(1 << 30)
    kind = draw.choice(["hostile", "hostile label", "hostile at the root", "bytes", "name", "scans", "line"])
    if kind == "hostile":
        draw.choice(HOSTILE)(folder / f"bad-{number}.{draw.choice(['jpg', 'png', 'txt', 'gif'])}")
    elif kind == "hostile label" and layout in ("classes", "kaggle"):
        (folder / "Label").mkdir(exist_ok=True)
        draw.choice(HOSTILE)(folder / "Label" / f"good-{draw.randrange(1, 8)}.txt")
    elif kind == "hostile at the root":
        draw.choice(HOSTILE)(root / draw.choice(["test", "valid", "extra", "dog", "Label", "notes.txt", "x.jpg"]))
    elif kind == "bytes":
        data = bytearray(encoded(draw))
        for _ in range(draw.randrange(1, 30)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        del data[draw.choice([len(data), draw.randrange(len(data))]) :]
        (folder / f"bytes-{number}.png").write_bytes(bytes(data))
    elif kind == "name":
        name = b"name-%d" % number + draw.choice([b"\xe9", b"\n", b"\x1b[2J", b" ", b"\\", b"\xf0\x9f\xa6\x93"])
        with open(os.fsencode(folder) + b"/" + name + b".png", "wb") as file:
            file.write(encoded(draw))
    elif kind == "scans":
        (folder / f"scans-{number}.jpg").write_bytes(with_scans(progressive(photo(number)), 3000))
    elif kind == "line" and layout == "metadata":
        with open(folder / "metadata.jsonl", "a") as file:
            names = [
                "../x.png",
                "/etc/passwd",
                "/dev/zero",
                "nowhere.png",
                "",
                7,
                None,
                "\ud800",
                "a\0b",
                "good-1.png/x",
            ]
            file.write(
                draw.choice([json.dumps({"file_name": draw.choice(names), "texts": "x"}), "{", "[" * 5000]) + "\n"
            )
    return kind


def outcome(run: Callable[[], None]) -> str:
    """ "right", or what went wrong; a run that takes too long is ended."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        run()
        return "right"
    except InputError:
        return "refused"
    except Hang:
        return "hang"
    except AssertionError:
        return "wrong"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcomes(folder: Path) -> Iterator[tuple[str, str]]:
    """The layout of each source, and how preparing it ended."""
    for seed in range(SOURCES):
        draw = random.Random(seed)
        layout = draw.choice(["classes", "kaggle", "flat", "metadata"])
        source, out = folder / f"source-{seed}", folder / f"out-{seed}"
        inner, good = write_source(source, layout)
        for _ in range(draw.randrange(1, 5)):
            try:
                damage(source, inner, layout, draw)
            except FileExistsError:
                continue
        yield f"{layout} {seed}", outcome(lambda source=source, out=out, good=good: check(source, out, good))


def check(source: Path, out: Path, good: int) -> None:
    """Prepare the source; an AssertionError unless every good photo is used, and every line has its file."""
    report = prepare(source, out)
    skipped = [file["file"] for files in report["skipped_files"].values() for file in files]
    assert not any("good-" in Path(name).stem for name in skipped)
    used = [(split, row) for split in ("train", "validation") for row in rows(out, split)]
    assert len(used) == report["found"] - len(skipped) >= good
    assert all((out / split / row["file_name"]).is_file() for split, row in used)


@pytest.mark.slow
def test_no_fault_costs_more_than_its_entry(tmp_path):
    assert [(name, result) for name, result in outcomes(tmp_path) if result != "right"] == []
