"""Features of images: independent of batches and workers, cached by content, and damaged images named."""

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from animal_ldm.errors import InputError
from animal_ldm.evaluation.extractors import Extractor, load_extractor, torchscript_extractor
from animal_ldm.evaluation.features import FeatureSet, Measurer
from animal_ldm.evaluation.images import Images, images_of_folder


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batch_size_and_workers_do_not_matter(squeezenet_weights, image_folders):
    extractor = load_extractor("squeezenet", squeezenet_weights)
    images = images_of_folder(image_folders[0])
    whole = Measurer(extractor, batch_size=64).features(images)
    torch.testing.assert_close(Measurer(extractor, batch_size=5, workers=2).features(images), whole)


def test_cache_knows_images_and_extractor(
    squeezenet_weights, inception_stand_in, image_folders, tmp_path, monkeypatch
):
    calls = []
    embed = Extractor.embed
    monkeypatch.setattr(Extractor, "embed", lambda self, x: calls.append(self.name) or embed(self, x))
    digest = hashlib.sha256(inception_stand_in.read_bytes()).hexdigest()
    squeezenet = Measurer(load_extractor("squeezenet", squeezenet_weights), cache=tmp_path / "cache")
    stand_in = Measurer(torchscript_extractor("stand-in", inception_stand_in, digest), cache=tmp_path / "cache")
    real, fake = (images_of_folder(folder) for folder in image_folders)
    first = squeezenet.features(real)
    assert torch.equal(squeezenet.features(real), first)
    assert calls == ["squeezenet"]
    squeezenet.features(fake)
    stand_in.features(real)
    assert calls == ["squeezenet", "squeezenet", "stand-in"]
    # Pixels count, names do not; another order is another set.
    reversed_ = Images(real.files[::-1])
    torch.testing.assert_close(squeezenet.features(reversed_), first.flip(0))
    assert len(calls) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 4


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_is_named(squeezenet_weights, image_folders, workers):
    file = image_folders[0] / "03.png"
    file.write_bytes(file.read_bytes()[:200])
    measurer = Measurer(load_extractor("squeezenet", squeezenet_weights), workers=workers)
    with pytest.raises(InputError, match=rf"^{file} cannot be read as an image"):
        measurer.features(images_of_folder(image_folders[0]))


def test_equal_sets_in_order():
    features = torch.arange(14.0).reshape(7, 2)
    first, second = FeatureSet(features, tuple("abcdefg")).split(2)
    assert torch.equal(second.features, features[3:6])
    assert (first.labels, second.labels) == (("a", "b", "c"), ("d", "e", "f"))
    assert FeatureSet(features, None).split(3)[2].labels is None


def test_several_extractors_read_images_once(squeezenet_weights, tiny_resnet, image_folders, tmp_path, monkeypatch):
    images = images_of_folder(image_folders[0])
    both = load_extractor(str(tiny_resnet)), load_extractor("squeezenet", squeezenet_weights)
    alone = [Measurer(extractor).features(images) for extractor in both]
    read, own = Counter(), Images.__getitem__
    monkeypatch.setattr(Images, "__getitem__", lambda images, i: (read.update([i]), own(images, i))[1])
    measurer = Measurer(both[0], batch_size=5, more=both[1:], cache=tmp_path)
    for _ in range(2):  # the second time from the cache
        found = measurer.feature_sets(images)
        assert all(torch.allclose(a.features, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, alone, strict=True))
        assert read == dict.fromkeys(range(len(images)), 1)
    assert torch.equal(Measurer(both[1], cache=tmp_path).features(images), found[1].features)
    assert read.total() == len(images)


def test_images_of_one_size_are_stacked(tmp_path):
    for level in range(3):
        Image.new("RGB", (4, 2), (level, 0, 0)).save(tmp_path / f"{level}.png")
    stacked = images_of_folder(tmp_path).stack([2, 0])
    assert (stacked.shape, stacked.dtype) == ((2, 2, 4, 3), np.uint8)
    assert stacked[:, 0, 0, 0].tolist() == [2, 0]
