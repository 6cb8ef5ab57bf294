"""What is weak in a finished run, and what would help most: sentences that follow from its curves and results."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.results import Results, read_results
from .clock import RunState
from .settings import RunSettings

# A curve still falls if the second half of the run lowered it by this share; it has turned if it ends this much above
# its lowest point.
FALLING, TURNED = 0.01, 0.01
# The gap between the losses widens if their ratio grew by this share from the middle third of the run to its last.
WIDENED = 0.03
# Classes are lost in images or reconstructions if the probe recognises so much fewer of them than of the photos.
LOST = 0.1
FEW_SAMPLES = 500
SHARE_OF_AUTOENCODER = 0.5  # of the samples' kernel distance


def verdict(settings: RunSettings, state: RunState, out: Path) -> list[str]:
    """The sentences, the most helpful advice first; none before the text-to-image model is trained."""
    path = out / "model" / "training_report.json"
    if not path.is_file():
        return []
    report = json.loads(path.read_text(encoding="utf-8"))
    lines = [*of_training(report), *of_gap(report), *of_photos(state), *of_tuning(settings, state)]
    results = out / "evaluation" / "results.json"
    if results.is_file():
        lines += of_results(read_results(results))
    if state.seconds > 66 * settings.minutes:
        lines.append(f"The run took {state.seconds / 60:.1f} minutes of the {settings.minutes:g} it had.")
    return lines


def of_training(report: dict[str, Any]) -> Iterator[str]:
    """More minutes, or more photos? The validation loss knows."""
    curve = [
        (entry["images_seen"], entry["validation/loss"])
        for entry in report["history"]
        if entry.get("validation/loss") is not None
    ]
    seen, photos = report["images_seen"], report["training_photos"]
    passes = f"{seen:,} images, {seen / photos:.3g} per photo"
    if len(curve) < 3:
        yield f"The training saw {passes}; validations: {len(curve)}, too few to tell what more time would do."
        return
    last, halfway = curve[-1][1], float(np.interp(seen / 2, [at for at, _ in curve], [loss for _, loss in curve]))
    lowest_at, lowest = min(curve, key=lambda point: point[1])
    if last > (1 + TURNED) * lowest:
        yield (
            f"The validation loss was lowest ({lowest:.4f}) after {lowest_at:,} images and ended at {last:.4f}"
            f" ({passes}): the model begins to learn its photos by heart. More photos would help more than more"
            " minutes."
        )
    elif last < (1 - FALLING) * halfway:
        yield (
            f"The validation loss still fell over the second half of the run, from {halfway:.4f} to {last:.4f}"
            f" ({passes}). More minutes, or a faster device, would help most."
        )
    else:
        yield (
            f"The validation loss is level: {halfway:.4f} halfway through the run, {last:.4f} at the end ({passes})."
            " Twice the minutes would help little; more photos or a larger network might."
        )


def of_gap(report: dict[str, Any]) -> Iterator[str]:
    """More photos? The losses on training and on held-out photos part where the model learns photos by heart.

    Their ratio alone says little: captions are dropped in training, and the weights that are validated are averages.
    """
    third = report["images_seen"] / 3
    means: dict[str, list[float]] = {}
    for name in ("train/loss", "validation/loss"):
        found = [(entry["images_seen"], entry[name]) for entry in report["history"] if entry.get(name) is not None]
        thirds = [[loss for images, loss in found if part * third < images <= (part + 1) * third] for part in (1, 2)]
        if not all(thirds):
            return
        means[name] = [sum(losses) / len(losses) for losses in thirds]
    train, held_out = means["train/loss"], means["validation/loss"]
    if held_out[1] / train[1] > (1 + WIDENED) * held_out[0] / train[0]:
        yield (
            f"From the middle third of the run to the last, the loss on training photos went from {train[0]:.4f} to"
            f" {train[1]:.4f}, on held-out photos from {held_out[0]:.4f} to {held_out[1]:.4f}: the gap widens. More"
            " photos would narrow it."
        )


def of_photos(state: RunState) -> Iterator[str]:
    facts = state.stages["prepare"].facts if "prepare" in state.stages else {}
    classes, skipped = facts.get("classes", {}), facts.get("skipped", {})
    if len(classes) > 1 and min(classes.values()) * 3 < max(classes.values()):
        smallest, largest = min(classes, key=classes.__getitem__), max(classes, key=classes.__getitem__)
        yield (
            f"'{smallest}' has {classes[smallest]:,} training photos, '{largest}' {classes[largest]:,}. The small"
            " classes profit most from more photos."
        )
    if len(classes) == 1:
        has = "one class" if "" not in classes else "no class"
        yield f"The photos have {has}, so whether the images match their prompts cannot be measured."
    if number := sum(skipped.values()):
        share = number / (number + facts["train"] + facts["validation"])
        if share > 0.1:
            yield f"{share:.0%} of the photos were skipped: data/preparation_report.json names them and the reasons."


def of_tuning(settings: RunSettings, state: RunState) -> Iterator[str]:
    """What the time did not suffice for."""
    facts = {name: stage.facts for name, stage in state.stages.items()}
    if harm := facts.get("autoencoder", {}).get("harm"):
        yield f"{harm} More minutes for it might help."
    if settings.tune_guidance and (reason := facts.get("tuning", {}).get("not_tuned")):
        yield f"The guidance scale was not searched: {reason} (Its share of the time is in run.yaml.)"


def of_results(results: Results) -> Iterator[str]:
    metric = results.metrics[0]
    if metric.n_generated < FEW_SAMPLES:
        yield f"Only {metric.n_generated} samples fitted into the time, so the figures are rough."
    if results.extractor.name == "vae":
        yield (
            "The distances compare colour and layout, barely content, because no network that knows content was at"
            " hand. Look at the images; with a network connection, `animal-ldm evaluate --extractor inception`."
        )
    # not the Fréchet distance, which depends on the number of images
    kernel, autoencoder = results.find("kernel_distance"), results.autoencoder
    if kernel and kernel.value and autoencoder and autoencoder.kernel_distance > SHARE_OF_AUTOENCODER * kernel.value:
        yield (
            f"The {results.extractor.kernel_name} of the autoencoder's reconstructions is"
            f" {autoencoder.kernel_distance:.4g}, that of the samples {kernel.value:.4g}: the autoencoder limits the"
            " images. Train it for longer."
        )
    if autoencoder and autoencoder.probe_accuracy is not None and autoencoder.probe_accuracy_photos is not None:
        probe, photos = autoencoder.probe_accuracy, autoencoder.probe_accuracy_photos
        error = math.hypot(error_of(probe, autoencoder.n), error_of(photos, autoencoder.n))
        if probe < photos - max(LOST, 2 * error):
            yield (
                f"A probe recognises the class of {probe:.0%} of the autoencoder's reconstructions, of {photos:.0%} of"
                " the photos: the autoencoder loses what tells the classes apart. Train it for longer, or take larger"
                " images."
            )
    copied = results.find("median_distance")
    if copied and copied.value is not None and copied.value < 0.7:
        yield (
            f"The samples are {copied.value:.2f} times as far from the training photos as held-out photos are: some"
            " may be copies. Look at evaluation/nearest.png; more photos would help."
        )
    recall = results.find("recall", 10)
    equal, photos = (recall.same_n, recall.real_photos) if recall else (None, None)
    found, varied = equal and equal.value, photos and photos.value
    if equal and photos and found is not None and varied is not None and found < 0.5 * varied:
        yield (
            f"Recall is {found:.2f} with {equal.n} samples, {varied:.2f} with {photos.n} held-out photos: the images"
            " vary less than the photos. A lower guidance scale varies more."
        )
    weak = [
        (found.label, found.accuracy, found.accuracy_held_out)
        for found in results.per_class or ()
        if found.accuracy_held_out is not None
        and found.accuracy < found.accuracy_held_out - max(LOST, 2 * error_of(found.accuracy, found.n_generated))
    ]
    if weak and results.extractor.name != "vae":
        named = ", ".join(f"{label} ({share:.0%}, photos {photos:.0%})" for label, share, photos in weak[:5])
        yield f"Classes that the images show less clearly than photos do: {named}."


def error_of(share: float, number: int) -> float:
    """Standard error of a share of so many images."""
    return math.sqrt(share * (1 - share) / number)
