"""The model card: facts from reports and configurations, prose from `model_card_template.md`.

A number that no report holds is marked "not measured", with the command that measures it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ..evaluation.results import BASELINE
from ..evaluation.table import HOW_TO_READ_WORDS, PROMPTS, attribute_rows, number
from ..markdown import Markdown, one_line, render
from ..sampling import Sampling, beyond_defaults, describe_guidance
from .architecture import Architecture
from .costs import Costs, training_costs
from .evaluations import (
    Evaluation,
    eval_results,
    hub_metrics,
    measures_copying,
    measures_fid,
    notes,
    percent,
    table_rows,
    trained_against,
    weak_classes,
)
from .privacy import PublicNames, public_arguments
from .request import Statements
from .training_record import Stage, TrainingRecord

TEMPLATE = Path(__file__).with_name("model_card_template.md")
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Sample:
    """An image of the card, and all that is needed to generate it again."""

    label: str
    prompt: str
    file: str
    seed: int
    sampling: Sampling


@dataclass(frozen=True)
class PublishedModel:
    """What there is to say about a model.

    Attributes:
        verified: names of the digests in the training report that are those of the published weights.
    """

    record: TrainingRecord
    evaluations: Sequence[Evaluation]
    samples: Sequence[Sample]
    architecture: Architecture
    verified: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hyperparameters:
    """Arguments of a stage, as (name, value).

    Attributes:
        changed: those that differ from the defaults; None where the defaults were not recorded.
        others: all others.
    """

    stage: str
    changed: list[tuple[str, str]] | None
    others: list[tuple[str, str]]


def model_card(statements: Statements, model: PublishedModel) -> str:
    """The whole README.md.

    Raises:
        InputError: an evaluation claims what it must not (see `Results.check`).
    """
    for evaluation in model.evaluations:
        evaluation.results.check()
    statements = complete(statements, model.record)
    costs = training_costs(model.record)
    rows = table_rows(model.evaluations)
    return render(
        TEMPLATE.read_text(encoding="utf-8"),
        card_data=Markdown(card_data(statements, model, costs).to_yaml()),
        repo_id=Markdown(statements.repo_id),  # holds no markup but _, which is plain within a name
        statements=statements,
        record=model.record,
        model=model,
        architecture=model.architecture,
        parameters=sum(model.architecture.parameters.values()),
        samples=model.samples,
        evaluations=model.evaluations,
        rows=rows,
        notes=notes(rows),
        headline_notes=notes([row for row in rows if row.headline]),
        measures_fid=measures_fid(model.evaluations),
        measures_copying=measures_copying(model.evaluations),
        weak_classes=weak_classes(model.evaluations),
        trained_against={
            evaluation.results.extractor.name: trained_against(evaluation.results.extractor, model.record)
            for evaluation in model.evaluations
        },
        baseline=BASELINE,
        hyperparameters=hyperparameters(model.record, statements),
        costs=costs,
        number=number,
        percent=percent,
        attribute_rows=attribute_rows,
        how_to_read_words=HOW_TO_READ_WORDS,
        describe_guidance=describe_guidance,
        prompts_from=PROMPTS,
        requirements=Markdown(" ".join(map(json.dumps, requirements(("diffusers", "transformers", "torch"))))),
    )


def complete(statements: Statements, record: TrainingRecord) -> Statements:
    """The statements, with what the training report tells where the publisher said nothing."""
    return replace(
        statements,
        base_models=record.base_models() if statements.base_models is None else statements.base_models,
        frozen_models=record.frozen_models() if statements.frozen_models is None else statements.frozen_models,
        dataset_title=title_of_data(statements, record),
        region=statements.region or record.country or NOT_STATED,
    )


def title_of_data(statements: Statements, record: TrainingRecord) -> str:
    """The name of the training photos in public: their title, their id on the Hub, or else their number."""
    counted = f"{record.training_photos:,} photos" if record.training_photos else "photos"
    return statements.dataset_title or statements.dataset or f"{counted} of {len(record.classes)} classes"


def hyperparameters(record: TrainingRecord, statements: Statements) -> list[Hyperparameters]:
    """Those of the text-to-image model, then of the autoencoder's stages."""
    names = public_names(record, statements)
    *autoencoder, last = record.named_stages()
    shown = [hyperparameters_of(*last, names, {"vae": "the autoencoder below"} if autoencoder else {})]
    for place, (name, stage) in enumerate(autoencoder):
        shown.append(hyperparameters_of(name, stage, names, {"pretrained": "the stage before"} if place else {}))
    return shown


