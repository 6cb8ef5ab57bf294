"""The modules for the `evaluate` library load without a network and give what the functions give."""

import hashlib
from dataclasses import asdict

import evaluate
import numpy as np
import pytest
from PIL import Image

from animal_ldm.errors import InputError
from animal_ldm.evaluation import extractors, modules
from animal_ldm.evaluation.extractors import load_extractor
from animal_ldm.evaluation.features import Measurer
from animal_ldm.evaluation.images import images_of_folder
from animal_ldm.evaluation.metrics import frechet_distance_of_features, precision_recall


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture
def feature_files(tmp_path):
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(60, 8)).astype(np.float32), rng.normal(0.3, 1, size=(50, 8)).astype(np.float32)
    np.save(tmp_path / "real.npy", real)
    np.save(tmp_path / "fake.npy", fake)
    paths = {"references": [str(tmp_path / "real.npy")], "predictions": [str(tmp_path / "fake.npy")]}
    return real, fake, paths


def test_features_from_files_are_no_fid(feature_files):
    real, fake, paths = feature_files
    found = evaluate.load(modules.path("fid")).compute(**paths)
    assert found["frechet_distance"] == pytest.approx(frechet_distance_of_features(real, fake))
    assert found["extractor"] == "features as given"
    assert found["note"] is None
    assert (found["n_generated"], found["n_real"]) == (50, 60)
    assert "fid" not in found


def test_precision_recall(feature_files):
    real, fake, paths = feature_files
    found = evaluate.load(modules.path("precision_recall")).compute(**paths, k=[10, 3])
    assert (found["precision_k10"], found["recall_k10"]) == precision_recall(real, fake, 10)
    assert (found["precision_k3"], found["recall_k3"]) == precision_recall(real, fake, 3)
    assert {"density_k3", "coverage_k10"} < set(found)


def test_image_folders(tmp_path, squeezenet_weights):
    rng = np.random.default_rng(0)
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / name / f"{i}.png")
    found = evaluate.load(modules.path("fid")).compute(
        references=[str(tmp_path / "real")],
        predictions=[str(tmp_path / "fake")],
        extractor="squeezenet",
        weights=str(squeezenet_weights),
    )
    extractor = load_extractor("squeezenet", squeezenet_weights)
    expected = [Measurer(extractor).features(images_of_folder(tmp_path / name)) for name in ("real", "fake")]
    assert found["frechet_distance"] == pytest.approx(frechet_distance_of_features(*expected))
    assert found["extractor"] == asdict(extractor.describe())
    assert "no more samples than the features' 512 dimensions" in found["note"]


def test_fid_is_inceptions_and_few_samples_are_labelled(tmp_path, inception_stand_in, monkeypatch):
    digest = hashlib.sha256(inception_stand_in.read_bytes()).hexdigest()
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", digest)
    for level, name in enumerate(("real", "fake")):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (16, 16), (60 * i, 200, 90 * level)).save(tmp_path / name / f"{i}.png")
    found = evaluate.load(modules.path("fid")).compute(
        references=[str(tmp_path / "real")], predictions=[str(tmp_path / "fake")], weights=str(inception_stand_in)
    )
    assert found["fid"] > 0
    assert found["extractor"]["weights_digest"] == digest
    assert "fewer than 2,048 samples" in found["note"]


@pytest.mark.parametrize("name", ["fid", "precision_recall"])
def test_info_is_complete(name):
    info = evaluate.load(modules.path(name)).info
    assert info.description.strip()
    assert info.citation.count("@inproceedings") == 2
    assert info.reference_urls
    assert "Examples:" in info.inputs_description


def test_unknown_module():
    with pytest.raises(InputError, match="expected fid or precision_recall"):
        modules.path("kid")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("phtos", "phtos does not exist"),
        ("features.npz", "neither a folder"),
        ("broken.npy", "does not hold features"),
    ],
)
def test_wrong_paths_are_refused_before_weights_are_downloaded(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modules, "load_extractor", lambda *_: pytest.fail("the extractor was loaded"))
    np.savez("features.npz", np.zeros((4, 2)))
    (tmp_path / "broken.npy").write_bytes(b"no array")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=message):
        evaluate.load(modules.path("fid")).compute(references=[str(tmp_path)], predictions=[path])


def test_features_of_two_extractors(tmp_path):
    for name, dim in (("real", 8), ("fake", 6)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(20, dim)))
    paths = {"references": [str(tmp_path / "real.npy")], "predictions": [str(tmp_path / "fake.npy")]}
    with pytest.raises(InputError, match="8 features per image and the predictions 6"):
        evaluate.load(modules.path("fid")).compute(**paths)
