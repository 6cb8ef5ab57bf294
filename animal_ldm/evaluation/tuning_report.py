"""A search for sampling settings, for people: a table in Markdown, and pictures."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..files import whole_file, write_text
from ..markdown import code
from .gallery import first_of_every_class
from .images import Images
from .plots import QUIET
from .plots import REAL as FRESH
from .plots import SAMPLES as CHOSEN
from .tuning_results import Score, Setting, Trial, Tuning, describe

SHOWN_PER_CLASS, SHOWN_CLASSES = 5, 12


def report(found: Tuning) -> str:
    """The search in Markdown: verdict, comparison on fresh seeds, all settings."""
    identity, plan = found.identity, found.plan
    kernel, photos = identity.extractor.kernel_name, identity.photos["validation"][:12]
    lines = [
        f"# Sampling settings of {code(found.model_name)}",
        "",
        found.verdict,
        "",
        f"- Default before: {describe(found.default)}",
        f"- Default now: {describe(found.chosen or found.default)}",
        f"- Objective: {found.objective}.",
        f"- Photos: the validation split of {code(found.data_name)} (SHA-256 {photos}…). Features: "
        f"{identity.extractor.name}.",
        f"- Budget: {identity.max_minutes:g} minutes, of which {found.seconds / 60:.1f} were used.",
    ]
    if found.skipped:
        lines.append(f"- Not searched, because the time did not suffice: {', '.join(found.skipped)}.")
    if found.confirmation:
        n = found.confirmation.winner.n
        lines += ["", f"## On fresh seeds, {n:,} samples of each", "", *header(kernel)]
        lines += [row(found.default, found.confirmation.default), row(found.winner, found.confirmation.winner)]
    if found.trials and plan:
        lines += ["", f"## Search: {plan.number:,} samples each, seeds from {identity.seed}", "", *header(kernel)]
        lines += [row(trial.setting, trial.score) for trial in by_distance(found.trials)]
    lines += [
        "",
        "± is the standard error of the paired difference from the default, over new seeds and new photos. The best "
        "of many settings looks better than it is: the comparison on fresh seeds is the one to cite.",
    ]
    return "\n".join(lines) + "\n"


def header(kernel: str) -> list[str]:
    names = ("setting", kernel, "less the default's", "recall (k=3)", "prompt accuracy", "less the default's")
    return [f"| {' | '.join(names)} |", "|---" + "|---:" * (len(names) - 1) + "|"]


def row(setting: Setting | None, score: Score) -> str:
    cells = (
        describe(setting) if setting else "",
        f"{score.kernel_distance:.4g}",
        f"{score.difference:+.3g} ± {score.standard_error:.2g}",
        f"{score.recall:.3f}",
        f"{score.prompt_accuracy:.1%}",
        f"{score.accuracy_difference:+.1%} ± {score.accuracy_error:.1%}",
    )
    return f"| {' | '.join(cells)} |"


def by_distance(trials: list[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: trial.score.difference)


def save_plot(found: Tuning, path: Path) -> None:
    """Kernel distances of all settings less the default's, the best at the top, and those on fresh seeds."""
    trials = by_distance(found.trials)[::-1]
    figure = Figure(figsize=(9, 1.6 + 0.28 * len(trials)), layout="constrained")
    axes = figure.subplots()
    for y, trial in enumerate(trials):
        score, is_winner = trial.score, trial.setting == found.winner
        axes.errorbar(
            score.difference,
            y,
            xerr=score.standard_error,
            fmt="o",
            color=CHOSEN if is_winner else QUIET,
            fillstyle="full" if score.keeps_accuracy else "none",
        )
    if found.confirmation and found.winner:
        y, score = [trial.setting for trial in trials].index(found.winner), found.confirmation.winner
        label = f"the winner on {score.n:,} fresh samples"
        axes.errorbar(score.difference, y + 0.3, xerr=score.standard_error, fmt="D", color=FRESH, label=label)
    axes.plot([], [], "o", color=CHOSEN, label="the winner of the search")
    axes.plot([], [], "o", color=QUIET, label="other settings")
    axes.plot([], [], "o", color=QUIET, fillstyle="none", label="prompt accuracy below the default's")
    axes.axvline(0, color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(trials)), [describe(trial.setting) for trial in trials], fontsize="small")
    axes.set_xlabel(f"{found.identity.extractor.kernel_name} less the default's, ± standard error (left is better)")
    n = found.plan.number if found.plan else 0
    axes.set_title(f"{found.model_name}: {n:,} samples for each setting, same seeds", fontsize="medium")
    axes.grid(alpha=0.25, axis="x")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=130)


def save_samples(before: tuple[Setting, Images], after: tuple[Setting, Images], path: Path) -> None:
    """The first samples of every class by two settings, from the same seeds: a row per class."""
    figure = Figure(figsize=(2.05 * SHOWN_PER_CLASS, 8), layout="constrained")
    for axes, (setting, images) in zip(figure.subplots(1, 2), (before, after), strict=True):
        groups = [*first_of_every_class(images, SHOWN_PER_CLASS).values()][:SHOWN_CLASSES]
        shown = [[images[i] for i in group] for group in groups]
        blank = np.full_like(shown[0][0], 255)
        strips = [np.concatenate(row + [blank] * (SHOWN_PER_CLASS - len(row)), axis=1) for row in shown]
        axes.imshow(np.concatenate(strips), interpolation="nearest")
        axes.set_title(describe(setting), fontsize="small")
        axes.set_axis_off()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=130)


def write(found: Tuning, shown: tuple[Images, Images], out: Path) -> None:
    """tune.md, tune.png and tune_samples.png beside tune.json.

    Args:
        shown: samples from the same seeds, of the default and of the winner.
    """
    save_plot(found, out / "tune.png")
    save_samples((found.default, shown[0]), (found.winner or found.default, shown[1]), out / "tune_samples.png")
    write_text(out / "tune.md", report(found))
