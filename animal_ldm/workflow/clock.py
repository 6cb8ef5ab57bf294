"""The budget of a run and what is done of it: `state.json`, kept up to date by a thread, and a bar over all stages."""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

from ..errors import InputError
from ..files import write_json

logger = logging.getLogger(__name__)

STATE = "state.json"
HEARTBEAT = 2.0  # seconds between two writes of the time used


@dataclass
class StageState:
    """What is known of a stage that was begun.

    Attributes:
        seconds: worked on it, over all starts of the command.
        done: whether it is finished.
        settings: those it depends on, as they were at its beginning.
        facts: what it found, for the report.
    """

    seconds: float = 0.0
    done: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunState:
    """What is done of a run. A time is counted while the command runs."""

    fingerprint: str = ""  # of the photos
    starts: int = 0
    other_seconds: float = 0.0  # outside of the stages
    stages: dict[str, StageState] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.other_seconds + sum(stage.seconds for stage in self.stages.values())

    def write(self, folder: Path) -> None:
        write_json(folder / STATE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "RunState | None":
        """The state in `folder`; None if no run was begun there."""
        path = folder / STATE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            stages = {name: StageState(**stage) for name, stage in content.pop("stages").items()}
            return cls(**content, stages=stages)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}). Choose another folder, or delete this one.") from error


class Clock:
    """Counts the time of the stage at work into the state, and shows it, while its context is open.

    Args:
        already: seconds that this process has run before, such as for its imports.
        renew: called by the thread when a training has written a new grid.
    """

    def __init__(
        self,
        state: RunState,
        folder: Path,
        minutes: float,
        already: float,
        renew: Callable[[], None] = lambda: None,
    ):
        self.state, self.folder, self.seconds, self.renew = state, folder, 60 * minutes, renew
        self._grid = newest_grid(folder)
        self.state.other_seconds += already
        self.stage: str | None = None
        self.begun = 0.0  # when the stage at work was begun, in this process
        self._last = time.perf_counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.bar = tqdm(disable=True)

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; below 0 beyond its end."""
        self._count()
        return self.seconds - self.state.seconds

    def work_on(self, stage: str | None, title: str = "") -> None:
        """From here on the time is that of `stage`; None: of no stage."""
        self._count()
        self.stage, self.begun = stage, time.perf_counter()
        self.bar.set_description_str(title or "run")

    def _count(self) -> None:
        with self._lock:
            now = time.perf_counter()
            passed, self._last = now - self._last, now
            if self.stage is None:
                self.state.other_seconds += passed
            else:
                self.state.stages[self.stage].seconds += passed

    def write(self) -> None:
        self._count()
        with self._lock:
            self.state.write(self.folder)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                self.write()
            except OSError:  # a full disk stops the stage itself, with its own message
                continue
            self.bar.n = round(min(self.state.seconds, self.seconds) / 60, 2)
            newest = newest_grid(self.folder)
            if newest != self._grid:
                self._grid = newest
                try:
                    self.renew()
                except Exception:  # a page that fails must not stop the bar and the count; the stage's end renews it
                    logger.exception("the report was not renewed")
            self.bar.set_postfix_str(str(newest) if newest else "", refresh=False)
            self.bar.refresh()

    def __enter__(self) -> "Clock":
        minutes = round(self.seconds / 60, 2)
        self.bar = tqdm(
            total=minutes,
            initial=min(minutes, round(self.state.seconds / 60, 2)),  # beyond its end a bar has no total
            desc="run",
            bar_format=f"{{desc}}: {{n:.1f}} of {minutes:g} min |{{bar:20}}| {{postfix}}",
            dynamic_ncols=True,
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.bar.close()
        try:
            self.write()
        except OSError:
            if error is None:  # else a full disk stopped the run, with its own message
                raise


def newest_grid(folder: Path) -> Path | None:
    """The newest image that a training has written."""
    grids = [path for name in ("autoencoder", "model") for path in folder.glob(f"{name}/samples/*.png")]
    return max(grids, key=lambda path: path.stat().st_mtime, default=None)
