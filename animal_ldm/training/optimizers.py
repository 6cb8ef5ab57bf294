"""Optimizers that torch does not have in this form: Muon for a whole network."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of a network, AdamW for its other parameters; both with the same learning rate.

    Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) makes the singular values of an update equal. Updates
    are scaled to the size that AdamW's have (arXiv 2502.16982, section 2.2), so that AdamW's learning rates apply. A
    convolution counts as a matrix with a row per output channel. AdamW takes biases, norms, embeddings and the first
    and last convolution.

    Args:
        model: on its device, because `torch.optim.Muon` gets views of its weights.
        learning_rate: of both.
        weight_decay: of both.
        betas: of AdamW.
    """

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float]):
        self.matrices = [*matrices_of(model)]
        known = {id(parameter) for parameter in self.matrices}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups = [{"params": group} for group in (self.matrices, others) if group]
        super().__init__(groups, {"lr": learning_rate, "weight_decay": weight_decay})
        self.views = [parameter.detach().view(len(parameter), -1) for parameter in self.matrices]
        self.inner: list[torch.optim.Optimizer] = []  # one for each group
        if self.matrices:
            self.inner.append(torch.optim.Muon(self.views, adjust_lr_fn="match_rms_adamw"))
        if others:
            self.inner.append(torch.optim.AdamW(others, betas=betas))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        assert closure is None
        for view, parameter in zip(self.views, self.matrices, strict=True):
            view.grad = None if parameter.grad is None else parameter.grad.reshape(view.shape)
        for optimizer, group in zip(self.inner, self.param_groups, strict=True):
            optimizer.param_groups[0].update(lr=group["lr"], weight_decay=group["weight_decay"])
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"inner": [optimizer.state_dict() for optimizer in self.inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})
        for optimizer, state in zip(self.inner, state_dict["inner"], strict=True):
            optimizer.load_state_dict(state)


def matrices_of(model: nn.Module) -> Iterator[nn.Parameter]:
    """Weights of the trained linear layers and convolutions, but the first and the last convolution."""
    for name, module in model.named_modules():
        inside = isinstance(module, nn.Linear | nn.Conv2d) and not name.endswith(("conv_in", "conv_out"))
        if inside and module.weight.requires_grad:
            yield module.weight
