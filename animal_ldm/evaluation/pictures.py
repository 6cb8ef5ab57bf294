"""The report's pictures: samples per class, the precision-recall plane, FD against 1/N, nearest photos, a sweep."""

import textwrap
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from .images import Images
from .neighbours import nearest
from .report import sampling_line

SAMPLES, REAL, QUIET = "#0072b2", "#d55e00", "#767676"  # told apart by colour-blind eyes too

# The card of the model that this project succeeds. It names neither extractor nor N.
STUDENT_CARD = {"k": 10, "precision": 0.55, "recall": 0.225}


def save_sample_grid(samples: Images, results: dict, path: Path, columns: int = 10) -> None:
    """The first samples of every class, a row each: not chosen by anyone."""
    rows = {}
    for index, label in enumerate(samples.labels or ["samples"] * len(samples)):
        if len(rows.setdefault(label, [])) < columns:
            rows[label].append(samples[index])
    rows = dict(sorted(rows.items()))
    figure = Figure(figsize=(0.9 * columns + 1.2, 0.93 * len(rows) + 0.4), layout="constrained")
    _caption(figure, results)
    for axes, (label, pictures) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        blank = [np.full_like(pictures[0], 255)] * (columns - len(pictures))
        axes.imshow(np.concatenate([*pictures, *blank], axis=1), interpolation="nearest")
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
        _bare(axes)
    _save(figure, path)


