"""Comparisons of models: which differences are shown, what is not comparable, where results and samples are found."""

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from animal_ldm.commands.compare import main
from animal_ldm.errors import InputError
from animal_ldm.evaluation.compare import compare_models
from animal_ldm.evaluation.comparison_sources import Source, find_sources, same_seeds
from animal_ldm.evaluation.features import FeatureSet
from animal_ldm.evaluation.reference import Reference
from animal_ldm.evaluation.results import ExtractorInfo, Measurement, ModelInfo, RealPhotos, Results, read_results
from animal_ldm.files import write_json
from tests.evaluation.test_results import EXTRACTOR, feature_set, results_of
from tests.webpage import Page


@pytest.fixture(scope="module")
def results() -> Results:
    return results_of(Reference(EXTRACTOR, feature_set(80, 0), feature_set(24, 1)), feature_set(48, 2))


def source(results: Results, name: str, tmp_path, **metric) -> Source:
    """Results with every metric changed."""
    changed = [replace(found, repeats=1, std=None, **metric) for found in results.metrics]
    digest = metric.get("digest", name)
    own = replace(results, model=ModelInfo(name, digest), metrics=changed)
    return Source(name, {own.extractor.name: own}, tmp_path)


def with_value(source: Source, value: float, standard_error: float | None, weights: str) -> Source:
    """The first metric (lower is better) alone."""
    own = source.first
    metric = replace(own.metrics[0], value=value, standard_error=standard_error)
    own = replace(own, metrics=[metric], model=ModelInfo(source.name, weights))
    return replace(source, results={own.extractor.name: own})


def cells(*sources: Source, name: str = "frechet_distance", k: int | None = None):
    [table] = compare_models(sources).tables
    [row] = [row for row in table.rows if (row.metric.name, row.metric.k) == (name, k)]
    return row


@pytest.mark.parametrize(
    ("difference", "weights", "standing"),
    [
        (2.8, "same", "not distinguishable"),  # below two standard errors of the difference, 2 sqrt(2)
        (2.9, "same", "worse"),
        (2.9, "other", "within a retraining"),
        (9.0, "other", "within a retraining"),  # below 3.2 times that
        (9.1, "other", "worse"),
    ],
)
def test_differences_within_the_error_are_not_shown(results, tmp_path, difference, weights, standing):
    base = source(results, "a", tmp_path), source(results, "b", tmp_path)
    a, b = with_value(base[0], 100 + difference, 1.0, "same"), with_value(base[1], 100.0, 1.0, weights)
    row = cells(a, b)
    assert [cell.standing for cell in row.cells] == [standing, "best"]
    assert row.cells[0].leads == (standing == "not distinguishable")
    shown = "no difference shown" if standing == "not distinguishable" else f"best: b; {standing}: a"
    assert row.verdict == shown


def test_without_an_error_nothing_is_called_different(results, tmp_path):
    base = source(results, "a", tmp_path), source(results, "b", tmp_path)
    row = cells(with_value(base[0], 1.0, None, "w"), with_value(base[1], 1000.0, 0.1, "w"))
    assert row.verdict == "best: a; no ± known: b"


def test_error_of_several_sample_sets_is_that_of_their_mean(results, tmp_path):
    one, four = (with_value(source(results, name, tmp_path), 10.0, 1.0, name) for name in "ab")
    metric = replace(four.first.metrics[0], repeats=4, std=3.0)
    four = replace(four, results={"squeezenet": replace(four.first, metrics=[metric])})
    row = cells(one, four)
    assert [cell.error for cell in row.cells] == [1.0, 0.5]
    assert row.cells[1].text.startswith("10 ± 3")


