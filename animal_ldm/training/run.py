"""The mechanics every training run shares: progress in images, checkpoints, logs and the report."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from PIL import Image
from tqdm.auto import tqdm

from ..errors import InputError
from .checkpoints import load_checkpoint, prepare_output_dir, save_checkpoint
from .report import Meter, hardware, library_versions


def start_accelerator(output_dir: str, mixed_precision: str, report_to: str) -> Accelerator:
    """Accelerator with its trackers writing below `output_dir`; `report_to` names trackers with commas, or "none"."""
    trackers = [name for name in report_to.split(",") if name not in ("", "none")]
    accelerator = Accelerator(mixed_precision=mixed_precision, log_with=trackers or None, project_dir=output_dir)
    if trackers:
        accelerator.init_trackers("logs")
    return accelerator


def learning_rate_schedule(
    optimizer: torch.optim.Optimizer, arguments: Any, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up over `num_warmup_steps`, then constant or cosine; to be stepped once per optimizer step."""
    return get_scheduler(
        "constant_with_warmup" if arguments.lr_schedule == "constant" else "cosine",
        optimizer,
        num_warmup_steps=arguments.num_warmup_steps,
        num_training_steps=total_steps,
    )


# Batches over which the logged training loss is averaged.
LOG_EVERY = 50


class Run:
    """One training run, its progress counted in images.

    Args:
        identity: what the run is made of, as plain values; it may only be resumed with the same.
        batch_size: images per optimizer step, over all processes and accumulation steps.
        total_images: rounded up to whole batches.
    """

    def __init__(self, accelerator: Accelerator, arguments: Any, identity: dict, batch_size: int, total_images: int):
        pieces = accelerator.num_processes * arguments.gradient_accumulation_steps
        if batch_size % pieces:
            raise InputError(
                f"expected a --batch_size that {pieces} divides ({accelerator.num_processes} processes x "
                f"{arguments.gradient_accumulation_steps} accumulation steps), found {batch_size}"
            )
        self.accelerator = accelerator
        self.arguments = arguments
        self.output_dir = Path(arguments.output_dir)
        self.identity = {**identity, "batch_size": batch_size, "seed": arguments.seed}
        self.batch_size = batch_size
        self.total_steps = -(-total_images // batch_size)
        self.total_images = self.total_steps * batch_size
        self.images_seen = 0
        self.history: list[dict] = []
        self.meter = Meter(arguments.country if accelerator.is_main_process else None)
        self.losses: dict[str, list[torch.Tensor]] = {}
        self.shown: dict[str, str] = {}  # beside the progress bar
        self.parts: dict[str, Any] = {}
        prepare_output_dir(self.output_dir, arguments.resume)

    def resume(self, **parts: Any) -> None:
        """Name everything that has a state, and load it from the newest checkpoint if there is one."""
        self.parts = {**parts, "meter": self.meter, "run": self}
        if self.accelerator.scaler is not None:
            self.parts["scaler"] = self.accelerator.scaler
        if self.arguments.resume:
            self.images_seen = load_checkpoint(self.output_dir, self.identity, self.parts)

    def state_dict(self) -> dict:
        return {"history": self.history}

    def load_state_dict(self, state: dict) -> None:
        self.history = state["history"]

    def steps(self) -> Iterator[int]:
        """Yield `images_seen` at the start of each step; the caller trains on a batch, then calls `advance()`."""
        with tqdm(
            total=self.total_images, initial=self.images_seen, unit="img", smoothing=0.05, dynamic_ncols=True,
            disable=not self.accelerator.is_main_process,
        ) as self.bar:  # fmt: skip
            while self.images_seen < self.total_images:
                yield self.images_seen

    def advance(self) -> None:
        """Count the batch just trained on."""
        self.images_seen += self.batch_size
        self.meter.images_seen = self.images_seen
        self.bar.update(self.batch_size)

    def due(self, every: int) -> bool:
        """Whether the last batch crossed a multiple of `every` images, or ended the run."""
        done = self.images_seen >= self.total_images
        return done or self.images_seen // every > (self.images_seen - self.batch_size) // every

    def track_loss(self, name: str, loss: torch.Tensor) -> None:
        """Note this process's `loss` of the batch; every `LOG_EVERY` batches its mean goes to the bar and the logs."""
        self.losses.setdefault(name, []).append(loss)
        if len(self.losses[name]) == LOG_EVERY or self.images_seen >= self.total_images:
            mean = self.accelerator.reduce(torch.stack(self.losses.pop(name)).mean(), "mean").item()
            self.shown[name] = f"{mean:.4f}"
            self.bar.set_postfix(self.shown)
            self.log({name: mean})

    def announce(self, values: dict[str, float]) -> None:
        """Log `values` and print them above the progress bar."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        tqdm.write(f"{self.images_seen} images: {figures}")
        self.log(values)

    def log(self, values: dict[str, float]) -> None:
        """Keep `values` in the history and send them to the trackers."""
        self.history.append({"images_seen": self.images_seen, **values})
        self.accelerator.log(values, step=self.images_seen)

    def values(self, name: str) -> list[float]:
        """What was logged under `name` so far."""
        return [entry[name] for entry in self.history if name in entry]

    def log_picture(self, name: str, picture: Image.Image) -> None:
        """Write `picture` to `samples/<name>-<images_seen>.png` and to the trackers that take pictures."""
        path = self.output_dir / "samples" / f"{name}-{self.images_seen:010d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        pixels = np.asarray(picture)[None]  # (1, H, W, 3)
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({name: pixels}, step=self.images_seen, dataformats="NHWC")
            elif hasattr(tracker, "log_images"):
                tracker.log_images({name: pixels}, step=self.images_seen)

    def checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.output_dir,
                self.images_seen,
                self.identity,
                self.parts,
                self.arguments.checkpoints_total_limit,
            )
        self.accelerator.wait_for_everyone()

    def write_report(self, folder: Path, **results: Any) -> None:
        """Write `training_report.json` into `folder`: arguments, identity, cost, history, machine, versions."""
        report = {
            "arguments": dataclasses.asdict(self.arguments),
            "identity": self.identity,
            "images_seen": self.images_seen,
            **results,
            **self.meter.report(),
            "hardware": {**hardware(), "processes": self.accelerator.num_processes},
            "versions": library_versions(),
            "history": self.history,
        }
        partial = folder / ".training_report.json.partial"
        partial.write_text(json.dumps(report, indent=2))
        os.replace(partial, folder / "training_report.json")
