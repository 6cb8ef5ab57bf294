"""Sources that mean harm: nothing hangs, nothing ends in a traceback, and one bad entry costs that entry alone."""

import json
import os
import struct
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from animal_ldm.data import photos
from animal_ldm.data.photos import SkippedPhoto, count_scans, open_photo
from animal_ldm.data.prepare import folder_name
from animal_ldm.data.prepared import load_split
from animal_ldm.data.reading import TEXT_BYTES, class_name, one_line, shown
from animal_ldm.data.sources import open_source
from animal_ldm.errors import InputError
from animal_ldm.files import read_regular

from .photos_on_disk import photo, write_photos
from .test_prepare import prepare, rows

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, devices and links of POSIX")


def link_to_itself(path):
    path.symlink_to(path.name)


def links_in_a_loop(path):
    path.symlink_to(path.name + "-2")
    path.with_name(path.name + "-2").symlink_to(path.name)


def dangling_link(path):
    path.symlink_to("nowhere")


def pipe(path):
    os.mkfifo(path)


def link_to_zeros(path):
    path.symlink_to("/dev/zero")


def link_to_kernel_log(path):
    path.symlink_to("/dev/kmsg" if os.path.exists("/dev/kmsg") else "/dev/tty")


def link_to_endless_file(path):
    path.symlink_to("/proc/self/mem")


def folder(path):
    path.mkdir()


def huge_file(path):
    with open(path, "xb") as file:
        file.truncate(1 << 42)  # sparse: it takes no space


def unending_line(path):
    with open(path, "xb") as file:
        file.write(b"a" * (TEXT_BYTES + 1))


def zeros(path):
    with open(path, "xb") as file:
        file.write(bytes(1000))


LINKS = [link_to_itself, links_in_a_loop, dangling_link, pipe, link_to_zeros, link_to_kernel_log]
FILES = [link_to_endless_file, huge_file, unending_line, zeros]
HOSTILE = [*LINKS, *FILES, folder]

# Where an empty folder, or a file that is not a photo, is nothing to speak of.
HARMLESS_FOLDERS = ("cat/bad", "bad", "bad.jpg", "train", "Label", "cat/Label")
HARMLESS_FILES = ("bad", "train", "Label")


@pytest.fixture
def animals(tmp_path):
    """Six cats in a class folder, with labels for two."""
    cats = tmp_path / "animals" / "cat"
    write_photos(cats, 6, first_seed=0)
    (cats / "Label").mkdir()
    for name in ("000", "001"):
        (cats / "Label" / f"{name}.txt").write_text("cat 0 0 20 20\n")
    return tmp_path / "animals"


def named(report: dict) -> str:
    """Everything that the report says of files that are not as they should be."""
    return str([report["skipped_files"], report["wrong_label_lines"], report["source_problems"]])


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "place",
    ["cat/bad.jpg", "cat/bad", "cat/Label/002.txt", "cat/003.txt", "bad", "bad.jpg", "train", "Label", "cat/Label"],
)
def test_one_bad_entry_costs_that_entry_alone(animals, tmp_path, make, place):
    bad = animals / place
    if place == "cat/Label":
        for label in bad.iterdir():
            label.unlink()
        bad.rmdir()
    make(bad)
    report = prepare(animals, tmp_path / "out")
    assert report["train"] + report["validation"] == 6
    harmless = HARMLESS_FOLDERS if make is folder else HARMLESS_FILES if make in FILES else ()
    assert place in harmless or place.rpartition("/")[2] in named(report)


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
@pytest.mark.parametrize("place", ["bad.jpg", "bad", "003.txt", "bad.txt"])
def test_one_bad_entry_of_a_flat_folder_costs_that_entry_alone(tmp_path, make, place):
    flat = tmp_path / "flat"
    write_photos(flat, 6, first_seed=0)
    for index in range(6):
        (flat / f"{index:03d}.txt").write_text(f"animal {index} here\n")
    (flat / place).unlink(missing_ok=True)
    make(flat / place)
    report = prepare(flat, tmp_path / "out")
    assert report["train"] + report["validation"] == (5 if place == "003.txt" else 6)
    harmless = ("bad",) if make in FILES else ("bad", "bad.jpg") if make is folder else ()
    assert place in harmless or place in named(report)


