"""What every stage of a run works on: settings, folders, time, and the facts it leaves."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .settings import RunSettings

LEAST_SECONDS = 1.0  # that a stage gets, whatever is left


@dataclass
class Job:
    """What a stage works on.

    Attributes:
        seconds: for this stage.
        facts: what it finds; kept between the starts of the command, if `save` is called.
    """

    settings: RunSettings
    out: Path
    seconds: float
    facts: dict[str, Any]
    save: Callable[[], None]

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def autoencoder(self) -> Path:
        return self.out / "autoencoder"

    @property
    def model(self) -> Path:
        return self.out / "model"

    @property
    def tuning(self) -> Path:
        return self.out / "tuning"

    @property
    def evaluation(self) -> Path:
        return self.out / "evaluation"

    @property
    def published(self) -> Path:
        return self.out / "published"

    @property
    def squeezenet_weights(self) -> str | None:
        """As the trainers take it: None downloads."""
        return None if self.settings.squeezenet_weights in ("", "download") else self.settings.squeezenet_weights

    @property
    def has_squeezenet(self) -> bool:
        return self.settings.squeezenet_weights != ""

    def common(self) -> dict[str, Any]:
        """Arguments that both trainers get."""
        return {
            "data": str(self.data),
            "image_size": self.settings.image_size,
            "squeezenet_weights": self.squeezenet_weights,
            "lr_schedule": "cosine",
            "seed": self.settings.seed,
            "mixed_precision": self.settings.mixed_precision,
            "country": self.settings.country or None,
            "max_minutes": self.seconds / 60,
            "adjust_length": True,
            "resume": True,
            "report_to": "none",
        }


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
