"""The search for the settings that a pipeline is sampled with, within a stated time.

Coordinate search: one setting is varied at a time, the best value is kept, then the next one is varied. All settings
are compared on the same seeds, in pairs; the winner is compared with the default on fresh ones. Every sample, feature
and finished setting stays below `TuneSettings.out`: an interrupted search resumes.
"""

import copy
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..digest import pipeline_digest
from ..errors import InputError
from ..files import write_json
from ..pipeline_animal_ldm import AnimalLDMPipeline
from ..sampling import check_layers
from ..schedulers import schedulers_for
from .features import FeatureSet, Measurer
from .images import Images
from .kernel_distance import kernel_distance, kernel_distance_difference
from .metrics import neighbourhoods
from .reference import Reference, measure_reference
from .samples import CachedSampler, classes_of_samples
from .tuning_results import (
    Confirmation,
    Identity,
    Plan,
    Score,
    Setting,
    Trial,
    Tuning,
    conclude,
    describe,
    describe_score,
    read_search,
)

logger = logging.getLogger(__name__)

# In this order: the guidance scale matters most, and more steps make all that follows slower. The guidance scale comes
# again, halfway to its neighbours, because the best one depends on the others.
COORDINATES = (
    "guidance_scale",
    "sigma_rel",
    "scheduler",
    "guidance_interval",
    "guidance_rescale",
    "pag_scale",
    "num_inference_steps",
)
REFINED = "guidance_scale"
SEARCH_SHARE = 0.6  # of the time; the rest is for the comparison on fresh seeds
LEAST, MOST = 48, 2000  # samples per setting, where the time decides
FRESH_SEEDS = 1_000_000  # after the first seed of the search
NEAR = 0.25  # standard errors: a wider band would prefer recall to kernel distance, where samples are few
SUBSETS = 20  # for the kernel distance of the default
PROBE_PHOTOS = 1000


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """What to search, and where to write it."""

    model_name: str
    data_name: str
    out: Path
    space: Mapping[str, Sequence[Any]]  # {coordinate: values}
    seed: int
    max_minutes: float
    number: int | None = None  # samples per setting; None: what the time allows
    confirm_number: int | None = None  # likewise, for the comparison on fresh seeds
    # Puts the averaged weights of a length into the UNet and the text encoder, where lengths are searched.
    load_average: Callable[[AnimalLDMPipeline, float], None] | None = None


