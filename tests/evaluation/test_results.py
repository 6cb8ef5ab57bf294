"""results.json: the schema round trip, version 1, and what it must not hold."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from animal_ldm.errors import InputError
from animal_ldm.evaluation import plots
from animal_ldm.evaluation.features import FeatureSet
from animal_ldm.evaluation.report import Reference, measure
from animal_ldm.evaluation.results import (
    AutoencoderResult,
    DataInfo,
    ExtractorInfo,
    ModelInfo,
    Results,
    SamplingInfo,
    Sweep,
    SweepPoint,
    read_results,
)
from animal_ldm.evaluation.table import table
from animal_ldm.sampling import Sampling

VERSION_1 = Path(__file__).with_name("results_version_1.json")
EXTRACTOR = ExtractorInfo("squeezenet", "ef" * 32, "bicubic")


def feature_set(n: int, seed: int) -> FeatureSet:
    generator = torch.Generator().manual_seed(seed)
    return FeatureSet(torch.randn(n, 6, generator=generator), tuple(("lion", "zebra")[i % 2] for i in range(n)))


def results_of(reference: Reference, samples: FeatureSet) -> Results:
    report = measure(reference, [samples, samples], seed=0, sampling=Sampling())
    return Results(
        model=ModelInfo("tiny", "ab" * 32),
        data=DataInfo(
            "prepared", "train", "validation", {"train": 80}, {"train": "12"}, {"lion": 40, "zebra": 40}, 16
        ),
        extractor=EXTRACTOR,
        sampling=SamplingInfo(
            **asdict(Sampling()),
            seed=0,
            class_mix="data",
            prompts={"lion": "a lion"},
            scheduler="DDIMScheduler",
            dtype="float32",
            image_size=16,
        ),
        metrics=report.metrics,
        fd_curves=report.fd_curves,
        per_class=report.per_class,
        sweep=Sweep("guidance_scale", [SweepPoint(1.0, report.metrics)]),
        autoencoder=AutoencoderResult(24, 20.0, None, 3.0, 0.1, 0.7, 0.9, 0, None),
        versions={"python": "3.11"},
    )


@pytest.fixture(scope="module")
def results() -> Results:
    return results_of(Reference(EXTRACTOR, feature_set(80, 0), feature_set(24, 1)), feature_set(48, 2))


def test_what_is_written_is_read(results, tmp_path):
    results.write(tmp_path / "results.json")
    found = read_results(tmp_path / "results.json")
    assert found == results
    found.check()
    infinity = found.find("frechet_distance_infinity")
    assert infinity.standard_error == found.fd_curves.samples.standard_error > 0
    assert "standard error" in infinity.note
    assert found.find("kernel_distance").standard_error > 0
    assert found.find("precision", 3) in found.metrics
    assert found.find("precision", 4) is None


def test_version_1_is_read():
    old = json.loads(VERSION_1.read_text())
    found = read_results(VERSION_1)
    found.check()
    # a straight line over 1/N below the features' dimension was no extrapolation
    kept = [record["value"] if "infinity" not in record["name"] else None for record in old["metrics"]]
    assert [metric.value for metric in found.metrics] == kept
    assert found.find("frechet_distance_infinity").note.startswith("not measured")
    [faithfulness] = [record for record in old["metrics"] if record["name"] == "faithfulness"]
    assert found.find("prompt_accuracy").value == faithfulness["value"]
    assert [part.accuracy for part in found.per_class] == [part["recognised"] for part in old["per_class"]]
    assert found.fd_curves.real_photos.distances == old["fd_curve"]["real_photos"]["distances"]
    assert found.fd_curves.samples.value is None and found.fd_curves.samples.standard_error is None
    assert found.autoencoder.probe_accuracy == old["autoencoder"]["recognised"]
    assert found.versions == old["environment"]
    assert found.metrics[0].sampling.guidance_scale == 3
    assert "animal-ldm-128 against 9,953 photos" in table(found)


def test_nan_of_version_1_was_not_measured(tmp_path):
    old = json.loads(VERSION_1.read_text())
    old["autoencoder"]["lpips"] = math.nan
    (tmp_path / "results.json").write_text(json.dumps(old))
    assert read_results(tmp_path / "results.json").autoencoder.lpips is None


def test_only_json_is_written(results, tmp_path):
    wrong = replace(results, autoencoder=replace(results.autoencoder, psnr=math.nan))
    with pytest.raises(ValueError, match="not JSON compliant"):
        wrong.write(tmp_path / "results.json")
    assert not list(tmp_path.iterdir())


def test_division_by_zero_is_not_measured(tmp_path):
    """Held-out photos that are all copies of training photos: no sample's distance is a multiple of theirs."""
    train = feature_set(80, 0)
    held_out = FeatureSet(train.features[:24], train.labels[:24])
    found = results_of(Reference(EXTRACTOR, train, held_out), feature_set(48, 2))
    metric = found.find("median_distance")
    assert (metric.value, metric.std) == (None, None)
    assert metric.note.startswith("not measured")
    found.check()
    found.write(tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == found
    assert "not measured" in table(found)


def test_refuses_values_that_are_missing_without_a_reason(results):
    metric = replace(results.metrics[0], value=None, note=None)
    with pytest.raises(InputError, match="neither its value nor a note"):
        replace(results, metrics=[metric]).check()
    replace(results, metrics=[replace(metric, note="not measured: too few samples")]).check()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_numbers_that_are_not_finite(results, value):
    with pytest.raises(InputError, match="not a finite number"):
        replace(results, metrics=[replace(results.metrics[0], value=value)]).check()


def test_refuses_an_fid_of_other_features(results):
    with pytest.raises(InputError, match="only Inception's features"):
        replace(results, metrics=[replace(results.metrics[0], label="FID, N→∞")]).check()


def test_sets_too_small_to_extrapolate_from(tmp_path):
    found = results_of(Reference(EXTRACTOR, feature_set(80, 0), feature_set(20, 1)), feature_set(48, 2))
    infinity = found.find("frechet_distance_infinity")
    assert (infinity.real_photos.value, infinity.same_n.value) == (None, None)
    assert infinity.value is not None
    assert "real photos: not measured" in infinity.note
    assert found.fd_curves.real_photos.value is None
    plots.save_fd_curve(found, tmp_path / "fd_curve.png")
    found = results_of(Reference(EXTRACTOR, feature_set(80, 0), feature_set(20, 1)), feature_set(20, 2))
    infinity = found.find("frechet_distance_infinity")
    assert infinity.value is None
    assert infinity.note.startswith("not measured: 20 samples")
    found.check()
    found.write(tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == found
    plots.save_fd_curve(found, tmp_path / "fd_curve.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"metrics": None}, "does not follow the schema"),
        ({"model": {"name": 3, "digest": None}}, "expected str, found 3"),
        ({"data": {}}, "does not follow the schema"),
    ],
)
def test_refuses_other_schemas(results, tmp_path, change, message):
    (tmp_path / "results.json").write_text(json.dumps(asdict(results) | change))
    with pytest.raises(InputError, match=message):
        read_results(tmp_path / "results.json")


def test_refuses_other_directions(results, tmp_path):
    content = asdict(results)
    content["metrics"][0]["better"] = "bigger"
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="found 'bigger'"):
        read_results(tmp_path / "results.json")


@pytest.mark.parametrize("text", [None, "no JSON", "[]", "{}"])
def test_refuses_other_files(tmp_path, text):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=r"results\.json"):
        read_results(tmp_path / "results.json")
