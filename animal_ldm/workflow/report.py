"""`report.md`: what a run did, what came out, and what would help most. Renewed after every stage."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..evaluation.results import read_results
from ..evaluation.samples import prompt_of
from ..evaluation.table import table
from ..files import write_text
from .clock import RunState, newest_grid
from .settings import RunSettings
from .stages import STAGES
from .verdict import verdict

REPORT = "report.md"


def write_report(settings: RunSettings, state: RunState, out: Path) -> None:
    """Write `report.md` into `out`."""
    write_text(out / REPORT, "\n".join(report_lines(settings, state, out)) + "\n")


def report_lines(settings: RunSettings, state: RunState, out: Path) -> Iterator[str]:
    done = [stage for stage in STAGES if stage.name in state.stages and state.stages[stage.name].done]
    yield f"# {out.name}"
    yield ""
    yield (
        f"Trained on the photos of {settings.photos}. {len(done)} of {len(STAGES)} stages are finished;"
        f" {state.seconds / 60:.1f} of {settings.minutes:g} minutes are used, in {state.starts} starts."
    )
    yield "\n## Where the time went\n"
    yield "| stage | minutes |"
    yield "|---|---|"
    for stage in STAGES:
        if found := state.stages.get(stage.name):
            yield f"| {stage.title} | {found.seconds / 60:.1f}{'' if found.done else ', not finished'} |"
    yield f"| start, imports and choice of settings | {state.other_seconds / 60:.1f} |"
    if grid := newest_grid(out):
        yield f"\n## Images\n\n![newest images of the training]({grid.relative_to(out).as_posix()})"
    if (out / "evaluation" / "samples.png").is_file():
        yield "\n![uncurated samples of every class](evaluation/samples.png)"
        yield "\n![samples beside the nearest training photos](evaluation/nearest.png)"
    for page, title in (("model/training.html", "The training"), ("evaluation/report.html", "The evaluation")):
        if (out / page).is_file():
            yield f"\n[{title}]({page})"
    yield "\n## Results\n"
    yield results_text(out, state)
    if lines := verdict(settings, state, out):
        yield "\n## What is weak, and what would help\n"
        yield from (f"- {line}" for line in lines)
    if len(done) == len(STAGES):
        yield "\n## Next\n"
        yield next_steps(settings, out)


def where_it_stands(out: Path) -> str:
    """For somebody whose run has just stopped before its end."""
    state = RunState.read(out) or RunState()
    done = [stage.title for stage in STAGES if stage.name in state.stages and state.stages[stage.name].done]
    begun = [stage.title for stage in STAGES if stage.name in state.stages and stage.title not in done]
    return (
        f"The run stopped after {state.seconds / 60:.1f} minutes. Finished: {', '.join(done) or 'nothing yet'}."
        f" Begun: {', '.join(begun) or 'nothing'}. To go on from there, give the same command again."
    )


def results_text(out: Path, state: RunState) -> str:
    """The table of the evaluation, or why there is none."""
    path, evaluation = out / "evaluation" / "results.json", state.stages.get("evaluation")
    if path.is_file():
        return f"```\n{table(read_results(path))}\n```"
    return f"Not measured: {evaluation.facts.get('not_measured', 'not yet')}" if evaluation else "Not measured yet."


def next_steps(settings: RunSettings, out: Path) -> str:
    """How to generate with the model, and how to publish it."""
    lines = [
        f'Generate: animal-ldm generate "{prompt_of(first_class(out))}" -n 8 --model {out / "model"} --out images.png'
    ]
    if settings.push:
        lines.append(f"Published: https://huggingface.co/{settings.push}")
    else:
        lines.append(
            f"Publish: animal-ldm run {settings.photos} {out} --push you/{out.name} (log in with `hf auth login`)"
        )
    lines.append(f"Its card, as it would be published: {out / 'published' / 'README.md'}")
    return "\n\n".join(lines)


def first_class(out: Path) -> str:
    """The most common class; empty where there are none."""
    index: dict[str, Any] = json.loads((out / "model" / "model_index.json").read_text(encoding="utf-8"))
    return next(iter(index.get("classes") or [""]))
