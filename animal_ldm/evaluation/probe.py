"""Does the prompt "a zebra" give a zebra? A linear classifier, fitted to features of real photos, answers.

With a handful of classes this is the cheapest honest measure of prompt accuracy; its accuracy on held-out photos is
the ceiling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from ..errors import InputError


@dataclass(frozen=True)
class Probe:
    """Multinomial logistic regression over standardised features."""

    classes: list[str]
    mean: torch.Tensor  # (D,)
    std: torch.Tensor  # (D,)
    weight: torch.Tensor  # (D, C)
    bias: torch.Tensor  # (C,)

    def predict(self, features: torch.Tensor) -> list[str]:
        scores = (features.double() - self.mean) / self.std @ self.weight + self.bias
        return [self.classes[index] for index in scores.argmax(1).tolist()]


def fit_probe(features: torch.Tensor, labels: Sequence[str], penalty: float = 1e-2) -> Probe:
    """Fit by L-BFGS in float64. Nothing is random: equal features give an equal probe.

    Args:
        features: (N, D) of real photos.
        labels: N class names.
        penalty: weight of |W|^2 / 2 beside the mean cross-entropy. Every class counts the same in that mean, however
            many photos it has.

    Raises:
        InputError: there are fewer than two classes.
    """
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise InputError(f"The probe needs photos of at least two classes to tell apart, but found {classes}.")
    target = torch.tensor([classes.index(label) for label in labels])
    features = features.double()
    mean, std = features.mean(0), features.std(0)
    std = torch.where(std > 0, std, 1)
    features = (features - mean) / std
    class_weights = len(target) / len(classes) / torch.bincount(target).double()

    weight = torch.zeros(features.shape[1], len(classes), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(features @ weight + bias, target, weight=class_weights)
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Probe(classes, mean, std, weight.detach(), bias.detach())


def accuracy(predicted: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Share of images whose predicted class is their label, per class; classes without images are left out."""
    pairs = list(zip(predicted, labels, strict=True))
    found = {}
    for name in sorted(set(labels)):
        hits = [guess == label for guess, label in pairs if label == name]
        found[name] = sum(hits) / len(hits)
    return found
