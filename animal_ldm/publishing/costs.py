"""What training cost in time, energy and CO2, stage by stage, and how far the stages may be added up."""

from collections.abc import Sequence
from dataclasses import dataclass

from .training_record import Stage, TrainingRecord


@dataclass(frozen=True)
class Cost:
    """Of one stage, or of all together. None: not measured."""

    name: str
    machine: str
    images: int
    hours: float
    kwh: float | None
    grams: float | None  # CO2-equivalents
    # A meter of more than the stage itself counts the energy of stages that ran at the same time once for each.
    upper_bound: bool = False


@dataclass(frozen=True)
class Costs:
    """The costs of all stages.

    Attributes:
        source: what measured, and what it metered.
        beyond: whether a meter counted what other processes consumed.
        overlap: whether stages ran at the same time; None: not recorded.
    """

    stages: list[Cost]
    total: Cost
    source: str
    beyond: bool
    overlap: bool | None


def training_costs(record: TrainingRecord) -> Costs:
    """What each stage of the training cost, and all stages whose reports were at hand together."""
    named = [*record.named_stages()]
    stages = [
        Cost(
            name,
            str(stage.hardware),
            stage.images_seen,
            stage.seconds / 3600,
            stage.energy_kwh,
            None if stage.co2_kg is None else 1000 * stage.co2_kg,
        )
        for name, stage in named
    ]
    beyond = any(stage.metered_beyond_itself for _, stage in named)
    overlap = overlaps([stage for _, stage in named])
    total = Cost(
        "all stages",
        "; ".join(dict.fromkeys(stage.machine for stage in stages)),
        sum(stage.images for stage in stages),
        sum(stage.hours for stage in stages),
        total_of([stage.kwh for stage in stages]),
        total_of([stage.grams for stage in stages]),
        upper_bound=beyond and overlap is not False,
    )
    sources = dict.fromkeys(stage.cost_source for _, stage in named if stage.cost_source)
    return Costs(stages, total, "; ".join(sources), beyond, overlap)


def overlaps(stages: Sequence[Stage]) -> bool | None:
    """Whether any two stages ran at the same time; None where the reports do not tell."""
    if len(stages) == 1:
        return False
    periods = []
    for stage in stages:
        if stage.periods is None:
            return None
        periods += [(start, end, stage) for start, end in stage.periods]
    periods.sort(key=lambda period: period[:2])
    latest_end, owner = periods[0][1:]
    for start, end, stage in periods[1:]:
        if start < latest_end and stage is not owner:
            return True
        if end > latest_end:
            latest_end, owner = end, stage
    return False


def total_of(amounts: Sequence[float | None]) -> float | None:
    """Their sum, None if any is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None