def save_precision_recall(results: dict, path: Path) -> None:
    """Precision over recall, of the samples and of real photos in their place at the same N."""
    found = {(record["name"], record["k"]): record for record in results["metrics"]}
    figure = Figure(figsize=(6.4, 6), layout="constrained")
    axes = figure.subplots()
    for k, marker in ((10, "o"), (3, "s")):
        precision, recall = found["precision", k], found["recall", k]
        axes.errorbar(
            recall["value"],
            precision["value"],
            xerr=recall["std"],
            yerr=precision["std"],
            marker=marker,
            color=SAMPLES,
            linestyle="",
            label=f"samples, N={precision['n_generated']:,}, k={k}",
        )
        n = precision["real_photos"]["n"]
        ends = [
            (recall[side]["value"], precision[side]["value"]) for side in ("same_n", "real_photos")
        ]  # (x, y) of the samples and of the photos
        axes.plot(*zip(*ends, strict=True), color=QUIET, linewidth=0.8, linestyle=":", zorder=0)
        if n < precision["n_generated"]:
            axes.plot(*ends[0], marker, color=SAMPLES, fillstyle="none", label=f"samples, N={n:,}, k={k}")
        axes.plot(*ends[1], marker, color=REAL, label=f"real photos (ceiling), N={n:,}, k={k}")
    if results["extractor"]["name"] == "inception":
        axes.plot(
            STUDENT_CARD["recall"],
            STUDENT_CARD["precision"],
            "x",
            color=QUIET,
            label="student card, k=10 (extractor and N not stated)",
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", ylabel="precision", aspect="equal")
    axes.set_title(f"{results['extractor']['name']} features, {found['precision', 10]['n_real']:,} reference photos")
    _caption(figure, results)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    _save(figure, path)


def save_fd_curve(results: dict, path: Path) -> None:
    """FD against 1/N with its extrapolation, and what real photos score."""
    curves, record = results["fd_curve"], results["metrics"][0]
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    _caption(figure, results)
    axes = figure.subplots()
    first = 1 / min(*curves["sizes"], *curves["real_photos"]["sizes"])
    drawn = "samples" if record["repeats"] == 1 else f"samples, the first of {record['repeats']} draws"
    for curve, colour, name in ((curves, SAMPLES, drawn), (curves["real_photos"], REAL, "real photos: the floor")):
        axes.plot(1 / np.array(curve["sizes"]), curve["distances"], "o", color=colour, label=name)
        line = np.array([0, first])
        label = f"straight line over 1/N, {curve['value']:.4g} at N→∞"
        axes.plot(line, curve["value"] + curve["slope"] * line, color=colour, linewidth=1, label=label)
        axes.plot(0, curve["value"], "D", color=colour, fillstyle="none", clip_on=False)
    ticks = (1, 2, 4, 10)  # far enough apart for their labels
    axes.set_xticks([0, *(first / tick for tick in ticks)], ["∞", *(f"{tick / first:,.0f}" for tick in ticks)])
    axes.set(xlabel="N, on a scale of 1/N", ylabel=record["label"], xlim=(0, None))
    axes.set_title(f"{record['n_real']:,} reference photos")
    axes.set_ylim(bottom=min(0, curves["value"], curves["real_photos"]["value"]))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    _save(figure, path)


def save_nearest_panel(
    samples: Images,
    sample_features: torch.Tensor,
    train: Images,
    train_features: torch.Tensor,
    extractor: str,
    path: Path,
    rows: int = 6,
    seed: int = 0,
) -> None:
    """Samples beside their three nearest training photos: on the left those nearest of all, on the right any."""
    distances, index = nearest(sample_features, train_features, (1, 2, 3))
    closest = distances[:, 0].argsort()[:rows].tolist()
    rest = sorted(set(range(len(samples))) - set(closest))
    others = np.random.default_rng(seed).permutation(rest)[: len(closest)].tolist()
    figure = Figure(figsize=(11, 1.38 * len(closest) + 0.8), layout="constrained")
    explained = (
        f"each sample, and the three nearest of {len(train):,} training photos with their {extractor} distances"
    )
    figure.suptitle(explained, fontsize="medium", color=QUIET)
    halves = ((closest, f"the nearest of {len(samples):,} samples"), (others, "samples at random"))
    for part, (chosen, heading) in zip(figure.subfigures(1, 2), halves, strict=True):
        part.suptitle(heading, fontsize="medium")
        for row, sample in zip(part.subplots(len(closest), 4, squeeze=False), chosen, strict=False):
            row[0].imshow(samples[sample])
            name = f"{samples.labels[sample]}, " if samples.labels else ""
            row[0].set_xlabel(f"{name}sample {sample}", color=SAMPLES, fontsize="small")
            for axes, photo, distance in zip(row[1:], index[sample].tolist(), distances[sample].tolist(), strict=True):
                axes.imshow(train[photo])
                axes.set_xlabel(f"{distance:.3g}", color=REAL, fontsize="small")
            for axes in row:
                _bare(axes)
    _save(figure, path)


def save_sweep(results: dict, path: Path) -> None:
    """The Frechet distance against precision and recall, a point for each value of the parameter."""
    sweep = results["sweep"]
    names = (("precision", 10), ("recall", 10))
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, (name, k) in zip(figure.subplots(1, 2, sharey=True), names, strict=True):
        points = []
        for point in sweep["points"]:
            found = {(record["name"], record["k"]): record for record in point["metrics"]}
            x, y = found[name, k], found["frechet_distance", None]
            points.append((x["value"], y["value"]))
            axes.errorbar(x["value"], y["value"], xerr=x["std"], yerr=y["std"], marker="o", color=SAMPLES)
            axes.annotate(f"{point['value']:g}", points[-1], xytext=(5, 5), textcoords="offset points")
        axes.plot(*zip(*points, strict=True), color=SAMPLES, linewidth=1)
        axes.axvline(found[name, k]["real_photos"]["value"], color=REAL, linestyle=":", linewidth=1)
        axes.set(xlabel=f"{name}, k={k}")
        axes.set_xlim(-0.05, 1.08)
        axes.margins(y=0.12)
        axes.ticklabel_format(useOffset=False)
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel(found["frechet_distance", None]["label"])
    n, real = found["precision", 10]["n_generated"], found["precision", 10]["real_photos"]["n"]
    explained = f"{sweep['parameter']} beside each point, {n:,} samples, seed {results['sampling']['seed']}"
    figure.suptitle(f"{explained}; dotted: real photos, N={real:,}", fontsize="medium")
    _save(figure, path)


def _caption(figure: Figure, results: dict) -> None:
    """How the samples were drawn, in as many lines as the width asks for."""
    lines = textwrap.fill(sampling_line(results), width=int(11 * figure.get_figwidth()))
    figure.suptitle(lines, fontsize="small", color=QUIET)


def _bare(axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
