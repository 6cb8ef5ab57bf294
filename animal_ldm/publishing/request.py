"""What is to be published, where, and what its publisher says about it. Imports nothing slow: the command needs it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Target:
    """A repository on the Hub, and how to publish to it."""

    repo_id: str
    repo_type: Literal["model", "dataset", "space"] = "model"
    private: bool = False
    revision: str | None = None  # branch; None is main
    create_pr: bool = False
    tag: str | None = None

    @property
    def path(self) -> str:
        """`owner/name`, or `datasets/owner/name`, as in the Hub's URLs."""
        return self.repo_id if self.repo_type == "model" else f"{self.repo_type}s/{self.repo_id}"

    @property
    def option(self) -> str:
        """The argument that names the repository."""
        return "--space" if self.repo_type == "space" else "--repo_id"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """The local folders that make up a published model."""

    model: Path  # pipeline folder with its training_report.json
    results: tuple[Path, ...] = ()  # folders that `animal-ldm evaluate` wrote
    publish_photos: bool = False  # whether plots that show training photos, and their statistics, are published too
    variant: str | None = None  # "fp16" adds weights in half precision
    seed: int = 0  # of the card's sample of the first class; the other classes take the seeds after it


@dataclass(frozen=True, kw_only=True)
class Statements:
    """What the publisher says about the model. Free text: it is escaped wherever it goes."""

    repo_id: str
    developed_by: str
    contact: str
    language: str
    license: str
    license_name: str | None = None  # of a license that the Hub does not know; `license` is then "other"
    license_link: str | None = None
    photo_terms: str
    dataset: str | None = None  # id on the Hub
    dataset_title: str | None = None
    base_models: tuple[str, ...] | None = None  # ids on the Hub; None: as the training report tells
    frozen_models: tuple[str, ...] | None = None  # the same of parts that the training left as they were
    failures: tuple[str, ...] = ()
    provider: str = "not stated"
    region: str | None = None  # None: the country in the training report
    cost_note: str | None = None
