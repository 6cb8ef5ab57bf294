"""Reading prepared folders: of earlier versions, damaged, and hostile."""

import hashlib
import json
import os

import pytest

from animal_ldm.data.prepared import load_split
from animal_ldm.data.report import read_report
from animal_ldm.errors import InputError

from .photos_on_disk import photo, write_photos
from .test_prepare import prepare


@pytest.fixture
def prepared(tmp_path):
    """Write a prepared folder with these lines; every file that a line may name exists."""
    folder = tmp_path / "data"
    write_photos(folder / "train" / "cat", 2, first_seed=0)
    photo(5).save(tmp_path / "outside.png")

    def write(*lines: dict | str):
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (folder / "train" / "metadata.jsonl").write_text(text)
        return folder

    return write


GOOD = {"file_name": "cat/000.png", "text": "a cat", "label": "cat"}


def test_folders_of_earlier_versions_have_one_caption_per_photo(prepared):
    split = load_split(prepared(GOOD, GOOD | {"file_name": "cat/001.png", "text": "cat"}), "train")
    assert split.captions == (("a cat",), ("cat",)) and split.texts == ("a cat", "cat")
    assert split.files == ("cat/000.png", "cat/001.png") and split.classes == ["cat"]
    assert split.image(0).shape == (40, 48, 3)
    assert split.sources == (("template",), ("template",)) and not split.says_more_than_classes


def test_example_captions_say_more_than_templates_and_show_many_classes(prepared):
    def line(label: str, *texts: str) -> dict:
        sources = ["template", *["own"] * (len(texts) - 1)]
        return GOOD | {"label": label, "text": texts[0], "texts": texts, "caption_sources": sources}

    lines = [line("cat", f"cat {i}", f"a cat on mat {i}", f"mat {i}") for i in range(9)]
    lines += [line("dog", "dog", "a dog in the rain"), line("dog", "dog", "a dog in the rain"), line("owl", "owl")]
    split = load_split(prepared(*lines), "train")
    assert split.says_more_than_classes and split.source_counts == {"own": 20, "template": 12}
    chosen = {seed: split.example_captions(3, seed) for seed in range(8)}
    assert chosen[0] == split.example_captions(3, 0) and len(set(map(tuple, chosen.values()))) > 1
    for captions in chosen.values():
        assert len(set(captions)) == 3 and "a dog in the rain" in captions
        assert sum(text.startswith("a cat on mat") for text in captions) == 2
    assert len(split.example_captions(99, 0)) == 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "expected a JSON object"),
        ("[" * 100_000, "expected a JSON object"),
        ("[]", "expected a JSON object"),
        ({"text": "a", "label": "b"}, "must be strings"),
        (GOOD | {"label": None}, "must be strings"),
        (GOOD | {"texts": "a cat"}, "list of strings"),
        (GOOD | {"texts": []}, "first of texts"),
        (GOOD | {"texts": ["a cat", 3]}, "list of strings"),
        (GOOD | {"texts": ["cat", "a cat"]}, "first of texts"),
    ],
)
def test_malformed_lines_are_told_with_their_number(prepared, line, message):
    with pytest.raises(InputError, match=rf"metadata\.jsonl:2: .*{message}"):
        load_split(prepared(GOOD, line), "train")


@pytest.mark.parametrize(
    "file_name",
    ["", ".", "../../outside.png", "cat/../cat/000.png", "/etc/passwd", "C:\\x.png", "cat\\..\\x.png", "\\x", "a\0b"],
)
def test_paths_that_lead_out_of_the_folder_are_refused(prepared, file_name):
    with pytest.raises(InputError, match=r"metadata\.jsonl:1: file_name must be"):
        load_split(prepared(GOOD | {"file_name": file_name}), "train")


def test_links_that_lead_out_of_the_folder_are_refused(prepared, tmp_path):
    folder = prepared(GOOD | {"file_name": "cat/link.png"})
    link = folder / "train" / "cat" / "link.png"
    link.symlink_to("000.png")
    assert load_split(folder, "train").image(0).shape == (40, 48, 3)
    link.unlink()
    link.symlink_to(tmp_path / "outside.png")
    with pytest.raises(InputError, match=r"metadata\.jsonl:1: .* links to a place outside of it"):
        load_split(folder, "train")
    link.unlink()
    link.symlink_to("link.png")
    with pytest.raises(InputError, match="must be a regular file"):
        load_split(folder, "train")


def test_a_folder_that_is_itself_a_link_is_read(prepared, tmp_path):
    (tmp_path / "link").symlink_to(prepared(GOOD))
    assert load_split(tmp_path / "link", "train").image(0).shape == (40, 48, 3)


