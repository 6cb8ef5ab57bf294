import torch
from torch import nn

from animal_ldm.training.optimizers import Muon, matrices_of
from tests.conftest import tiny_components


def muon(model: nn.Module, weight_decay: float = 0.0) -> Muon:
    return Muon(model, learning_rate=0.1, weight_decay=weight_decay, betas=(0.9, 0.99))


def test_a_convolution_is_treated_like_the_matrix_of_its_filters():
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(3, 5, 2), nn.Linear(12, 5)
    with torch.no_grad():
        linear.weight.copy_(convolution.weight.flatten(1))
        linear.bias.copy_(convolution.bias)
    inputs = torch.randn(4, 3, 2, 2)
    for model, x in ((convolution, inputs), (linear, inputs.flatten(1))):
        optimizer = muon(model)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert torch.allclose(convolution.weight.flatten(1), linear.weight, atol=1e-2)


def test_singular_values_of_an_update_are_alike():
    layer = nn.Linear(8, 8, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.diag(torch.logspace(0, -2, 8))
    muon(layer).step()
    values = torch.linalg.svdvals(before - layer.weight.detach())
    assert values.max() < 2 * values.min()


def test_the_rest_is_updated_by_adamw():
    model = nn.Sequential(nn.Embedding(4, 6), nn.LayerNorm(6), nn.Linear(6, 6))
    copy = nn.Sequential(nn.Embedding(4, 6), nn.LayerNorm(6), nn.Linear(6, 6))
    copy.load_state_dict(model.state_dict())
    for network, optimizer in (
        (model, muon(model, 0.5)),
        (copy, torch.optim.AdamW(copy.parameters(), 0.1, betas=(0.9, 0.99), weight_decay=0.5)),
    ):
        network(torch.arange(4)).square().sum().backward()
        optimizer.step()
    same = {name for name, weight in model.state_dict().items() if torch.equal(weight, copy.state_dict()[name])}
    assert same == {"0.weight", "1.weight", "1.bias", "2.bias"}


def test_first_and_last_convolution_and_frozen_weights_are_left_out():
    unet = tiny_components()["unet"]
    names = {id(parameter): name for name, parameter in unet.named_parameters()}
    unet.mid_block.requires_grad_(False)
    chosen = {names[id(weight)] for weight in matrices_of(unet)}
    assert "down_blocks.0.resnets.0.conv1.weight" in chosen
    assert not any(name.startswith(("conv_in", "conv_out", "mid_block")) for name in chosen)


def test_schedules_reach_both_parts():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer, before = muon(model), [parameter.detach().clone() for parameter in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    model(torch.randn(2, 3)).square().sum().backward()
    optimizer.step()
    assert all(map(torch.equal, before, model.parameters()))
