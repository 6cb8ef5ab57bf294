"""Samples are functions of model, settings and index; existing samples are kept."""

from collections import Counter

import numpy as np
import pytest
import torch

from animal_ldm import AnimalLDMPipeline
from animal_ldm.evaluation.samples import CachedSampler, classes_of_samples
from animal_ldm.sampling import Sampling

LABELS = ["lion", "polar bear", "zebra", "wolf", "lion", "zebra"]
FEW_STEPS = Sampling(num_inference_steps=2)


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline_folder):
    return AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder)


def pixels(images) -> np.ndarray:
    return np.stack([images[i] for i in range(len(images))]).astype(int)


def test_batch_size_does_not_matter(pipeline, tmp_path):
    one = pixels(CachedSampler(pipeline, tmp_path / "one", 1).sample(LABELS, FEW_STEPS, 1))
    many = pixels(CachedSampler(pipeline, tmp_path / "many", 4).sample(LABELS, FEW_STEPS, 1))
    assert np.abs(one - many).max() <= 1  # a rounding, at most


def test_sample_i_is_the_image_of_seed_plus_i(pipeline, tmp_path):
    samples = CachedSampler(pipeline, tmp_path).sample(LABELS, FEW_STEPS, 7)
    expected = pipeline("a zebra", num_inference_steps=2, generator=torch.Generator().manual_seed(7 + 2)).images[0]
    assert np.abs(pixels(samples)[2] - np.asarray(expected)).max() <= 1
    assert samples.labels == tuple(LABELS)


def test_resumes_where_it_stopped(pipeline, tmp_path):
    whole = CachedSampler(pipeline, tmp_path).sample(LABELS, FEW_STEPS, 1)
    before = pixels(whole)
    kept = whole.files[0].stat().st_mtime_ns
    whole.files[3].unlink()
    again = CachedSampler(pipeline, tmp_path).sample([*LABELS, "wolf"], FEW_STEPS, 1)
    assert again.files[: len(LABELS)] == whole.files
    assert whole.files[0].stat().st_mtime_ns == kept
    assert np.abs(pixels(again)[: len(LABELS)] - before).max() <= 1


def test_another_model_or_setting_samples_anew(pipeline, tiny_pipeline_folder, tmp_path):
    other = AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder)
    with torch.no_grad():
        other.unet.conv_out.bias += 1
    runs = [
        CachedSampler(pipeline, tmp_path).sample(LABELS, FEW_STEPS, 1),
        CachedSampler(pipeline, tmp_path).sample(LABELS, FEW_STEPS, 2),
        CachedSampler(pipeline, tmp_path).sample(LABELS, Sampling(num_inference_steps=2, guidance_scale=1), 1),
        CachedSampler(other, tmp_path).sample(LABELS, FEW_STEPS, 1),
    ]
    assert len({run.files[0].parent for run in runs}) == len(runs)


def test_classes_keep_their_proportions():
    counts = {"cat": 60, "dog": 30, "zebra": 10}
    labels = classes_of_samples(counts, 200)
    assert Counter(labels) == {"cat": 120, "dog": 60, "zebra": 20}
    for n in range(1, 200):
        chosen = Counter(labels[:n])
        assert all(abs(chosen[name] - n * counts[name] / 100) <= 1 for name in counts)
    assert classes_of_samples(counts, 50) == labels[:50]
    assert Counter(classes_of_samples(dict.fromkeys(counts, 1), 7)).most_common()[-1][1] == 2
