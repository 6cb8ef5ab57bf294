"""The evaluation during training: the numbers of the metrics themselves, and nothing left behind."""

import hashlib
from dataclasses import replace

import pytest

from animal_ldm import AnimalLDMPipeline
from animal_ldm.evaluation import extractors
from animal_ldm.evaluation.extractors import load_extractor
from animal_ldm.evaluation.features import Measurer
from animal_ldm.evaluation.images import images_of_dataset
from animal_ldm.evaluation.kernel_distance import kernel_distance
from animal_ldm.evaluation.quick import QuickSettings, quick_evaluation
from animal_ldm.evaluation.reference import measure_reference
from animal_ldm.evaluation.samples import CachedSampler, classes_of_samples
from animal_ldm.sampling import Sampling


@pytest.fixture
def settings(tmp_path):
    return QuickSettings(number=12, seed=5, folder=tmp_path, sampling=Sampling(num_inference_steps=2))


def test_quick_fid_of_few_samples_is_labelled(
    tiny_pipeline_folder, prepared, inception_stand_in, settings, monkeypatch
):
    digest = hashlib.sha256(inception_stand_in.read_bytes()).hexdigest()
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", digest)
    pipeline = AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder)
    measurer = Measurer(load_extractor("inception", inception_stand_in))
    one_step = replace(settings, sampling=Sampling(num_inference_steps=1))
    found = quick_evaluation(pipeline, prepared, measurer, one_step)
    assert found.extractor.distance_name == "FID"
    assert "fewer than 2,048 samples" in found.note


def test_quick_evaluation(tiny_pipeline_folder, prepared, tiny_resnet, settings, tmp_path):
    pipeline = AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder)
    measurer = Measurer(load_extractor(str(tiny_resnet)))
    found = quick_evaluation(pipeline, prepared, measurer, settings)
    assert (found.split, found.n_generated, found.n_real) == ("validation", 12, 27)
    assert found.extractor.kernel_name == "KD (tiny-resnet)"
    assert found == quick_evaluation(pipeline, prepared, measurer, settings)
    assert not list(tmp_path.rglob("*.png"))

    labels = classes_of_samples({"lion": 12, "polar bear": 9, "zebra": 6}, 12)
    fake = measurer.features(CachedSampler(pipeline, tmp_path).sample(labels, settings.sampling, 5))
    reference = measure_reference(images_of_dataset(prepared), measurer, "validation")
    assert found.kernel_distance == kernel_distance(reference.photos.features, fake, seed=5).mean


def test_photos_are_measured_once(tiny_pipeline_folder, prepared, tiny_resnet, settings, tmp_path):
    pipeline = AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder)
    measurer = Measurer(load_extractor(str(tiny_resnet)), cache=tmp_path / "cache")
    quick_evaluation(pipeline, prepared, measurer, settings)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1  # those of the samples are not kept