class Tuner:
    """The search over one pipeline's settings.

    Args:
        photos: of both splits; samples are compared with the validation photos, the probe of the prompt accuracy is
            fitted to some of the training photos, because measuring all would take much of a short budget.
        measurer: its cache keeps the photos' features; its batch size is that of the sampling too.

    Raises:
        InputError: `out` holds the search of something else, or the time does not suffice.
    """

    def __init__(
        self, pipeline: AnimalLDMPipeline, photos: Mapping[str, Images], measurer: Measurer, settings: TuneSettings
    ):
        self.started = time.monotonic()
        self.pipeline, self.measurer, self.settings = pipeline, measurer, settings
        chosen = np.random.default_rng(0).permutation(len(photos["train"]))[:PROBE_PHOTOS]
        self.photos = {"train": photos["train"].take(sorted(chosen)), "validation": photos["validation"]}
        self.schedulers = schedulers_for(pipeline.scheduler)
        default = Setting(scheduler=next(iter(self.schedulers)), **pipeline.sampling_defaults)
        check_layers(replace(default, pag_scale=max(settings.space["pag_scale"], default=0.0)), pipeline)
        identity = Identity(
            model=pipeline_digest(pipeline),
            photos={split: images.digest() for split, images in self.photos.items()},
            extractor=measurer.extractor.describe(),
            default=default,
            space=json.loads(json.dumps({name: list(settings.space[name]) for name in COORDINATES})),
            seed=settings.seed,
            max_minutes=settings.max_minutes,
            number=settings.number,
            confirm_number=settings.confirm_number,
        )
        self.found = read_search(self.file, identity) or Tuning(identity, settings.model_name, settings.data_name)
        self.before = self.found.seconds

    @property
    def file(self) -> Path:
        return self.settings.out / "tune.json"

    @property
    def seconds(self) -> float:
        """Time spent so far, interrupted runs included."""
        return self.before + time.monotonic() - self.started

    def run(self) -> Tuning:
        """Search, confirm, and write tune.json after every setting."""
        found = self.found
        if found.chosen:
            return found
        self.reference: Reference = measure_reference(self.photos, self.measurer, "validation")
        _ = self.reference.probe  # fitted once, before speed is measured
        if found.plan is None:
            found.plan = self.plan()
            self.write()
        logger.info("%s", found.plan)
        if found.winner is None:
            found.winner = self.search()
            self.write()
        if found.winner != found.default:
            found.confirmation = self.confirm(found.winner)
        found.chosen, found.verdict = conclude(found)
        self.write()
        return found

    def write(self) -> None:
        self.found.seconds = self.seconds
        write_json(self.file, asdict(self.found))

    # --- samples ---

    def samples(self, setting: Setting, seed: int, number: int) -> Images:
        labels = classes_of_samples(Counter(self.photos["validation"].labels), number)
        with self.set_up(setting):
            sampler = CachedSampler(self.pipeline, self.settings.out / "samples", self.measurer.batch_size)
            return sampler.sample(labels, setting.settings(), seed)

    @contextmanager
    def set_up(self, setting: Setting) -> Iterator[None]:
        """Within this context the pipeline has the scheduler and the weights of a setting; afterwards its own."""
        pipeline, length, load_average = self.pipeline, setting.sigma_rel, self.settings.load_average
        scheduler, networks = pipeline.scheduler, (pipeline.unet, pipeline.text_encoder)
        load = None if length is None or load_average is None else partial(load_average, pipeline, length)
        weights = [copy.deepcopy(network.state_dict()) for network in networks] if load else []
        pipeline.scheduler = self.schedulers[setting.scheduler]
        try:
            if load:
                load()
            yield
        finally:
            pipeline.scheduler = scheduler
            for network, own in zip(networks, weights, strict=False):
                network.load_state_dict(own)

    def features(self, setting: Setting, seed: int, number: int) -> FeatureSet:
        measurer = self.measurer.with_cache(self.settings.out / "features")
        return measurer.feature_set(self.samples(setting, seed, number), "samples")

    def shown(self) -> tuple[Images, Images]:
        """Samples of the default and of the winner from the same seeds."""
        winner, number = self.found.winner or self.found.default, self.the_plan.number
        before, after = (self.samples(each, self.settings.seed, number) for each in (self.found.default, winner))
        return before, after

    # --- plan ---

    def plan(self) -> Plan:
        """Measure the speed on the first samples of the default, and divide the time."""
        settings, default = self.settings, self.found.default
        batch = min(self.measurer.batch_size, settings.number or LEAST)
        one_step = replace(default, num_inference_steps=1, guidance_scale=1.0)
        times = []
        for setting in (one_step, default):
            start = time.monotonic()
            images = self.samples(setting, settings.seed, batch)
            times.append((time.monotonic() - start) / batch)
        start = time.monotonic()
        self.measurer.with_cache(None).features(images)
        measuring = (time.monotonic() - start) / batch
        evaluation = max(times[1] - times[0], 0) / max(default.evaluations - one_step.evaluations, 1)
        speed = Plan(0, 0, 0, settings.confirm_number, evaluation, max(times[0] - evaluation, 0) + measuring)
        planned = [default, *(default for _ in range(2))]  # the two are those between guidance scales
        planned += [each for name in COORDINATES for each in variations(default, name, settings.space[name])]
        per_number = sum(speed.seconds(setting, 1) for setting in planned)
        left = 60 * settings.max_minutes * SEARCH_SHARE - self.seconds
        number = settings.number or min(MOST, int(left / per_number))
        least = settings.number or LEAST
        needed = self.seconds + least * per_number + speed.seconds(default, 2 * (settings.confirm_number or least))
        if settings.number is None:  # the rest of the time is for the comparison on fresh seeds
            needed = max(needed, (self.seconds + least * per_number) / SEARCH_SHARE)
        if number < least or needed > 60 * settings.max_minutes:
            raise InputError(
                f"{len(planned)} settings with {least} samples each need about {needed / 60:.1f} minutes here, but "
                f"--max_minutes is {settings.max_minutes:.4g}. Allow more time, or try fewer values."
            )
        return replace(speed, settings=len(planned), number=number, search_minutes=number * per_number / 60)

    # --- search ---

    def search(self) -> Setting:
        """The best setting on the seeds of the search."""
        self.found.skipped = []
        space, current = self.settings.space, self.found.default
        self.try_all([current], "")
        for name in COORDINATES:
            current = self.best(current, name, space[name])
        between = halfway(space[REFINED], current.guidance_scale) if current.guidance_scale > 1 else []
        return self.best(current, REFINED, between)

    def best(self, current: Setting, varied: str, values: Sequence[Any]) -> Setting:
        """The best of `current` and of what it becomes with each of the values; see `OBJECTIVE`."""
        others = variations(current, varied, values)
        if not self.try_all(others, varied):
            self.found.skipped.append(varied)
            return current
        allowed = [trial for trial in self.trials_of([current, *others]) if trial.score.keeps_accuracy]
        lowest = min(allowed, key=lambda trial: trial.score.difference)
        near = [trial for trial in allowed if self.is_near(trial.setting, lowest.setting)]
        return max(near, key=lambda trial: trial.score.recall).setting

    def try_all(self, settings: Sequence[Setting], varied: str) -> bool:
        """Measure those that were not tried before; False, and nothing done, if the time does not suffice."""
        plan, tried = self.the_plan, {trial.setting for trial in self.found.trials}
        new = [setting for setting in settings if setting not in tried]
        if self.seconds + sum(plan.seconds(setting, plan.number) for setting in new) > self.search_until:
            return not new
        for setting in new:
            start = time.monotonic()
            score = self.score(setting, self.settings.seed, plan.number)
            self.found.trials.append(Trial(setting, varied, score, time.monotonic() - start))
            self.write()
            logger.info("%s: %s", describe(setting), describe_score(score))
        return True

    def trials_of(self, settings: Sequence[Setting]) -> list[Trial]:
        return [trial for trial in self.found.trials if trial.setting in settings]

    @property
    def the_plan(self) -> Plan:
        assert self.found.plan is not None
        return self.found.plan

    @property
    def search_until(self) -> float:
        """Seconds after which no further coordinate is begun: a sixth more than planned, or all but the rest."""
        limit = 60 * self.settings.max_minutes
        if self.settings.confirm_number:
            return limit - self.the_plan.seconds(self.found.default, 2 * self.settings.confirm_number)
        return limit * SEARCH_SHARE * 7 / 6

    def score(self, setting: Setting, seed: int, number: int) -> Score:
        real, default = self.reference.validation.features, self.features(self.found.default, seed, number)
        samples = self.features(setting, seed, number)
        base = kernel_distance(real, default.features, SUBSETS, seed=self.settings.seed).mean
        difference, error = kernel_distance_difference(real, samples.features, default.features)
        radii = self.reference.radii[:, 1:2]  # of the nearest, then k=3
        recall = neighbourhoods(real, samples.features, [3], radii)[0].recall
        hits, default_hits = (self.recognised(images) for images in (samples, default))
        gained = hits - default_hits
        return Score(
            n=number,
            kernel_distance=base + difference,
            difference=difference,
            standard_error=error,
            recall=recall,
            prompt_accuracy=float(hits.mean()),
            accuracy_difference=float(gained.mean()),
            accuracy_error=float(gained.std() / number**0.5),
        )

    def recognised(self, images: FeatureSet) -> torch.Tensor:
        """1 for each sample that the probe assigns to the class of its prompt, else 0."""
        predicted = self.reference.probe.predict(images.features.cpu())
        return torch.tensor([g == label for g, label in zip(predicted, images.labels or (), strict=True)]).double()

    def is_near(self, setting: Setting, lowest: Setting) -> bool:
        """Whether a setting's kernel distance is within `NEAR` standard errors of the lowest."""
        if setting == lowest:
            return True
        seed, number = self.settings.seed, self.the_plan.number
        one, other = (self.features(each, seed, number).features for each in (setting, lowest))
        difference, error = kernel_distance_difference(self.reference.validation.features, one, other)
        return difference <= NEAR * error

    # --- confirmation ---

    def confirm(self, winner: Setting) -> Confirmation | None:
        """Default and winner on fresh seeds; None if the time left does not suffice."""
        plan, default = self.the_plan, self.found.default
        if plan.confirm_number is None:
            left = 60 * self.settings.max_minutes - self.seconds
            number = int(left / (plan.seconds(default, 1) + plan.seconds(winner, 1)))
            if number < LEAST:
                return None
            self.found.plan = replace(plan, confirm_number=number)
            self.write()
        number = self.the_plan.confirm_number or LEAST
        logger.info("%s against the default, %d fresh samples of each", describe(winner), number)
        scores = [self.score(each, self.settings.seed + FRESH_SEEDS, number) for each in (default, winner)]
        return Confirmation(*scores)


def variations(current: Setting, name: str, values: Sequence[Any]) -> list[Setting]:
    """`current` with each of the values that change it."""
    guided = current.guidance_scale > 1
    matters = {"guidance_rescale": guided, "guidance_interval": guided or current.pag_scale > 0}
    if not matters.get(name, True):
        return []
    return [replace(current, **{name: value}) for value in values if value != getattr(current, name)]


def halfway(values: Sequence[float], chosen: float) -> list[float]:
    """The numbers between `chosen` and its neighbours among the values."""
    below, above = (value for value in values if value < chosen), (value for value in values if value > chosen)
    neighbours = (max(below, default=None), min(above, default=None))
    return [(value + chosen) / 2 for value in neighbours if value is not None]
