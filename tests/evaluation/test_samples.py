"""Samples are functions of model, settings and index; existing samples are kept."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from animal_ldm import AnimalLDMPipeline
from animal_ldm.evaluation.images import Images
from animal_ldm.evaluation.samples import CachedSampler, caption_prompts, classes_of_samples, prompt_of
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


def test_other_prompts_keep_the_samples_they_share(pipeline, tmp_path):
    texts = [*map(prompt_of, LABELS)]
    texts[2] = "a zebra / at night"
    first = CachedSampler(pipeline, tmp_path).sample(LABELS, FEW_STEPS, 1)
    other = CachedSampler(pipeline, tmp_path).sample(LABELS, FEW_STEPS, 1, texts)
    assert [one == two for one, two in zip(first.files, other.files, strict=True)] == [i != 2 for i in range(6)]
    assert first.files[2].name == "000002_zebra.png"
    assert other.labels == tuple(LABELS) and other.captions[2] == ("a zebra / at night",)
    expected = pipeline(texts[2], num_inference_steps=2, generator=torch.Generator().manual_seed(1 + 2)).images[0]
    assert np.abs(pixels(other)[2] - np.asarray(expected)).max() <= 1


def test_captions_of_the_photos_in_their_order():
    files = tuple(Path(f"{i}.png") for i in range(5))
    captions = (("c0",), ("d0", "d0'"), ("c1", "c1'"), ("d1",), ("c2", "c2'", "c2''"))
    photos = Images(files, ("cat", "dog", "cat", "dog", "cat"), captions)
    labels = classes_of_samples({"cat": 3, "dog": 2}, 10)
    prompts = caption_prompts(labels, photos)
    of_class = {name: [text for label, text in zip(labels, prompts, strict=True) if label == name]
                for name in ("cat", "dog")}  # fmt: skip
    assert [text[:2] for text in of_class["cat"]] == ["c0", "c1", "c2"] * 2
    assert [text[:2] for text in of_class["dog"]] == ["d0", "d1"] * 2
    # every photo its own caption, and a longer run begins with the prompts of a shorter one
    assert [text[:2] for text in caption_prompts(photos.labels, photos)] == ["c0", "d0", "c1", "d1", "c2"]
    assert caption_prompts(labels[:4], photos) == prompts[:4]
    # each caption of a photo equally often
    counts = Counter(caption_prompts(["cat"] * 3000, photos))
    assert counts["c0"] == 1000 and all(290 < counts["c2" + "'" * i] < 380 for i in range(3))


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