def test_a_source_of_bad_entries_alone_is_bad_input(tmp_path):
    (tmp_path / "animals" / "cat").mkdir(parents=True)
    link_to_itself(tmp_path / "animals" / "cat" / "a.jpg")
    pipe(tmp_path / "animals" / "cat" / "b.jpg")
    with pytest.raises(InputError, match=r"None of the 2 photos .* {'unreadable': 2}"):
        prepare(tmp_path / "animals", tmp_path / "out")
    link_to_itself(tmp_path / "loop")
    with pytest.raises(InputError, match="a broken link"):
        prepare(tmp_path / "loop", tmp_path / "out2")
    with pytest.raises(InputError, match="OUT must be a folder"):
        prepare(tmp_path / "animals", tmp_path / "loop")


def test_a_link_to_a_folder_around_it_is_not_a_class(animals, tmp_path):
    photo(9).save(animals / "loose.png")
    (animals / "again").symlink_to(animals)
    report = prepare(animals, tmp_path / "out")
    assert list(report["classes"]) == ["cat"]
    assert {"file": "again", "why": "ignored: a link to a folder that contains it"} in report["source_problems"]


def test_metadata_cannot_lead_out_of_the_folder(tmp_path):
    source = tmp_path / "animals"
    write_photos(source, 3, first_seed=0)
    photo(50).save(tmp_path / "secret.png")
    (source / "link.png").symlink_to(tmp_path / "secret.png")
    names = ["000.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "001.png", "", 3, None, "\ud800"]
    lines = [json.dumps({"file_name": name, "text": "a", "label": "\ud800"}) for name in names]
    lines += ["{", "[" * 99_999, json.dumps({"file_name": "002.png", "text": 3})]
    (source / "metadata.jsonl").write_text("\n".join(lines))
    listed = open_source(str(source))
    assert [photo.name for photo in listed.photos] == ["000.png", "001.png"]
    told = " ".join(problem.why for problem in listed.problems if problem.file == "metadata.jsonl")
    assert all(f"line {number} ignored" in told for number in (2, 3, 4, 6, 7, 8, 9, 10, 11, 12))


@pytest.mark.parametrize("make", [pipe, link_to_zeros, huge_file, folder], ids=lambda make: make.__name__)
def test_metadata_that_is_not_a_file(tmp_path, make):
    write_photos(tmp_path / "animals", 3, first_seed=0)
    make(tmp_path / "animals" / "metadata.jsonl")
    with pytest.raises(InputError, match=r"Ignored: metadata\.jsonl: cannot be read"):
        open_source(str(tmp_path / "animals"))


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf8(tmp_path):
    source = tmp_path / "animals"
    folder_of_zebras = os.fsencode(source) + b"/z\xe9bre"
    try:
        os.makedirs(folder_of_zebras)
    except OSError:
        pytest.skip("the file system has names in UTF-8 alone")
    for index in range(4):
        photo(index).save(os.fsdecode(folder_of_zebras + b"/%d\xff.png" % index))
    with open(folder_of_zebras + b"/0\xff.txt", "w") as captions:
        captions.write("a zebra of my own\n")
    report = prepare(source, tmp_path / "out")
    assert list(report["classes"]) == ["z\xe9bre"] and report["captions"] == {"own": 1, "templates": 3}
    assert report["source_problems"] == [
        {"file": "z\\xe9bre", "why": "the folder's name is not UTF-8; the class is called 'z\xe9bre'"}
    ]
    assert load_split(tmp_path / "out", "train").classes == ["z\xe9bre"]
    assert all(row["file_name"].startswith("z\xe9bre/") for row in rows(tmp_path / "out", "train"))


def test_a_class_whose_name_is_too_long_in_lower_case(tmp_path):
    name = "\u0130" * 127  # 254 bytes; each letter takes three in lower case
    write_photos(tmp_path / "animals" / name, 3, first_seed=0)
    report = prepare(tmp_path / "animals", tmp_path / "out")
    [row, _] = rows(tmp_path / "out", "train")
    assert len(row["file_name"].split("/")[0].encode()) <= 255 and row["label"] == name.lower()
    assert "too long for the name of a folder" in report["source_problems"][0]["why"]
    assert folder_name(name.lower()) != folder_name(name.lower() + "x")


def test_folders_are_called_like_their_class():
    assert (
        folder_name("polar bear") == "polar_bear" and folder_name("../x") == "___x" and folder_name("") == "unlabelled"
    )


def test_control_characters_reach_no_terminal(tmp_path, capsys):
    write_photos(tmp_path / "animals" / "c\x1b[31mats", 3, first_seed=0)
    photo(50).save(tmp_path / "animals" / "c\x1b[31mats" / "new\nline\x1b.png")
    report = prepare(tmp_path / "animals", tmp_path / "out")
    assert list(report["classes"]) == ["c[31mats"]
    assert "\x1b" not in capsys.readouterr().out + named(report)
    assert class_name("a\x00\u202f\ud800b\tc") == "a b c" and one_line("a\x1b b\n\nc") == "a b c"
    assert shown("a\x1b\nb\udce9") == r"a\x1b\nb\xe9"


# --- budgets ---------------------------------------------------------------------------------------------------------


def progressive(image: Image.Image, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", progressive=True, **options)
    return buffer.getvalue()


def with_scans(jpeg: bytes, number: int) -> bytes:
    """The JPEG with its last scan so many times more."""
    last = jpeg[jpeg.rfind(b"\xff\xda") : -2]
    return jpeg[:-2] + last * number + jpeg[-2:]


def test_scans_of_a_jpeg_are_counted():
    jpeg = progressive(photo(1))
    thumbnail = BytesIO()
    photo(1).save(thumbnail, "JPEG", comment=b"\xff\xda\xff\xda")
    assert (
        count_scans(jpeg) == 10 and count_scans(with_scans(jpeg, 7)) == 17 and count_scans(thumbnail.getvalue()) == 1
    )
    assert count_scans(jpeg + jpeg) == 10  # of the first image
    assert count_scans(b"") == count_scans(b"\xff\xd8\xff\xda\xff") - 1 == 0


def test_a_jpeg_of_thousands_of_scans_is_skipped(animals, tmp_path):
    (animals / "cat" / "slow.jpg").write_bytes(with_scans(progressive(photo(9, 400, 300)), 5000))
    report = prepare(animals, tmp_path / "out")
    assert report["skipped_files"] == {"too_slow": [{"file": "cat/slow.jpg", "why": "a JPEG of 5,010 scans"}]}
    assert "takes too long to decode" in (tmp_path / "out" / "dataset_card.md").read_text()
    assert open_photo(with_scans(progressive(photo(9)), 50)).image.size == (48, 40)


def test_large_photos_have_fewer_scans(monkeypatch):
    monkeypatch.setattr(photos, "MAX_SCANNED_PIXELS", 48 * 40 * 10)
    assert open_photo(progressive(photo(9))).image.size == (48, 40)
    with pytest.raises(SkippedPhoto, match="too_slow"):
        open_photo(with_scans(progressive(photo(9)), 1))


def test_a_photo_with_too_many_pixels_is_skipped(animals, tmp_path):
    # The header of a 16-bit PNG of 13,300 x 13,300 pixels; the budget is checked before any pixel.
    buffer = BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(buffer, "PNG")
    content = buffer.getvalue()
    header = b"IHDR" + struct.pack(">II", 13_300, 13_300) + content[24:29]
    (animals / "cat" / "huge.png").write_bytes(content[:12] + header + crc(header) + content[33:])
    report = prepare(animals, tmp_path / "out")
    [skipped] = report["skipped_files"]["decompression_bomb"]
    assert skipped == {"file": "cat/huge.png", "why": "176,890,000 pixels are more than the limit of 120,000,000"}


def crc(chunk: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(chunk))


def test_a_photo_that_takes_too_long_is_skipped(monkeypatch):
    def slow(image):
        while True:
            pass

    monkeypatch.setattr(photos, "MAX_SECONDS", 0.05)
    assert open_photo(progressive(photo(1))).image.size == (48, 40)
    monkeypatch.setattr(photos, "to_srgb", slow)
    with pytest.raises(SkippedPhoto, match=r"too_slow: more than 0\.05 s to decode"):
        open_photo(progressive(photo(1)))


def test_programs_are_not_run_as_photos():
    buffer = BytesIO()
    photo(1).save(buffer, "EPS")
    with pytest.raises(SkippedPhoto, match="not_an_image"):
        open_photo(buffer.getvalue())


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/status", "/", "/nowhere"])
def test_only_regular_files_are_read(path):
    with pytest.raises(OSError):
        read_regular(path, 1000)


def test_no_file_over_its_limit_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes are more than the limit of 4"):
        read_regular(tmp_path / "file", 4)
