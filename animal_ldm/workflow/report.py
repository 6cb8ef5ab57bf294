"""`report.md` and `report.html`: what a run did, what came out, and what would help most. Renewed as it goes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ..evaluation.results import read_results
from ..evaluation.samples import prompt_of
from ..evaluation.table import table
from ..files import write_text
from ..html import data_uri, render_page
from .clock import RunState, newest_grid
from .settings import RunSettings
from .stages import STAGES
from .verdict import verdict

REPORT, PAGE = "report.md", "report.html"
IMAGE_SIDE = 1200  # pixels, of the images within the page
PAGES = {
    "The training of the autoencoder": "autoencoder/training.html",
    "The training of the text-to-image model": "model/training.html",
    "The search for the guidance scale": "tuning/tune.md",
    "The evaluation": "evaluation/report.html",
}


def write_report(settings: RunSettings, state: RunState, out: Path) -> None:
    """Write `report.md` and `report.html` into `out`."""
    done = [stage.name for stage in STAGES if stage.name in state.stages and state.stages[stage.name].done]
    finished = len(done) == len(STAGES)
    values = {
        "summary": (
            f"Trained on the photos of {settings.photos}. {len(done)} of {len(STAGES)} stages are finished;"
            f" {state.seconds / 60:.1f} of {settings.minutes:g} minutes are used, in {state.starts}"
            f" start{'s' if state.starts > 1 else ''}."
        ),
        "times": [*times(state)],
        "links": [(title, page) for title, page in PAGES.items() if (out / page).is_file()],
        "results": results_text(out, state),
        "advice": verdict(settings, state, out),
        "next": next_steps(settings, out) if finished else "",
    }
    pictures = dict(images(out))
    write_text(out / REPORT, "\n".join(markdown_lines(out, pictures, **values)) + "\n")
    embedded = []
    for words, file in pictures.items():
        with Image.open(out / file) as image:
            embedded.append((words, data_uri(image, IMAGE_SIDE)))
    page = render_page(
        "run.html", name=out.resolve().name, settings=settings, minutes=state.seconds / 60, done=len(done),
        stages=len(STAGES), images=embedded, **values,
    )  # fmt: skip
    write_text(out / PAGE, page)


def times(state: RunState) -> Iterator[tuple[str, str]]:
    """(what took them, minutes)"""
    for stage in STAGES:
        if found := state.stages.get(stage.name):
            yield stage.title, f"{found.seconds / 60:.1f}{'' if found.done else ', not finished'}"
    yield "start, imports and choice of settings", f"{state.other_seconds / 60:.1f}"


def images(out: Path) -> Iterator[tuple[str, str]]:
    """(description, file below `out`): those of the evaluation, before it those of the training."""
    evaluated = {
        "Uncurated samples of every class": "evaluation/samples.webp",
        "Samples beside the nearest training photos": "evaluation/nearest.png",
    }
    found = {words: file for words, file in evaluated.items() if (out / file).is_file()}
    if not found and (grid := newest_grid(out)):
        found = {"Newest images of the training": grid.relative_to(out).as_posix()}
    yield from found.items()


def markdown_lines(out: Path, pictures: dict[str, str], **values: Any) -> Iterator[str]:
    yield f"# {out.name}\n"
    yield values["summary"]
    yield "\n## Where the time went\n"
    yield "| stage | minutes |"
    yield "|---|---|"
    yield from (f"| {title} | {minutes} |" for title, minutes in values["times"])
    if pictures:
        yield "\n## Images"
        yield from (f"\n![{words}]({file})" for words, file in pictures.items())
    yield from (f"\n[{title}]({page})" for title, page in values["links"])
    yield f"\n## Results\n\n```\n{values['results']}\n```"
    if values["advice"]:
        yield "\n## What is weak, and what would help\n"
        yield from (f"- {line}" for line in values["advice"])
    if values["next"]:
        yield f"\n## Next\n\n{values['next']}"


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
        return table(read_results(path))
    return f"Not measured: {evaluation.facts.get('not_measured', 'not yet')}" if evaluation else "Not measured yet."


def next_steps(settings: RunSettings, out: Path) -> str:
    """How to generate with the model, and how to publish it."""
    lines = [f'Generate: animal-ldm generate "{an_example(out)}" -n 8 --model {out / "model"} --out images.png']
    if settings.push:
        lines.append(f"Published: https://huggingface.co/{settings.push}")
    else:
        lines.append(
            f"Publish: animal-ldm run {settings.photos} {out} --push you/{out.name} (log in with `hf auth login`)"
        )
    lines.append(f"Its card, as it would be published: {out / 'published' / 'README.md'}")
    return "\n\n".join(lines)


def an_example(out: Path) -> str:
    """A prompt: the first class, or one of the captions where there are no classes."""
    report: dict[str, Any] = json.loads((out / "model" / "training_report.json").read_text(encoding="utf-8"))
    label = next(iter(report["classes"]), "")
    return prompt_of(label) if label else report["captions"]["examples"][0]
