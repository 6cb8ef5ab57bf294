"""Averages of weights: the exponential one that is evaluated and published, and power functions to choose from later.

The latter follow Karras et al. 2024 (arXiv 2312.02696, section 3 and appendix C): snapshots of two averages, kept
during training, give the average of any length afterwards.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..digest import pipeline_digest
from ..errors import InputError
from ..files import whole_file, write_json
from ..loading import load_pipeline
from ..pipeline_animal_ldm import AnimalLDMPipeline
from .validation import save_pipeline


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


SNAPSHOTS = "ema_snapshots"  # below the run's folder
SIGMA_RELS = (0.05, 0.10)  # the lengths that the paper keeps


@cache
def exponent_of(sigma_rel: float) -> float:
    """gamma of the power function t^gamma whose standard deviation is `sigma_rel` of the training so far.

    It solves sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (section 3.1), a cubic equation.

    Args:
        sigma_rel: above 0 and below 0.289, where all weights since the start count the same.
    """
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class PowerAverages:
    """Averages with weights proportional to t^gamma, where t counts images, one for each of `SIGMA_RELS`.

    Args:
        named_parameters: the live parameters, float32, with their names.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, torch.nn.Parameter]]):
        self.live = dict(named_parameters)
        self.averages = {
            sigma_rel: {name: parameter.detach().clone() for name, parameter in self.live.items()}
            for sigma_rel in SIGMA_RELS
        }

    @torch.no_grad()
    def update(self, images_seen: int, batch_size: int) -> None:
        """Take in the live weights after an optimizer step on `batch_size` images, `images_seen` in total."""
        live = [parameter.detach() for parameter in self.live.values()]
        for sigma_rel, average in self.averages.items():
            kept = (1 - batch_size / images_seen) ** (exponent_of(sigma_rel) + 1)  # beta of section 3.1
            torch._foreach_lerp_([*average.values()], live, 1 - kept)

    def save(self, run: str | Path, images_seen: int) -> None:
        """Write both averages below the run's folder, in float16."""
        for sigma_rel, average in self.averages.items():
            tensors = {name: tensor.half().cpu().contiguous() for name, tensor in average.items()}
            metadata = {"images_seen": str(images_seen), "sigma_rel": str(sigma_rel)}
            name = f"images-{images_seen:010d}-{sigma_rel:.3f}.safetensors"
            with whole_file(Path(run, SNAPSHOTS, name)) as partial:
                save_file(tensors, partial, metadata)

    def state_dict(self) -> dict:
        return {"averages": self.averages}

    def load_state_dict(self, state: dict) -> None:
        for sigma_rel, average in self.averages.items():
            for name, tensor in average.items():
                tensor.copy_(state["averages"][sigma_rel][name])


@dataclass(frozen=True)
class Profile:
    """A power-function average: after so many images, of such a length."""

    images_seen: float
    sigma_rel: float


def snapshots_of(run: str | Path) -> dict[Path, Profile]:
    """The snapshots below a run's folder, the oldest first.

    Raises:
        InputError: there are none.
    """
    found = {}
    for path in sorted(Path(run, SNAPSHOTS).glob("images-*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        found[path] = Profile(int(metadata["images_seen"]), float(metadata["sigma_rel"]))
    if not found:
        raise InputError(f"{Path(run, SNAPSHOTS)} holds no snapshots. Train with --ema_snapshots_every.")
    return found


def products(first: Sequence[Profile], second: Sequence[Profile]) -> np.ndarray:
    """Integrals of the products of the averages' weights over the training, float64 (appendix C)."""
    t, u = (np.array([profile.images_seen for profile in group], np.float64) for group in (first, second))
    a, b = (np.array([exponent_of(profile.sigma_rel) for profile in group]) for group in (first, second))
    t, a = t[:, None], a[:, None]
    shared = np.minimum(t, u)
    return (a + 1) * (b + 1) / (a + b + 1) * (shared / t) ** a * (shared / u) ** b / np.maximum(t, u)


@dataclass(frozen=True)
class Reconstruction:
    """Weights of the snapshots whose sum comes nearest to an average, by least squares."""

    target: Profile
    weights: np.ndarray  # (snapshots,)
    error: float  # root of the squared error of the profile, relative to the profile: 0 is exact, 1 useless


def reconstruct(snapshots: Sequence[Profile], target: Profile) -> Reconstruction:
    """How to sum up the snapshots to get `target`."""
    gram, towards = products(snapshots, snapshots), products(snapshots, [target])[:, 0]
    weights = np.linalg.lstsq(gram, towards, rcond=None)[0]
    whole = products([target], [target])[0, 0]
    squared = weights @ gram @ weights - 2 * weights @ towards + whole
    return Reconstruction(target, weights, float(np.sqrt(max(squared, 0) / whole)))


def averaged_weights(
    run: str | Path, sigma_rel: float, images_seen: int | None = None
) -> tuple[dict[str, torch.Tensor], Reconstruction]:
    """Parameters of the average of any length, from a run's snapshots; float32, by their names in the `Denoiser`.

    Args:
        images_seen: the average up to there; by default up to the last snapshot.
    """
    snapshots = snapshots_of(run)
    last = max(profile.images_seen for profile in snapshots.values())
    target = Profile(images_seen or last, sigma_rel)
    if not 0 < target.images_seen <= last:
        raise InputError(f"--images_seen must be from 1 to {last:.0f}, the last snapshot, but is {images_seen}.")
    found = reconstruct([*snapshots.values()], target)
    total: dict[str, torch.Tensor] = {}
    for path, weight in zip(snapshots, found.weights.tolist(), strict=True):
        for name, tensor in load_file(path).items():
            total[name] = total.get(name, 0) + weight * tensor.double()
    return {name: tensor.float() for name, tensor in total.items()}, found


@torch.no_grad()
def load_weights(pipeline: AnimalLDMPipeline, weights: Mapping[str, torch.Tensor]) -> None:
    """Put parameters, named as in the `Denoiser`, into the components of a pipeline."""
    for name, tensor in weights.items():
        component, _, parameter = name.partition(".")
        getattr(pipeline, component).get_parameter(parameter).copy_(tensor)


def write_averaged_pipeline(
    run: str | Path, out: str | Path, sigma_rel: float, images_seen: int | None = None, dtype: str = "float32"
) -> Reconstruction:
    """Write the run's pipeline with the averaged weights of another length; its training report says so.

    Args:
        run: output folder of a finished training.
        dtype: number type of the saved UNet and autoencoder.

    Raises:
        InputError: there are no snapshots or no pipeline, or a number is out of range.
    """
    weights, found = averaged_weights(run, sigma_rel, images_seen)
    pipeline = load_pipeline(str(run), "cpu")
    load_weights(pipeline, weights)
    save_pipeline(pipeline, Path(out), dtype)
    file = Path(run, "training_report.json")
    if file.is_file():
        report = json.loads(file.read_text(encoding="utf-8"))
        report["digests"] = {**report.get("digests", {}), "pipeline": pipeline_digest(load_pipeline(str(out), "cpu"))}
        report["power_average"] = {**asdict(found.target), "snapshots": len(found.weights), "error": found.error}
        write_json(Path(out, "training_report.json"), report)
    return found
