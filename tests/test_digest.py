"""Equal weights have equal digests, and any change of name, shape, type or value gives another."""

import torch

from animal_ldm.digest import weights_digest


def test_digest_follows_the_weights():
    layer = torch.nn.Linear(2, 2)
    before = weights_digest(layer)
    assert before == weights_digest(layer)
    reshaped = torch.nn.Linear(4, 1, bias=False)
    reshaped.weight.data = layer.weight.data.reshape(1, 4).clone()
    square = torch.nn.Linear(2, 2, bias=False)
    square.weight.data = layer.weight.data.clone()
    named = torch.nn.Sequential(square)
    digests = {before, *(weights_digest(module) for module in (reshaped, square, named))}
    digests |= {weights_digest(layer, square), weights_digest(square, layer), weights_digest(square.double())}
    with torch.no_grad():
        layer.weight[0, 0] += 1e-6
    digests.add(weights_digest(layer))
    assert len(digests) == 8


def test_integers_and_single_numbers_have_digests_too():
    """Batch normalisation counts its batches in an int64 of no dimension."""
    layer = torch.nn.BatchNorm2d(3)
    before = weights_digest(layer)
    layer.num_batches_tracked += 1
    assert weights_digest(layer) != before