def test_nearest_to_real_photos_is_best(results, tmp_path):
    a, b = source(results, "a", tmp_path), source(results, "b", tmp_path)
    [photos] = {found.real_photos.value for found in a.first.metrics if found.name == "density"}
    sources = []
    for found, value in ((a, photos + 1), (b, photos - 0.5)):
        metric = replace(found.first.find("density", 5), value=value, standard_error=0.01)
        own = replace(found.first, metrics=[metric], model=ModelInfo("m", "same"))
        sources.append(replace(found, results={"squeezenet": own}))
    assert cells(*sources, name="density", k=5).verdict == "best: b; worse: a"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda own: replace(own, extractor=replace(EXTRACTOR, weights_digest="0")), "other weights of the extractor"),
        (lambda own: replace(own, extractor=replace(EXTRACTOR, resize="bilinear")), "resized otherwise: bilinear"),
        (lambda own: replace(own, data=replace(own.data, digests={"train": "0"})), "other photos"),
        (lambda own: replace(own, data=replace(own.data, reference="validation")), "split validation, not train"),
        (lambda own: replace(own, sampling=replace(own.sampling, prompts={})), "other prompts"),
        (lambda own: replace(own, sampling=replace(own.sampling, class_mix="balanced")), "other class mix"),
    ],
)
def test_what_cannot_be_compared_is_marked(results, tmp_path, change, reason):
    a, b = source(results, "a", tmp_path), source(results, "b", tmp_path)
    b = replace(b, results={"squeezenet": change(b.first)})
    [table] = compare_models([a, b]).tables
    assert [(name, reason in found) for name, found in table.reasons] == [("b", True)]
    assert all(row.cells[1].standing == "not comparable" and not row.cells[0].standing for row in table.rows)


def test_another_number_of_samples_leaves_what_does_not_depend_on_it(results, tmp_path):
    a, b = (
        source(results, "a", tmp_path),
        source(results, "b", tmp_path, n_generated=40, real_photos=RealPhotos(7, 0.0)),
    )
    [table] = compare_models([a, b]).tables
    marked = {row.metric.name for row in table.rows if row.cells[1].reasons}
    assert all("N=24" in row.real_photos for row in table.rows)  # beside the first model's
    assert marked == {"frechet_distance", "sliced_wasserstein", "recall", "coverage", "vendi_score"}
    assert not any(row.metric.name.endswith("_ratio") for row in table.rows)


def test_a_table_for_every_extractor(results, tmp_path):
    a, b = source(results, "a", tmp_path), source(results, "b", tmp_path)
    clip = ExtractorInfo("clip", "12" * 32, "bicubic")
    other = replace(b.first, extractor=clip, metrics=[replace(found, extractor=clip) for found in b.first.metrics])
    comparison = compare_models([a, replace(b, results={"clip": other})])
    assert [table.extractor for table in comparison.tables] == ["squeezenet", "clip"]
    for table, missing in zip(comparison.tables, (1, 0), strict=True):
        assert all(row.cells[missing].text == "" and row.verdict == "" for row in table.rows)


# The command


@pytest.fixture
def evaluations(results, tmp_path):
    """Folders of two evaluations of one model: other settings, the same seeds, samples of theirs and of others."""
    clip = ExtractorInfo("clip", "12" * 32, "bicubic")
    for name, guidance in (("first", 3.0), ("second", 1.0)):
        sampling = replace(
            results.sampling, guidance_scale=guidance, prompts={"lion": "a lion", "polar bear": "a bear"}
        )
        found = Measurement(clip, results.metrics, results.fd_curves, results.per_class, None, None)
        replace(results, sampling=sampling, more=[found]).write(tmp_path / name / "results.json")
        for folder, scale in (("right", guidance), ("wrong", 9.0)):
            place = tmp_path / name / "samples" / folder
            settings = {
                "num_inference_steps": 25,
                "guidance_scale": scale,
                "guidance_rescale": 0.0,
                "guidance_interval": [0.0, 1.0],
            }
            identity = {"model": "ab" * 32, "dtype": "torch.float32", "seed": 0, "sampling": settings}
            write_json(place / "settings.json", identity)
            for i, label in enumerate(("lion", "polar_bear", "lion", "zebra")):
                Image.new("RGB", (8, 8), (i, round(10 * scale), 0)).save(place / f"{i:06d}_{label}.png")
    return tmp_path / "first", tmp_path / "second"


