"""A run: the stages in order, those that are finished left alone, in the time there is."""

import gc
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from ..errors import InputError
from ..locks import locked
from .budget import allotment, card_reserve
from .clock import Clock, RunState, StageState
from .job import LEAST_SECONDS, Job
from .machine import look_at_machine, slowness
from .measuring import too_few_photos
from .presets import Choice, Wishes, choose, settings_of, table
from .report import write_report
from .settings import RunSettings
from .stages import STAGES, Stage, free_memory
from .survey import Survey, survey

logger = logging.getLogger(__name__)

LOG, LOCK = "run.log", "run.lock"


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    Attributes:
        choices: the settings that were chosen here, with their reasons; none for a run that goes on.
    """

    settings: RunSettings
    choices: list[Choice]
    photos: Survey
    state: RunState | None

    def table(self) -> str:
        return table(self.settings, self.choices)


def plan(photos: str, out: Path, wishes: Wishes, **given: Any) -> Plan:
    """The settings of a run in `out`: those of its `run.yaml`, else those that suit these photos and this machine.

    Args:
        given: settings of the command line; None where it does not say.

    Raises:
        InputError: the photos, the settings or the folder cannot be used.
    """
    settings, state = RunSettings.read(out), RunState.read(out)
    others = {path.name for path in out.iterdir()} - {LOG, LOCK} if out.is_dir() else set()
    if settings is None and state is None and others:
        raise InputError(f"OUT {out} holds something else. Choose a new or an empty folder.")
    if settings is not None and str(photos) != settings.photos:
        raise InputError(
            f"{out} holds a run on {settings.photos}, not on {photos}. Choose another folder, or change photos in its"
            " run.yaml."
        )
    seen, choices = survey(photos), []
    if max(seen.classes.values()) < 2:
        raise InputError(f"{photos} has one photo of each class; expected two or more, one of them to measure with.")
    if settings is not None and wishes.hub:
        raise InputError(
            f"--hub belongs to the first start. Edit the parts in {out}/run.yaml, or choose another folder."
        )
    if settings is None:
        minutes = given.get("minutes")
        if minutes is None:
            raise InputError("--minutes is missing: how long may the run take in all?")
        choices = choose(seen, look_at_machine(out), minutes, wishes)
        settings = settings_of(choices, photos, minutes)
    settings = settings.changed(**given)
    settings.check()
    return Plan(settings, choices, seen, state)


def execute(plan: Plan, out: Path, changed: Literal["stop", "redo", "keep"]) -> RunState:
    """Run the stages that are not finished.

    Args:
        changed: what to do where the photos, or the settings of a finished stage, are not those of the earlier starts.
    """
    process = psutil.Process()
    already, used = time.time() - process.create_time(), process.cpu_times()
    state = plan.state or RunState(fingerprint=plan.photos.fingerprint)
    with locked(out / LOCK, f"OUT {out}"):
        check_changes(plan, state, out, changed)
        plan.settings.write(out)
        state.starts += 1
        work_on_all(plan, state, out, already, used.user + used.system)
    return state


def work_on_all(plan: Plan, state: RunState, out: Path, already: float, imports: float) -> None:
    """Do the stages that are not done.

    Args:
        already: seconds that this process has run before.
        imports: seconds of processor time that it has used.
    """

    def renew() -> None:
        write_report(plan.settings, state, out)

    with Clock(state, out, plan.settings.minutes, already, renew) as clock:
        for index, stage in enumerate(STAGES):
            mine = state.stages.get(stage.name)
            stale = stage.cheap and mine is not None and mine.settings != settings_for(stage, plan.settings)
            if mine is None or not mine.done or stale:
                work(stage, STAGES[index + 1 :], plan, clock, imports)
            renew()


def work(stage: Stage, later: tuple[Stage, ...], plan: Plan, clock: Clock, imports: float) -> None:
    """Do one stage, and note that it is done."""
    settings, state, out = plan.settings, clock.state, clock.folder
    mine = state.stages.setdefault(stage.name, StageState())
    mine.settings = settings_for(stage, settings)
    of_all = shares_of(settings, out)
    shares = [of_all.get(part.name, 0.0) for part in (stage, *later)]
    seconds = clock.left
    number = [part.name for part in STAGES].index(stage.name) + 1
    if shares[0]:
        found = state.stages["prepare"].facts
        # a run that an earlier version began has not measured these
        reserve = card_reserve(imports * slowness(), found.get("image_seconds", 0.0), found.get("card_classes", 0))
        seconds = allotment(clock.left, mine.seconds, shares, reserve)
        logger.info(
            "[%d/%d] %s: %.1f of the %.1f minutes that are left",
            number, len(STAGES), stage.title, seconds / 60, clock.left / 60,
        )  # fmt: skip
    else:
        logger.info("[%d/%d] %s", number, len(STAGES), stage.title)
    clock.work_on(stage.name, f"[{number}/{len(STAGES)}] {stage.title}")
    clock.write()
    try:
        stage.run(Job(settings, out, max(LEAST_SECONDS, seconds), mine.facts, clock.write))
    finally:
        clock.work_on(None)
    mine.done = True
    clock.write()
    gc.collect()
    free_memory()


def shares_of(settings: RunSettings, out: Path) -> dict[str, float]:
    """The shares of the settings, without those of stages that have nothing to do."""
    idle = {"autoencoder"} if settings.autoencoder_training == "keep" else set()
    if not settings.tune_guidance:
        idle.add("tuning")
    if too_few_photos(out / "data"):
        idle |= {"tuning", "evaluation"}
    return {name: share for name, share in settings.shares.items() if name not in idle}


def settings_for(stage: Stage, settings: RunSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in stage.settings}


def check_changes(plan: Plan, state: RunState, out: Path, changed: Literal["stop", "redo", "keep"]) -> None:
    """Compare photos and settings with those of the stages that were begun, and do as `changed` says.

    Raises:
        InputError: they differ, and `changed` is "stop".
    """
    found: list[tuple[int, str]] = []  # (stage from which on it matters, what changed)
    if state.fingerprint != plan.photos.fingerprint and "prepare" in state.stages:
        found.append((0, f"the photos in {plan.settings.photos} (added, removed or modified)"))
    for index, stage in enumerate(STAGES):
        before = state.stages[stage.name].settings if stage.name in state.stages and not stage.cheap else {}
        now = settings_for(stage, plan.settings)
        found += [
            (index, f"{name} (was {before[name]!r}, is {now[name]!r})")
            for name in now
            if name in before and before[name] != now[name]
        ]
    if not found:
        return
    what = "; ".join(text for _, text in found)
    first = min(index for index, _ in found)
    if changed == "stop":
        raise InputError(
            f"Since {out} was begun, this has changed: {what}. Add --changed redo to make stage"
            f" '{STAGES[first].title}' and those after it again, or --changed keep to go on with what is there."
        )
    if changed == "redo":
        logger.info("changed: %s; made again from stage '%s' on", what, STAGES[first].title)
        for stage in STAGES[first:]:
            state.stages.pop(stage.name, None)
            shutil.rmtree(out / stage.folder, ignore_errors=True)
    else:
        logger.info("changed, but kept as it was: %s", what)
    state.fingerprint = plan.photos.fingerprint