def test_linked_folders_and_metadata_are_refused(prepared, tmp_path):
    folder = prepared(GOOD | {"file_name": "linked/000.png"})
    (folder / "train" / "cat").rename(tmp_path / "cats")
    (folder / "train" / "linked").symlink_to(tmp_path / "cats")
    with pytest.raises(InputError, match="outside of it"):
        load_split(folder, "train")
    (folder / "train" / "metadata.jsonl").rename(tmp_path / "metadata.jsonl")
    (folder / "train" / "metadata.jsonl").symlink_to(tmp_path / "metadata.jsonl")
    with pytest.raises(InputError, match="within the prepared dataset"):
        load_split(folder, "train")


def test_pipes_are_refused_not_waited_for(prepared):
    folder = prepared(GOOD | {"file_name": "cat/pipe.png"})
    os.mkfifo(folder / "train" / "cat" / "pipe.png")
    with pytest.raises(InputError, match="must be a regular file"):
        load_split(folder, "train")
    (folder / "train" / "metadata.jsonl").unlink()
    os.mkfifo(folder / "train" / "metadata.jsonl")
    with pytest.raises(InputError, match="cannot be read: expected a regular file"):
        load_split(folder, "train")


def test_what_is_not_there_says_how_to_make_it(prepared):
    folder = prepared()
    with pytest.raises(InputError, match="lists no photos"):
        load_split(folder, "train")
    with pytest.raises(InputError, match="animal-ldm prepare PHOTOS"):
        load_split(folder, "validation")


def test_reports_of_the_first_version_are_read(tmp_path):
    write_photos(tmp_path / "pets" / "cat", 3, first_seed=0)
    out = tmp_path / "out"
    report = prepare(tmp_path / "pets", out, "--license", "cc0-1.0", "--classes", "cat")
    assert report["version"] == 2 and report["arguments"]["license"] == "cc0-1.0"
    current = read_report(out / "preparation_report.json")
    for name in ("version", "num_captions", "photos_without_text", "source_problems"):
        del report[name]
    report["arguments"]["licence"] = report["arguments"].pop("license")
    (out / "preparation_report.json").write_text(json.dumps(report, indent=1))
    old = read_report(out / "preparation_report.json")
    assert old is not None and current is not None
    assert (old.arguments, old.classes, old.photos) == (current.arguments, current.classes, current.photos)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    prepare(tmp_path / "pets", out, "--licence", "cc0-1.0", "--classes", "cat")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"version": 9}', '{"arguments": 3}', "[" * 100_000])
def test_other_reports_are_something_else(tmp_path, content):
    write_photos(tmp_path / "pets" / "cat", 3, first_seed=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "preparation_report.json").write_text(content)
    assert read_report(tmp_path / "out" / "preparation_report.json") is None
    with pytest.raises(InputError, match="holds something else"):
        prepare(tmp_path / "pets", tmp_path / "out")


def test_the_digest_of_a_dataset_is_written_by_prepare_and_photos_are_compared_when_they_are_read(tmp_path):
    write_photos(tmp_path / "pets" / "cat", 4, first_seed=0)
    out = tmp_path / "out"
    prepare(tmp_path / "pets", out)
    split, metadata = load_split(out, "train"), out / "train" / "metadata.jsonl"
    assert split.digests == tuple(
        hashlib.sha256((split.folder / file).read_bytes()).hexdigest() for file in split.files
    )
    split.verify()

    # what an earlier version would have written
    lines = [json.loads(line) for line in metadata.read_text().splitlines()]
    without = "".join(json.dumps({k: v for k, v in line.items() if k != "sha256"}) + "\n" for line in lines)
    before = metadata.read_text()
    metadata.write_text(without)
    assert load_split(out, "train").fingerprint == split.fingerprint

    photo(9, 32, 32).save(split.folder / split.files[1])
    assert load_split(out, "train").fingerprint != split.fingerprint
    metadata.write_text(before)
    exchanged = load_split(out, "train")
    assert exchanged.fingerprint == split.fingerprint  # no photo is read
    for read in (exchanged.verify, lambda: exchanged.image(1)):
        with pytest.raises(InputError, match=f"{split.files[1]} has changed since the dataset was prepared"):
            read()
    assert exchanged.image(0).shape == (32, 32, 3)


def test_a_digest_that_is_none_is_told(prepared):
    with pytest.raises(InputError, match=r"jsonl:1: .*64 hexadecimal digits"):
        load_split(prepared(GOOD | {"sha256": "beef"}), "train")
