"""Prepared datasets in shards: the same photos as in folders, for every later step."""

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from fsspec.implementations.memory import MemoryFileSystem

from animal_ldm.commands.caption import main as caption_command
from animal_ldm.data import prepare as preparation
from animal_ldm.data import shards
from animal_ldm.data.prepared import load_split
from animal_ldm.errors import InputError
from animal_ldm.evaluation.images import images_of_dataset
from animal_ldm.publishing.datasets import stage_dataset

from .captioners import save
from .photos_on_disk import contents, write_photos
from .test_prepare import prepare


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def pets(tmp_path) -> Path:
    for seed, (name, number) in enumerate({"cat": 30, "polar_bear": 12}.items()):
        write_photos(tmp_path / "pets" / name, number, first_seed=100 * seed)
    return tmp_path / "pets"


@pytest.fixture
def small_shards(monkeypatch):
    """Some three photos a row group, and several shards."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(shards, "ROW_GROUP", 3)
    monkeypatch.setattr(shards, "GROUPS_KEPT", 2)
    monkeypatch.setattr(shards, "BATCH", 5)


def test_shards_hold_what_folders_hold(pets, tmp_path, small_shards):
    prepare(pets, tmp_path / "folders", "--describe")
    report = prepare(pets, tmp_path / "shards", "--describe", "--format", "shards")
    assert report["arguments"]["format"] == "shards"
    for name in ("train", "validation"):
        folder, packed = load_split(tmp_path / "folders", name), load_split(tmp_path / "shards", name)
        for field in ("files", "captions", "labels", "attributes", "sources", "digests"):
            expected, found = getattr(folder, field), getattr(packed, field)
            assert tuple(found) == expected and len(found) == len(folder)
            assert found[len(folder) - 1] == expected[-1] and found[1:3] == expected[1:3]
        assert packed.fingerprint == folder.fingerprint and packed.classes == folder.classes
        assert packed.all_captions == folder.all_captions and packed.source_counts == folder.source_counts
        packed.verify()
        for index in np.random.default_rng(0).permutation(len(folder)):
            assert np.array_equal(packed.image(index), folder.image(index))
    assert len(list((tmp_path / "shards" / "train").iterdir())) > 3
    photos = [images_of_dataset(tmp_path / name)["train"] for name in ("folders", "shards")]
    assert photos[0].digest() == photos[1].digest() and np.array_equal(photos[0][5], photos[1][5])


def test_the_datasets_library_reads_shards(pets, tmp_path, small_shards):
    prepare(pets, tmp_path / "out", "--format", "shards")
    data = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    split = load_split(tmp_path / "out", "train")
    assert len(data["train"]) == len(split) and len(data["validation"]) == 4
    example = data["train"][7]
    assert np.array_equal(example["image"], split.image(7)) and tuple(example["texts"]) == split.captions[7]


def test_folders_are_the_default_for_few_photos_and_a_finished_dataset_keeps_its_format(pets, tmp_path, monkeypatch):
    assert "format" not in prepare(pets, tmp_path / "few")["arguments"]
    monkeypatch.setattr(preparation, "FOLDERS_BELOW", 42)
    assert prepare(pets, tmp_path / "many")["arguments"]["format"] == "shards"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "datasets" not in path.parts}
    prepare(pets, tmp_path / "few")
    prepare(pets, tmp_path / "many")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(InputError, match="format shards there, folders here"):
        prepare(pets, tmp_path / "many", "--format", "folders")


def test_a_dataset_that_lacks_a_shard_is_refused_and_prepared_again(pets, tmp_path, small_shards):
    out = tmp_path / "out"
    prepare(pets, out, "--format", "shards")
    before = contents(out)
    first, *_ = sorted((out / "train").iterdir())
    first.unlink()
    with pytest.raises(InputError, match="lacks shards"):
        load_split(out, "train")
    prepare(pets, out, "--format", "shards")
    assert contents(out) == before


@pytest.mark.parametrize("format_", ["folders", "shards"])
def test_parts_of_several_machines_make_the_same_dataset(pets, tmp_path, monkeypatch, format_):
    monkeypatch.setattr("animal_ldm.data.processing.CHUNK_SIZE", 5)
    prepare(pets, tmp_path / "whole", "--format", format_)
    options = ("--image_size", "32", "--workers", "1", "--format", format_)
    for part in (1, 2, 3):  # separate disks
        preparation_command(pets, tmp_path / f"machine-{part}" / "out", *options, "--part", f"{part}/3")
        assert not (tmp_path / f"machine-{part}" / "out" / "train").exists()
        work = tmp_path / f"machine-{part}" / "out" / ".preparation"
        shutil.copytree(work, tmp_path / "out" / ".preparation", dirs_exist_ok=True)
    records = set((tmp_path / "out" / ".preparation").glob("records-*.json"))
    assert len(records) == 9

    def not_needed(*_):
        raise AssertionError

    monkeypatch.setattr("animal_ldm.data.processing.process_photo", not_needed)
    prepare(pets, tmp_path / "out", "--format", format_)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(InputError, match="--part must be i/n"):
        preparation_command(pets, tmp_path / "other", "--part", "4/3")


def preparation_command(source: Path, out: Path, *options: str) -> None:
    from animal_ldm.commands.prepare import main

    main([str(source), str(out), *options])


def test_shards_are_staged_for_the_hub(pets, tmp_path, small_shards):
    prepare(pets, tmp_path / "out", "--format", "shards", "--license", "cc0-1.0")
    (tmp_path / "staged").mkdir()
    stage_dataset(tmp_path / "out", tmp_path / "staged")
    staged = contents(tmp_path / "staged")
    assert all(staged[name] == data for name, data in contents(tmp_path / "out").items() if name.endswith("parquet"))
    assert "in Parquet files" in staged["README.md"].decode()
    assert json.loads(staged["preparation_report.json"])["arguments"]["format"] == "shards"


def test_a_model_captions_shards_as_it_does_folders(pets, tmp_path, small_shards):
    model = save("blip", tmp_path / "blip-tiny")
    for format_ in ("folders", "shards"):
        prepare(pets, tmp_path / format_, "--format", format_)
        options = ["--model", str(model), "--device", "cpu", "--max_new_tokens", "8", "--batch_size", "4"]
        caption_command([str(tmp_path / format_), *options])
    images = contents(tmp_path / "shards")
    for name in ("train", "validation"):
        folder, packed = (load_split(tmp_path / format_, name) for format_ in ("folders", "shards"))
        assert tuple(packed.captions) == folder.captions and tuple(packed.sources) == folder.sources
        assert packed.source_counts["model:blip-tiny"] == len(packed)
        packed.verify()
    reports = [json.loads((tmp_path / x / "preparation_report.json").read_text()) for x in ("folders", "shards")]
    assert reports[0]["captioners"] == reports[1]["captioners"]
    caption_command([str(tmp_path / "shards"), *options])
    assert contents(tmp_path / "shards") == images
    first, *_ = sorted((tmp_path / "shards" / "train").iterdir())
    first.unlink()  # the captions are lost with it, and the report says so
    assert prepare(pets, tmp_path / "shards", "--format", "shards")["captioners"] == []


def test_shards_elsewhere_are_read_from_there_and_not_kept(pets, tmp_path, small_shards, monkeypatch):
    monkeypatch.setenv("ANIMAL_LDM_CACHE", str(tmp_path / "cache"))
    prepare(pets, tmp_path / "out", "--format", "shards")
    store, url = fsspec.filesystem("memory"), "memory://bucket/photos"
    store.put(str(tmp_path / "out"), "/bucket/photos", recursive=True)
    for name in ("train", "validation"):
        here, there = load_split(tmp_path / "out", name), load_split(url, name)
        for field in ("files", "captions", "labels", "attributes", "sources", "digests"):
            assert tuple(getattr(here, field)) == tuple(getattr(there, field))
        assert here.fingerprint == there.fingerprint
        there.verify()
        assert np.array_equal(here.image(3), there.image(3))
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.suffix for path in kept] == [".arrow", ".arrow"]
    assert not any(b"PNG" in path.read_bytes() for path in kept)

    opened, times = MemoryFileSystem._open, []
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda *args, **more: times.append(1) or opened(*args, **more))
    there = load_split(url, "train")  # its metadata are here already
    before, shards_there = len(times), len(there.shards.files)
    assert before == shards_there
    for index in range(len(there)):  # each row group once
        there.photo_bytes(index)
    assert len(times) - before == len(there.shards.groups)

    store.rm("/bucket/photos/train/" + there.shards.files[1].name)
    with pytest.raises(InputError, match="not all of them"):
        load_split(url, "train")
    with pytest.raises(InputError, match="hf://datasets/user/name"):
        load_split("nothing://there", "train")


def test_hostile_shards_are_refused_with_a_sentence(pets, tmp_path):
    out = tmp_path / "out"
    prepare(pets, out, "--format", "shards")
    (shard,) = (out / "train").iterdir()
    table = pq.read_table(shard)
    one = table.slice(0, 1)

    def with_column(name: str, values: list) -> pa.Table:
        index = table.schema.get_field_index(name)
        return one.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))

    for other, message in (
        (table.drop_columns(["texts"]), "other columns"),
        (table.slice(0, 0), "no photos"),
        (with_column("label", [None]), "label is missing"),
        (with_column("texts", [[]]), "without text"),
        (with_column("caption_sources", [["own"] * 2]), "as many as texts"),
    ):
        pq.write_table(other, shard)
        with pytest.raises(InputError, match=message):
            load_split(out, "train")
    pq.write_table(with_column("image", [{"bytes": b"", "path": "x.png"}]), shard)
    with pytest.raises(InputError, match="has changed since the dataset was prepared"):
        load_split(out, "train").image(0)
    shard.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        load_split(out, "train")
    shard.unlink()
    shard.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(InputError, match="cannot be read"):
        load_split(out, "train")
