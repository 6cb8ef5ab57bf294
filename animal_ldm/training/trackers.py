"""Trackers of accelerate: what they are told of a run when it starts, and its images."""

# accelerate's trackers have methods that their common class lacks.
# pyright: reportAttributeAccessIssue=false

from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from .arguments import RunArguments

PROJECT = "animal-ldm"

# The option with which a tracker takes the name of a run.
RUN_NAME = {
    "clearml": "task_name", "mlflow": "run_name", "swanlab": "experiment_name", "trackio": "name", "wandb": "name"
}  # fmt: skip


def start_trackers(accelerator: Accelerator, arguments: RunArguments) -> None:
    """Start the trackers of the run: they get the project's name, that of `output_dir` and all arguments."""
    name = Path(arguments.output_dir).resolve().name
    accelerator.init_trackers(
        PROJECT,
        # TensorBoard takes nothing but these types
        {
            key: value if isinstance(value, int | float | str) else str(value)
            for key, value in arguments.record().items()
        },
        {tracker: {option: name} for tracker, option in RUN_NAME.items()},
    )


def track_image(accelerator: Accelerator, name: str, image: Image.Image, step: int) -> None:
    """Send an image to the trackers that accept images."""
    pixels = np.asarray(image)[None]  # (1, H, W, 3)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: pixels}, step=step, dataformats="NHWC")
        elif tracker.name == "trackio":
            # optional; it is there, because its tracker runs
            import trackio  # pyright: ignore[reportMissingImports]

            tracker.log({name: trackio.Image(image)}, step=step)
        elif hasattr(tracker, "log_images"):
            tracker.log_images({name: pixels}, step=step)