def public_names(record: TrainingRecord, statements: Statements) -> PublicNames:
    """What may be named in public: the photos' title, and models on the Hub.

    Args:
        statements: completed (see `complete`).
    """
    models = (*(statements.base_models or ()), *(statements.frozen_models or ()))
    return PublicNames({str(record.arguments.get("data")): statements.dataset_title or NOT_STATED}, models)


def hyperparameters_of(name: str, stage: Stage, names: PublicNames, known: dict[str, str]) -> Hyperparameters:
    """The hyperparameters of one stage.

    Args:
        known: what to show in place of local folders of which the card tells more.
    """
    public = public_arguments(stage.arguments, names) | known
    cells = [(argument, "none" if value is None else str(value)) for argument, value in public.items()]
    if stage.defaults is None:
        return Hyperparameters(name, None, cells)
    missing = object()
    changed = {
        argument for argument in public if stage.arguments.get(argument) != stage.defaults.get(argument, missing)
    }
    return Hyperparameters(
        name,
        [cell for cell in cells if cell[0] in changed],
        [cell for cell in cells if cell[0] not in changed],
    )


def requirements(names: Iterable[str]) -> list[str]:
    """The libraries, each with the versions that this package asks for: "diffusers>=0.42"."""
    asked = {}
    for line in metadata.requires("animal-ldm") or ():
        if name := re.match(r"[\w.-]+", line):
            asked[name[0]] = line
    return [asked[name] for name in names]


# --- metadata --------------------------------------------------------------------------------------------------------


def card_data(statements: Statements, model: PublishedModel, costs: Costs) -> ModelCardData:
    """The metadata above the card. Free texts lose their line breaks; YAML's own quoting does the rest."""
    results = [
        result for evaluation in model.evaluations for result in eval_results(statements.dataset, evaluation.results)
    ]
    return ModelCardData(
        language=statements.language,
        license=statements.license,
        license_name=statements.license_name,
        license_link=statements.license_link,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=[*(statements.base_models or ())] or None,
        datasets=[statements.dataset] if statements.dataset else None,
        tags=["text-to-image", "diffusers", "latent-diffusion", "animal-ldm"],
        widget=[widget(sample) for sample in model.samples],
        co2_eq_emissions=carbon(statements, costs),
        metrics=hub_metrics(model.evaluations),
        model_name=statements.repo_id.split("/")[1],
        eval_results=results or None,
    )


def widget(sample: Sample) -> dict[str, Any]:
    return {
        "text": one_line(sample.prompt),
        "output": {"url": sample.file},
        "parameters": {
            "seed": sample.seed,
            "num_inference_steps": sample.sampling.num_inference_steps,
            "guidance_scale": sample.sampling.guidance_scale,
            **beyond_defaults(sample.sampling),
        },
    }


def carbon(statements: Statements, costs: Costs) -> dict[str, Any] | None:
    """The Hub's `co2_eq_emissions`: grams, and how they were counted."""
    if costs.total.grams is None:
        return None
    autoencoder = len(costs.stages) - 1
    parts = ["autoencoder" + (f" ({autoencoder} stages)" if autoencoder > 1 else "")] if autoencoder else []
    source = f"{costs.source}; training of {' and '.join([*parts, costs.stages[-1].name])}"
    if costs.total.upper_bound:
        certainty = "stages ran" if costs.overlap else "stages may have run"
        source += f"; an upper bound, because {certainty} at the same time and the meter counts the whole machine"
    if statements.cost_note:
        source += f"; {statements.cost_note}"
    return {
        "emissions": round(costs.total.grams, 3),
        "source": one_line(source),
        "training_type": "fine-tuning" if statements.base_models else "pre-training",
        "geographical_location": one_line(statements.region or NOT_STATED),
        "hardware_used": one_line(costs.total.machine),
    }
