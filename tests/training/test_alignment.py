import numpy as np
import pytest
import torch
from accelerate import Accelerator

from animal_ldm.data.prepared import load_split
from animal_ldm.perceptual import PerceptualDistance
from animal_ldm.training.alignment import FEATURES, alignment_loss, build_projector, classifier_features
from animal_ldm.training.cache import Cache
from animal_ldm.training.objective import Denoiser
from tests.conftest import tiny_components
from tests.training.conftest import write_split


def test_loss_is_zero_in_the_same_direction_and_two_in_the_opposite():
    features = torch.randn(2, FEATURES, 3, 3)
    assert alignment_loss(3 * features, features).item() == pytest.approx(0, abs=1e-6)
    assert alignment_loss(-features, features).item() == pytest.approx(2)
    half = torch.cat([features[:1], -features[1:]])
    assert alignment_loss(half, features).item() == pytest.approx(1)


def test_features_are_the_classifiers_of_every_photo_and_its_mirror_image(squeezenet_weights, tmp_path):
    write_split(tmp_path / "data" / "train", 4, seed=1, size=64)
    split = load_split(tmp_path / "data", "train")
    perceptual = PerceptualDistance(squeezenet_weights)
    cache = Cache(Accelerator(), tmp_path / "cache")
    features = classifier_features(cache, split, perceptual, 2)
    assert features.shape == (12, 2, FEATURES, 2, 2)
    images = torch.from_numpy(np.stack([split.image(i) for i in range(12)])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        both = torch.stack([perceptual.features(images), perceptual.features(images.flip(-1))], dim=1)
    raw = torch.nn.functional.adaptive_avg_pool2d(both.flatten(0, 1), 2).unflatten(0, (12, 2))
    fires = raw.std(dim=(0, 1, 3, 4)) > 1e-3
    assert fires.sum() > FEATURES / 2
    mean, std = raw.mean(dim=(0, 1, 3, 4), keepdim=True), raw.std(dim=(0, 1, 3, 4), keepdim=True)
    expected = ((raw - mean) / std)[:, :, fires]
    found = torch.from_numpy(np.array(features)).float()[:, :, fires]
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0.01)

    again = classifier_features(cache, split, perceptual, 2)
    assert np.array_equal(features, again)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_alignment_reaches_the_unets_encoder_and_middle_but_not_its_decoder():
    unet = tiny_components()["unet"]
    denoiser = Denoiser(unet, None, build_projector(unet.config.block_out_channels[-1]))
    prediction, projected = denoiser(torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), torch.randn(2, 5, 8))
    assert prediction.shape == (2, 4, 8, 8) and projected.shape == (2, FEATURES, 4, 4)
    alignment_loss(projected, torch.randn(2, FEATURES, 4, 4)).backward()

    def moved(part):
        return any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())

    assert moved(unet.down_blocks) and moved(unet.mid_block) and moved(denoiser.projector)
    assert not moved(unet.up_blocks)
