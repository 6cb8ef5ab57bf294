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
from animal_ldm.evaluation.gallery import SamplesAndPhotos, gallery, read_gallery
from animal_ldm.evaluation.images import images_of_dataset
from animal_ldm.evaluation.page import write_page
from animal_ldm.evaluation.reference import Reference
from animal_ldm.evaluation.report import measure
from animal_ldm.evaluation.results import (
    AutoencoderResult,
    DataInfo,
    ExtractorInfo,
    Measurement,
    ModelInfo,
    Results,
    SamplingInfo,
    Sweep,
    SweepPoint,
    read_results,
)
from animal_ldm.evaluation.table import sampling_line, table
from animal_ldm.sampling import Sampling
from tests.webpage import EVIL, Page, Visit

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


def test_settings_of_guidance_are_told(results):
    assert "guidance 3, seed 0" in sampling_line(results)
    changed = replace(
        results.sampling,
        guidance_interval=(0.1, 0.8),
        guidance_rescale=0.5,
        pag_scale=6.0,
        pag_applied_layers=("mid", "up_blocks.0"),
    )
    told = sampling_line(replace(results, sampling=changed))
    assert "guidance 3 from 0.1 to 0.8 of the steps, rescale 0.5, PAG 6 (mid, up_blocks.0), seed 0" in told


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


# --- report.html -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(results, prepared):
    """The gallery of 27 images, compared with 60 others."""
    photos = images_of_dataset(prepared)
    generator = torch.Generator().manual_seed(0)
    features = (torch.randn(len(photos[split]), 4, generator=generator) for split in ("validation", "train"))
    of_samples, of_photos = features
    samples = replace(photos["validation"], captions=tuple((f"a {label}",) for label in photos["validation"].labels))
    compared = SamplesAndPhotos(samples, of_samples, photos["train"], of_photos)
    return gallery(results, compared, compared.nearest_photos())


@pytest.fixture
def page(results, images, tmp_path):
    """The report of `results`, changed in some fields."""

    def write(images=images, **changes) -> Page:
        write_page(replace(results, **changes), images, tmp_path / "report.html")
        found = Page(tmp_path / "report.html")
        found.check()
        return found

    return write


def test_report_shows_every_figure_with_its_explanation(results, page):
    shown = page(sweep=Sweep("guidance_scale", [SweepPoint(value, results.metrics) for value in (1.0, 3.0)]))
    tips = [attributes["id"] for _, attributes in shown.elements if attributes.get("role") == "tooltip"]
    assert sum(name.startswith("metric-") for name in tips) == len(results.metrics)
    text = " ".join(shown.text.split())
    for metric in results.metrics:
        assert metric.label in text
        assert not metric.note or metric.note[1:] in text
    for found in results.per_class:
        assert f"{found.accuracy:.0%}" in text
    charts = [drawing["aria-label"] for drawing in shown.all("svg") if drawing.get("role") == "img"]
    assert [chart.split(".")[0] for chart in charts[:2]] == [
        "Precision and recall",
        "FD (squeezenet) against the number of samples",
    ]
    recall = results.find("recall", 10)
    assert f"{results.find('precision', 10).value:.4g} at {recall.value:.4g}" in charts[0]
    assert any(chart.startswith("coverage, k=5") for chart in charts[2:])


def test_report_shows_samples_with_prompts_and_seeds(page, images):
    shown = page()
    alts = [image["alt"] for image in shown.all("img")]
    assert "Sample of “a lion”, seed 9" in alts
    assert "Sample of “a lion”, seed 10" not in alts  # of 12 lions, the first 10 are shown
    assert sum(alt.startswith("Training photo number 1 ") for alt in alts) == 12
    assert len(page(images.without_photos()).all("img")) == len(images.groups[0].tiles) + 15
    assert not any("raining photo" in image["alt"] for image in page(images.without_photos()).all("img"))


def test_confusion_of_all_samples(results, page):
    for found in results.per_class:
        assert sum(found.assigned.values()) == found.n_generated
        assert found.assigned.get(found.label, 0) == pytest.approx(found.accuracy * found.n_generated)
    assert "Confusion matrix" in page().text
    earlier = [replace(found, assigned=None) for found in results.per_class]
    assert "Confusion matrix" not in page(per_class=earlier).text


def test_report_without_what_a_folder_of_images_lacks(results, page):
    few = [replace(metric, real_photos=None, same_n=None, value=None, note="none") for metric in results.metrics]
    shown = page(None, sampling=None, per_class=None, sweep=None, autoencoder=None, metrics=few)
    assert not shown.all("img")
    assert "not measured" in shown.text


def test_report_of_several_extractors(results, page):
    other = replace(EXTRACTOR, name="owner/clip")
    metrics = [replace(metric, extractor=other, label=f"{metric.label} of it") for metric in results.metrics]
    more = Measurement(other, metrics, results.fd_curves, results.per_class, None, None)
    shown = page(more=[more])
    assert {"#extractors", "#part-1", "#part-2"} <= {link["href"] for link in shown.all("a")}
    assert all(f"{metric.label} of it" in shown.text for metric in results.metrics)
    assert "Extractors side by side" not in page().text


def test_an_unknown_metric_is_shown_with_its_note(results, page):
    new = replace(results.metrics[0], name="novelty", label="novelty of fur", note="how new the fur is")
    text = page(metrics=[*results.metrics, new]).text
    assert "novelty of fur" in text
    assert "How new the fur is." in text


@pytest.fixture
def hostile_page(results, page, images) -> Page:
    """The report of a model whose names and texts all mean harm."""
    tiles = [replace(tile, prompt=f"{EVIL} {tile.seed}") for tile in images.groups[0].tiles]
    group = replace(images.groups[0], label=EVIL, tiles=tiles)
    pairs = [replace(pair, label=EVIL) for pair in images.closest]
    return page(
        replace(images, groups=[group], closest=pairs, extractor=EVIL),
        model=replace(results.model, name=EVIL),
        data=replace(results.data, name=EVIL),
        sampling=replace(results.sampling, scheduler=EVIL),
        per_class=[replace(found, label=EVIL, mistaken_for=EVIL) for found in results.per_class[:1]],
        metrics=[replace(metric, label=EVIL, note=EVIL) for metric in results.metrics],
        sweep=Sweep(EVIL, [SweepPoint(1.0, results.metrics), SweepPoint(2.0, results.metrics)]),
        versions={EVIL: EVIL},
    )


def test_texts_in_a_report_are_inert(hostile_page):
    assert not hostile_page.all("script")
    assert EVIL in hostile_page.text
    assert "123454321" not in hostile_page.html


@pytest.mark.slow
def test_a_hostile_report_in_the_browser(browser, hostile_page, tmp_path):
    visit = Visit(browser, (tmp_path / "report.html").as_uri())
    assert "window.pwned=1" in visit.page.inner_text("body")
    visit.check()


def test_gallery_is_read_as_it_was_written(images, tmp_path):
    assert read_gallery(tmp_path / "gallery.json") is None
    images.write(tmp_path / "gallery.json")
    assert read_gallery(tmp_path / "gallery.json") == images
    (tmp_path / "gallery.json").write_text("[]")
    with pytest.raises(InputError, match="evaluate again"):
        read_gallery(tmp_path / "gallery.json")


def test_report_of_version_1(tmp_path):
    write_page(read_results(VERSION_1), None, tmp_path / "report.html")
    Page(tmp_path / "report.html").check()
