"""The length of a run with --max_minutes, from the speed of its first steps on this machine."""

import statistics
from dataclasses import dataclass, replace

# Steps of each kind that are timed: for this share of the minutes, and no fewer than these. Those before them compile
# and allocate, and take longer than the rest.
TIMED_SHARE, TIMED_STEPS, SLOW_STEPS = 0.03, 4, 2
# Validations and checkpoints of a run: this many, or fewer if they would take more than this share of the time.
MOST_BREAKS, SHARE_OF_BREAKS = 10, 0.15


@dataclass(frozen=True, kw_only=True)
class Length:
    """The length of a run, fixed once; in its checkpoints and its report.

    Attributes:
        steps: optimizer steps in all.
        breaks: times that the run stops to validate and to write a checkpoint, at least.
        step_seconds: measured, mean over the run.
        break_seconds: measured, for one validation with its sample grid and one checkpoint.
        interval: steps from one break to the next where `steps` was corrected since; 0 where it follows from `steps`.
    """

    steps: int
    breaks: int
    step_seconds: float
    break_seconds: float
    interval: int = 0

    @property
    def spacing(self) -> int:
        """Steps from one break to the next."""
        return self.interval or -(-self.steps // self.breaks)


def length_in(seconds: float, steps: int, step_seconds: float, break_seconds: float) -> Length:
    """The length of a run that has `steps` steps behind it and `seconds` left.

    The last break is the end of the run, and saving the result takes about as long as another one.
    """
    breaks = int(min(MOST_BREAKS, max(1, SHARE_OF_BREAKS * seconds / max(break_seconds, 1e-9))))
    training = max(0.0, seconds - (breaks + 1) * break_seconds)
    more = max(1, round(training / step_seconds))
    return Length(steps=steps + more, breaks=breaks, step_seconds=step_seconds, break_seconds=break_seconds)


def adjusted(length: Length, steps: int, seconds: float, seconds_per_step: float) -> Length:
    """The length with which a run ends in time. Its breaks stay where they are: more steps have more of them.

    Args:
        steps: done so far.
        seconds: left; the result has to be saved in them, which takes about as long as a break.
        seconds_per_step: breaks included, as measured last.
    """
    more = max(1, round((seconds - length.break_seconds) / seconds_per_step))
    return replace(length, steps=steps + more, interval=length.spacing)


class Pace:
    """Times the first steps of a run: those of its beginning, those of its end if they differ, and one break.

    Args:
        minutes: for the whole run, what came before its first step included.
        late_share: share of the run whose steps differ, because a discriminator is trained as well.
    """

    def __init__(self, minutes: float, late_share: float):
        self.seconds = 60 * minutes
        self.shares = {late: share for late, share in ((False, 1 - late_share), (True, late_share)) if share > 0}
        self.timed: dict[bool, list[float]] = {late: [] for late in self.shares}
        self.break_seconds: float | None = None

    @property
    def late(self) -> bool:
        """The kind of step to time next."""
        return next((late for late, timed in self.timed.items() if not self._enough(timed)), True in self.shares)

    @property
    def at_break(self) -> bool:
        """Whether the steps are timed, and the next one is to be followed by a break."""
        return all(map(self._enough, self.timed.values()))

    def _enough(self, timed: list[float]) -> bool:
        rest = timed[SLOW_STEPS:]
        return len(rest) >= TIMED_STEPS and sum(rest) >= TIMED_SHARE * self.seconds / len(self.shares)

    def add(self, seconds: float) -> None:
        """Take the time of the step that `late` and `at_break` asked for."""
        if self.at_break:
            self.break_seconds = max(0.0, seconds - self._mean(self.late))
        else:
            self.timed[self.late].append(seconds)

    def _mean(self, late: bool) -> float:
        return statistics.fmean(self.timed[late][SLOW_STEPS:])

    def length(self, steps: int, seconds: float) -> Length | None:
        """The length of the run after `steps` steps that have taken `seconds`; None until all is timed.

        A run whose time is over before its first steps are timed ends with the next one.
        """
        if seconds >= self.seconds:
            step_seconds = statistics.fmean(each for timed in self.timed.values() for each in timed)
            known = self.break_seconds or 0.0
            return Length(steps=steps + 1, breaks=1, step_seconds=step_seconds, break_seconds=known)
        if self.break_seconds is None:
            return None
        step_seconds = sum(share * self._mean(late) for late, share in self.shares.items())
        return length_in(self.seconds - seconds, steps, step_seconds, self.break_seconds)