def test_command(evaluations, tmp_path, capsys):
    main([*map(str, evaluations), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    page, markdown = ((tmp_path / "out" / f"compare.{kind}").read_text() for kind in ("html", "md"))
    for text in (printed, page, markdown):
        for part in ("first", "second", "squeezenet", "clip", "no difference shown", "Frechet distance", "3.2 times"):
            assert part in text
    Page(tmp_path / "out" / "compare.html").check()
    assert "compare.png" in markdown
    with Image.open(tmp_path / "out" / "compare.png") as picture:
        assert picture.width > 1000


def test_samples_of_the_same_prompts_and_seeds(evaluations):
    rows = same_seeds(find_sources([*map(str, evaluations)]))
    assert [(row.prompt, row.seed) for row in rows] == [("a bear", 1), ("a lion", 0)]
    for row in rows:
        assert [image[0, 0].tolist() for image in row.images] == [[row.seed, 30, 0], [row.seed, 10, 0]]


def test_samples_of_the_same_captions(evaluations):
    for folder in evaluations:
        found = read_results(folder / "results.json")
        sampling = replace(found.sampling, prompts={}, prompts_from="data")
        replace(found, sampling=sampling).write(folder / "results.json")
        for i, digest in enumerate(("0123456789ab", "ba9876543210")):
            Image.new("RGB", (8, 8)).save(folder / "samples" / "right" / f"{i + 4:06d}_bear_{digest}.png")
    rows = same_seeds(find_sources([*map(str, evaluations)]))
    assert [(row.prompt, row.seed) for row in rows] == [
        ("bear 0123456789ab", 4),  # the first of its class
        ("lion", 0),
        ("polar bear", 1),
        ("zebra", 3),
    ]


def test_no_samples_of_one_seed(evaluations):
    (evaluations[1] / "samples" / "right" / "settings.json").write_text(
        (evaluations[1] / "samples" / "wrong" / "settings.json").read_text()
    )
    assert same_seeds(find_sources([*map(str, evaluations)])) == []


def test_where_results_are_found(evaluations, results, tiny_pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    (model / "evaluation" / "squeezenet").mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    results.write(model / "evaluation" / "squeezenet" / "results.json")
    first, second = evaluations
    found = find_sources([str(first), str(second / "results.json"), str(model)])
    assert [source.name for source in found] == ["first", "second", "model"]
    assert [[*source.results] for source in found] == [["squeezenet", "clip"], ["squeezenet", "clip"], ["squeezenet"]]
    assert [source.name for source in find_sources([str(first), str(first)])] == ["first (1)", "first (2)"]
    for given, message in (
        (tiny_pipeline_folder, "has no results yet: run `animal-ldm evaluate"),
        (str(tmp_path), "holds neither results.json nor a pipeline"),
        ("nowhere", "no file or folder nowhere"),
        ("nobody/nothing", "could be read from the Hub"),
    ):
        with pytest.raises(InputError, match=message):
            find_sources([given])


def test_one_model_is_not_compared():
    with pytest.raises(InputError, match="at least two models"):
        main(["alone"])


def test_a_difference_between_real_models_is_shown(tmp_path):
    """Samples near the photos against samples far from them."""
    reference = Reference(EXTRACTOR, feature_set(80, 0), feature_set(40, 1))
    near = feature_set(60, 2)
    far = FeatureSet(torch.randn(60, 6, generator=torch.Generator().manual_seed(3)) + 2, near.labels)
    sources = [
        Source(name, {"squeezenet": replace(results_of(reference, found), model=ModelInfo(name, name))}, tmp_path)
        for name, found in (("near", near), ("far", far))
    ]
    [table] = compare_models(sources).tables
    verdicts = {row.metric.name: row.verdict for row in table.rows}
    for name in ("frechet_distance", "kernel_distance", "sliced_wasserstein", "density", "coverage"):
        assert verdicts[name] == "best: near; worse: far"
    assert all(math.isfinite(row.cells[0].error or 0) for row in table.rows)
