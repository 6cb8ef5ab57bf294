"""The probe sees classes; the memorisation measures see copies."""

import pytest
import torch

from animal_ldm.errors import InputError
from animal_ldm.evaluation.memorisation import memorisation
from animal_ldm.evaluation.probe import accuracy, fit_probe


def blobs(n: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    labels = ["cat", "dog", "zebra"] * n
    centres = 4 * torch.eye(3, 8)
    features = centres[torch.arange(3 * n) % 3] + torch.randn(3 * n, 8, generator=generator)
    features[:, 7] = 2.5  # a number that never changes, as dead channels give
    return features, labels


def test_probe_tells_classes_apart():
    probe = fit_probe(*blobs(60, 0))
    features, labels = blobs(40, 1)
    assert all(share > 0.9 for share in accuracy(probe.predict(features), labels).values())
    swapped = [{"cat": "dog", "dog": "cat"}.get(label, label) for label in labels]
    shares = accuracy(probe.predict(features), swapped)
    assert shares["zebra"] > 0.9 > 0.1 > shares["cat"]


def test_probe_is_a_function_of_its_features():
    first, second = fit_probe(*blobs(30, 0)), fit_probe(*blobs(30, 0))
    assert torch.equal(first.weight, second.weight)


def test_rare_classes_count_as_much():
    """Ten to one and overlapping: without the weights the rare class would hardly ever be predicted."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1100, 1, generator=generator)
    features[1000:] += 1
    probe = fit_probe(features, ["cat"] * 1000 + ["dog"] * 100)
    predicted = probe.predict(features)
    shares = accuracy(predicted, ["cat"] * 1000 + ["dog"] * 100)
    assert shares["dog"] == pytest.approx(shares["cat"], abs=0.1)


def test_one_class_is_refused():
    with pytest.raises(InputError, match="at least two classes"):
        fit_probe(torch.zeros(3, 2), ["cat"] * 3)


def photos(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def test_fresh_samples_look_like_held_out_photos():
    found = memorisation(photos(800, 0), photos(400, 1), photos(400, 2))
    assert found.nearer_than_held_out == pytest.approx(0.5, abs=0.05)
    assert found.median_distance == pytest.approx(1, abs=0.05)
    assert found.nearer_than_closest_percent == pytest.approx(0.01, abs=0.015)
    assert found.authpct == pytest.approx(found.held_out_authpct, abs=8)


def test_copies_are_found():
    train = photos(800, 0)
    samples = torch.cat((train[:100] + 1e-4, photos(100, 2)))
    found = memorisation(train, photos(400, 1), samples)
    assert found.nearer_than_held_out == pytest.approx(0.75, abs=0.05)
    assert found.median_distance < 0.8
    assert found.nearer_than_closest_percent == pytest.approx(0.5, abs=0.03)
    assert found.authpct == pytest.approx(found.held_out_authpct / 2, abs=5)


def test_authpct_is_dgm_evals():
    train, fake = photos(300, 0), photos(200, 1)
    real = torch.cdist(train, train).fill_diagonal_(torch.inf).amin(0)
    nearest = torch.cdist(train, fake).min(0)
    expected = 100 * (real[nearest.indices] < nearest.values).double().mean()
    assert memorisation(train, photos(50, 2), fake).authpct == pytest.approx(float(expected))


def test_held_out_photos_themselves_are_even():
    held_out = photos(200, 1)
    assert memorisation(photos(300, 0), held_out, held_out).nearer_than_held_out == 0.5
