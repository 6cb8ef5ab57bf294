"""Exponential moving average of weights: what is evaluated and published."""

from collections.abc import Iterable
from contextlib import contextmanager

import torch


class EMA:
    """EMA with its half-life in images, ramped up so that the first weights do not dominate short runs.

    After `n` images the half-life is `min(half_life, ramp_up * n)`, as in EDM (arXiv 2206.00364, training loop).

    Args:
        parameters: the live parameters, float32.
        half_life: in images.
        ramp_up: half-life as a fraction of the images seen so far.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], half_life: float, ramp_up: float = 0.05):
        self.live = list(parameters)
        self.average = [parameter.detach().clone() for parameter in self.live]
        self.half_life = half_life
        self.ramp_up = ramp_up

    @torch.no_grad()
    def update(self, images_seen: int, batch_size: int) -> None:
        """Move towards the live weights after an optimizer step on `batch_size` images, `images_seen` in total."""
        half_life = min(self.half_life, self.ramp_up * images_seen)
        torch._foreach_lerp_(
            self.average, [p.detach() for p in self.live], 1 - 0.5 ** (batch_size / max(half_life, 1e-8))
        )

    @contextmanager
    def swapped_in(self):
        """Within this context the live parameters hold the average; afterwards exactly what they held before."""
        kept = [parameter.detach().clone() for parameter in self.live]
        self._copy_to_live(self.average)
        try:
            yield
        finally:
            self._copy_to_live(kept)

    @torch.no_grad()
    def _copy_to_live(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.live, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict:
        return {"average": self.average}

    def load_state_dict(self, state: dict) -> None:
        for mine, stored in zip(self.average, state["average"], strict=True):
            mine.copy_(stored)
