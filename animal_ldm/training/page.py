"""`training.html`: a run as one file that a browser opens, written again at every validation.

It is made of the content of `training_report.json` and the images in `samples/`: what is not there is not shown.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..charts import Chart, curve
from ..files import write_text
from ..html import data_uri, render_page

PAGE = "training.html"
MOST_CLASSES = 40  # with a row in a sample grid: the other processes wait while it is sampled
MOST_FRAMES = 16  # of the slider
FRAME_SIDE, FRAME_QUALITY = 1200, 76  # pixels, WebP
ROBUST_FROM, ROBUST_SHARE = 50, 0.98  # a curve of so many points may leave its highest outside the chart

# {name in the history: title, what to read from it}
CURVES = {
    "train/loss": ("Training loss", "Each point is a mean over batches; the area is the spread of such means."),
    "train/misalignment": (
        "Misalignment",
        "How far the features within the UNet are from those of a classifier; lower is better.",
    ),
    "train/discriminator_loss": (
        "Loss of the discriminator",
        "Near 0 it tells photos and reconstructions apart with ease; at 2 it cannot.",
    ),
    "validation/loss": (
        "Validation loss",
        "Of the averaged weights on unseen photos, with the same noise every time. If it rises while the training loss"
        " falls, the model memorises.",
    ),
    "validation/psnr": ("PSNR in dB", "Of unseen photos against their reconstructions; higher is better."),
    "validation/lpips_squeeze": ("LPIPS", "Perceptual distance of reconstructions to unseen photos; lower is better."),
    "validation/latent_mean": ("Mean of the latents", ""),
    "validation/latent_std": ("Standard deviation of the latents", ""),
    "evaluation/kernel_distance": (
        "Kernel distance",
        "Of samples to the validation split; lower is better. The best weights so far are kept.",
    ),
    "evaluation/frechet_distance": ("Fréchet distance", "Of samples to the validation split; lower is better."),
}
NO_CURVES = ("images_seen", "validation/images")


def write_page(report: dict[str, Any], total_images: int | None, folder: Path) -> None:
    """Write `training.html` into a run's folder, whole or not at all.

    Args:
        report: content of `training_report.json`, of the run so far.
        total_images: after which the run ends; None while that is not known.
    """
    history = report["history"]
    values = {
        "name": folder.resolve().name,
        "report": report,
        "total_images": total_images,
        "share": report["images_seen"] / total_images if total_images else 0,
        "most_classes": MOST_CLASSES,
        "classes": report.get("classes") or [],
        "latest": {name: latest(history, name) for name in CURVES if not name.startswith("train/")},
        "titles": {name: title for name, (title, _) in CURVES.items()},
        "charts": [*history_charts(history)],
        "frames": [*frames(folder / "samples")],
        "duration": duration,
        "amount": amount,
        "arguments": [(argument, plain(value)) for argument, value in report["arguments"].items()],
        "machine": [
            (part, plain(value)) for part, value in {**report["hardware"], **report.get("execution", {})}.items()
        ],
        "started": any("started" in stretch for stretch in report["stretches"]),
    }
    write_text(folder / PAGE, render_page(PAGE, **values))


def history_charts(history: Sequence[dict[str, float]]) -> Iterator[Chart]:
    """A chart for everything that was logged more than once."""
    names = dict.fromkeys(name for entry in history for name in entry if name not in NO_CURVES)
    known = [name for name in CURVES if name in names]
    for name in (*known, *(name for name in names if name not in CURVES)):
        logged = [entry for entry in history if entry.get(name) is not None]
        points = [(float(entry["images_seen"]), float(entry[name])) for entry in logged]
        if len(points) < 2:
            continue
        title, explanation = CURVES.get(name, (name, ""))
        values = [y for _, y in points]
        limit = float(np.quantile(values, ROBUST_SHARE)) if len(values) >= ROBUST_FROM else None
        series = [curve(title, points)]
        yield Chart(title, "images seen", "", series, x_range=(0, None), y_limit=limit, explanation=explanation)


def latest(history: Sequence[dict[str, float]], name: str) -> float | None:
    """The last value of that name, None if there is none."""
    return next((entry[name] for entry in reversed(history) if entry.get(name) is not None), None)


def frames(folder: Path) -> Iterator[tuple[int, str]]:
    """(images seen, data URI) of grids from start to end of the run, evenly chosen from those in `folder`."""
    files = sorted(folder.glob("*-[0-9]*.png"), key=lambda file: int(file.stem.rsplit("-", 1)[1]))
    chosen = dict.fromkeys(np.linspace(0, len(files) - 1, min(len(files), MOST_FRAMES)).round().astype(int).tolist())
    for file in (files[index] for index in chosen):
        with Image.open(file) as image:
            yield int(file.stem.rsplit("-", 1)[1]), data_uri(image, FRAME_SIDE, FRAME_QUALITY)


def duration(seconds: float) -> str:
    """Time in hours and minutes, or seconds if it is short."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 2:
        return f"{round(seconds)} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def amount(value: float | str | None, unit: str, scale: float = 1) -> str:
    """A measured number with its unit, "not measured" where the report has none."""
    return f"{scale * value:.3g} {unit}" if isinstance(value, int | float) else "not measured"


def plain(value: Any) -> Any:
    """An argument's value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return value
