"""Prepared datasets in shards: the same photos as in folders, for every later step."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from animal_ldm.data import prepare as preparation
from animal_ldm.data import shards
from animal_ldm.data.captioning import read_photos
from animal_ldm.data.prepared import load_split
from animal_ldm.errors import InputError
from animal_ldm.evaluation.images import images_of_dataset
from animal_ldm.publishing.datasets import stage_dataset

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
    with pytest.raises(InputError, match="shards, whose captions cannot be changed"):
        read_photos(tmp_path / "out")


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
