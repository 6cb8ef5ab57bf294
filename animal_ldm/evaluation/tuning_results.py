"""What a search for sampling settings found: the schema of `tune.json`, and its sentences."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

from ..errors import InputError
from ..sampling import Sampling, describe_guidance
from .results import ExtractorInfo, parse

SCHEMA_VERSION = 1
OBJECTIVE = (
    "the lowest kernel distance to the validation photos; among settings within a quarter of a standard error of the "
    "lowest, the highest recall (k=3); none whose prompt accuracy is below the default's by more than a standard error"
)
SIGNIFICANT = 1.96  # standard errors: 95 %


@dataclass(frozen=True, kw_only=True)
class Setting(Sampling):
    """One way to sample a pipeline."""

    scheduler: str  # a name of `schedulers_for`
    sigma_rel: float | None = None  # length of the averaged weights; None: those of the pipeline

    @property
    def evaluations(self) -> float:
        """Evaluations of the UNet for one sample."""
        steps, (start, stop) = self.num_inference_steps, self.guidance_interval
        guided = sum(start <= i / steps < stop for i in range(steps))
        return steps + guided * ((self.guidance_scale > 1) + (self.pag_scale > 0))


@dataclass(frozen=True)
class Score:
    """Samples of a setting against the validation photos, and beside the default's samples from the same seeds."""

    n: int
    kernel_distance: float
    difference: float  # of the kernel distances, less the default's
    standard_error: float  # of `difference`
    recall: float  # k=3, 0 to 1
    prompt_accuracy: float  # 0 to 1
    accuracy_difference: float  # less the default's
    accuracy_error: float  # standard error of `accuracy_difference`

    @property
    def keeps_accuracy(self) -> bool:
        return self.accuracy_difference + self.accuracy_error >= 0

    @property
    def is_better(self) -> bool:
        """Whether it beats the default beyond the error."""
        return self.difference + SIGNIFICANT * self.standard_error < 0 and self.keeps_accuracy


@dataclass(frozen=True)
class Trial:
    """A setting that was tried."""

    setting: Setting
    varied: str  # the coordinate it was tried for; "" for the default
    score: Score
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What fits into the time, from the speed that was measured."""

    settings: int  # at most so many
    number: int  # samples of each
    search_minutes: float
    confirm_number: int | None  # fresh samples of the winner and of the default; None: as many as the time left allows
    seconds_per_evaluation: float  # of the UNet, per sample
    seconds_per_sample: float  # for all else

    def seconds(self, setting: Setting, number: int) -> float:
        return number * (self.seconds_per_sample + self.seconds_per_evaluation * setting.evaluations)

    def __str__(self) -> str:
        fresh = self.confirm_number or "as many fresh samples as the time allows"
        return (
            f"plan: up to {self.settings} settings with {self.number} samples each, about {self.search_minutes:.1f} "
            f"minutes; then the winner and the default with {fresh}, each"
        )


@dataclass(frozen=True)
class Confirmation:
    """Winner and default on seeds that the search did not see."""

    default: Score
    winner: Score


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a search is made of: it cannot be resumed with anything else."""

    model: str  # digest of the pipeline
    photos: dict[str, str]  # {split: digest}
    extractor: ExtractorInfo
    default: Setting
    space: dict[str, list]  # {coordinate: values}, as JSON
    seed: int
    max_minutes: float
    number: int | None
    confirm_number: int | None


@dataclass
class Tuning:
    """A search, finished or not: tune.json."""

    identity: Identity
    model_name: str
    data_name: str
    plan: Plan | None = None
    trials: list[Trial] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # coordinates that the time did not suffice for
    winner: Setting | None = None
    confirmation: Confirmation | None = None
    chosen: Setting | None = None  # None: not finished
    verdict: str = ""
    seconds: float = 0.0
    objective: str = OBJECTIVE
    schema_version: int = SCHEMA_VERSION

    @property
    def default(self) -> Setting:
        return self.identity.default


def read_search(file: Path, identity: Identity) -> Tuning | None:
    """The search in `file`, None if there is none.

    Raises:
        InputError: it is the search of another model, dataset, extractor, space or budget.
    """
    if not file.is_file():
        return None
    try:
        found: Tuning = parse(Tuning, json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is not a search of this version ({error}). Remove it, or choose another --out."
        ) from error
    changed = [
        each.name for each in fields(Identity) if getattr(found.identity, each.name) != getattr(identity, each.name)
    ]
    if changed:
        raise InputError(
            f"{file} holds another search: {', '.join(changed)} differ. Use the same arguments to resume it, or choose"
            " another --out."
        )
    return found


def conclude(found: Tuning) -> tuple[Setting, str]:
    """The setting to store, and why."""
    default, winner, confirmed = found.default, found.winner, found.confirmation
    if winner is None or winner == default:
        return default, "Of the settings tried, the default is the best. It stays."
    if confirmed is None:
        return default, f"{describe(winner)} was the best, but no time was left to confirm it. The default stays."
    score = confirmed.winner
    told = (
        f"On {score.n:,} fresh samples of each, {describe(winner)} changes the kernel distance by "
        f"{score.difference:+.3g} ± {score.standard_error:.2g} (standard error of the paired difference)"
    )
    if score.is_better:
        return winner, f"{told}: it is better than the default beyond the error, and becomes the default."
    if score.difference < 0 and not score.keeps_accuracy:
        return (
            default,
            f"{told}, but its prompt accuracy is lower ({score.accuracy_difference:+.1%}). The default stays.",
        )
    return default, f"{told}: the difference is within the error, or in favour of the default. The default stays."


def describe(setting: Setting) -> str:
    """A setting in a line."""
    return f"{setting.scheduler}, {setting.num_inference_steps} steps, {describe_guidance(setting)}" + (
        "" if setting.sigma_rel is None else f", average {setting.sigma_rel:g}"
    )


def describe_score(score: Score) -> str:
    """A score in a line."""
    return (
        f"KD {score.kernel_distance:.4g} ({score.difference:+.3g} ± {score.standard_error:.2g}), recall "
        f"{score.recall:.3f}, prompt accuracy {score.prompt_accuracy:.1%}"
    )
