"""The model card: numbers from `training_report.json` and `results.json`, prose from `model_card_template.md`.

A number that neither file holds is "not measured", with the command that measures it.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePath

from huggingface_hub import EvalResult, ModelCardData, SpaceCardData

from ..errors import InputError
from ..markdown import Markdown, one_line, render

TEMPLATE = Path(__file__).with_name("model_card_template.md")
SPACE_TEMPLATE = Path(__file__).with_name("space_card_template.md")

SPACE_PYTHON = "3.12"  # the Hub's default is older than this package takes

RESULTS_SCHEMA = 1
REPORT_FIELDS = ("arguments", "images_seen", "classes", "wall_time_seconds", "co2_kg", "hardware", "versions")
NOT_MEASURED = "not measured"

# The model card this project goes back to: it names neither the feature extractor nor the number of samples.
BASELINE = {("frechet_distance", None): 172.5, ("precision", 10): 0.55, ("recall", 10): 0.225}
BASELINE_NOTE = "extractor and N not stated"

ARROWS = {"lower": "↓", "higher": "↑", "near real photos": "≈"}

# The models of others that the training's defaults start from. Any other name may be a folder of the user's.
KNOWN_BASE_MODELS = ("stabilityai/sd-vae-ft-mse", "openai/clip-vit-large-patch14")

# Pictures of an evaluation, and what they show. Those with photos on them are published on request alone.
PICTURES = {
    "samples.png": "The first samples of every class, a row each, chosen by nobody",
    "precision_recall.png": "Precision and recall, with what real photos score in place of the samples",
    "fd_curve.png": "The Fréchet distance against 1/N: how much of it is bias of the number of samples",
    "sweep.png": "The Fréchet distance against precision and recall along the sweep",
}
PICTURES_OF_PHOTOS = {"nearest.png": "Samples beside the nearest photos of the training set"}


@dataclass(frozen=True)
class Statements:
    """What the publisher says about the model. Free text: it is escaped wherever it goes."""

    repo_id: str
    developed_by: str
    contact: str
    language: str
    license: str
    license_name: str | None  # of a licence that the Hub does not know, whose `license` is "other"
    license_link: str | None
    photo_terms: str
    dataset: str | None
    base_models: tuple[str, ...]
    failures: tuple[str, ...]
    provider: str
    region: str


@dataclass(frozen=True)
class Sample:
    """A picture of the card, and all that draws it again."""

    label: str
    prompt: str
    file: str
    seed: int
    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True)
class Evaluation:
    """A `results.json`, and the pictures beside it as {path in the repository: what it shows}."""

    results: dict
    pictures: dict[str, str]


def model_card(
    statements: Statements,
    report: dict,
    evaluations: Sequence[Evaluation],
    samples: Sequence[Sample],
    model: dict,
) -> str:
    """The whole README.md.

    Args:
        report: `training_report.json`.
        model: image_size, parameters {component: number}, scheduler and prediction_type of the pipeline.

    Raises:
        InputError: a file claims what it must not (see `check_results`), or lacks a field.
    """
    for evaluation in evaluations:
        check_results(evaluation.results)
    missing = set(REPORT_FIELDS) - set(report)
    if missing:
        raise InputError(f"training_report.json lacks {', '.join(sorted(missing))}; it must be the training's own.")
    data = card_data(statements, report, evaluations, samples)
    return render(
        TEMPLATE.read_text(encoding="utf-8"),
        card_data=Markdown(data.to_yaml()),
        repo_id=Markdown(statements.repo_id),  # holds no markup but _, which is plain within a name
        statements=statements,
        report=report,
        hyperparameters=hyperparameters(report["arguments"]),
        autoencoder_hyperparameters=hyperparameters((report.get("autoencoder") or {}).get("arguments", {})),
        validation_losses=[point for point in report.get("history", []) if "validation/loss" in point],
        evaluations=evaluations,
        rows=(rows := [*table_rows(evaluations)]),
        notes=notes(rows),
        headline_notes=notes([row for row in rows if row["headline"]]),
        measures_fid=any(record["label"] == "FID" for found in evaluations for record in found.results["metrics"]),
        baseline=BASELINE,
        baseline_note=BASELINE_NOTE,
        weak_classes=[*weak_classes(evaluations)],
        samples=samples,
        model=model,
        parameters=sum(model["parameters"].values()),
        runs=runs(report),
        file_size=file_size,
        requirements=Markdown(" ".join(map(json.dumps, requirements(("diffusers", "transformers", "torch"))))),
    )


def requirements(names: Sequence[str]) -> list[str]:
    """The libraries, each with the versions that this package asks for: "diffusers>=0.42"."""
    asked = {re.match(r"[\w.-]+", line)[0]: line for line in metadata.requires("animal-ldm")}
    return [asked[name] for name in names]


def space_card(model: str, license: str, gradio: str) -> str:
    """README.md of a Space, whose `models` tell the demo what to draw with.

    Args:
        model: id on the Hub.
        gradio: its version.
    """
    name = model.split("/")[1]
    data = SpaceCardData(
        title=name,
        emoji="🦓",
        colorFrom="yellow",
        colorTo="gray",
        sdk="gradio",
        sdk_version=gradio,
        python_version=SPACE_PYTHON,
        app_file="app.py",
        pinned=False,
        license=license,
        models=[model],
        short_description="Draws animals from a few words",
    )
    return render(
        SPACE_TEMPLATE.read_text(encoding="utf-8"),
        card_data=Markdown(data.to_yaml()),
        name=Markdown(name),
        model=Markdown(model),
    )


def card_data(
    statements: Statements, report: dict, evaluations: Sequence[Evaluation], samples: Sequence[Sample]
) -> ModelCardData:
    """The metadata above the card. Free texts lose their line breaks; YAML's own quoting does the rest."""
    *parts, cost = runs(report)
    carbon = None
    if cost["grams"] is not None:
        carbon = {
            "emissions": round(cost["grams"], 3),
            "source": one_line(f"{report['co2_source']}; training of {' and '.join(part['name'] for part in parts)}"),
            "training_type": "pre-training",
            "geographical_location": one_line(statements.region),
            "hardware_used": one_line(cost["machine"]),
        }
    results = [result for evaluation in evaluations for result in eval_results(statements, evaluation.results)]
    return ModelCardData(
        language=statements.language,
        license=statements.license,
        license_name=statements.license_name,
        license_link=statements.license_link,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=list(statements.base_models) or None,
        datasets=[statements.dataset] if statements.dataset else None,
        tags=["text-to-image", "diffusers", "latent-diffusion", "stable-diffusion", "animal-ldm"],
        widget=[
            {
                "text": one_line(sample.prompt),
                "output": {"url": sample.file},
                "parameters": {
                    "seed": sample.seed,
                    "num_inference_steps": sample.num_inference_steps,
                    "guidance_scale": sample.guidance_scale,
                },
            }
            for sample in samples
        ],
        co2_eq_emissions=carbon,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=statements.repo_id.split("/")[1],
        eval_results=results or None,
    )


# --- results ---------------------------------------------------------------------------------------------------------


def check_results(results: dict) -> None:
    """Refuse a `results.json` that cannot be told from a wrong one.

    Raises:
        InputError: another schema, a number that is not finite, or FID and KID of features that are not Inception's.
    """
    if results.get("schema_version") != RESULTS_SCHEMA:
        raise InputError(
            f"results.json must have schema version {RESULTS_SCHEMA}, but has {results.get('schema_version')};"
            " evaluate the model again with this version of animal-ldm."
        )
    for record in results["metrics"]:
        numbers = [record["value"], *(part["value"] for part in (record["real_photos"], record["same_n"]) if part)]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise InputError(f"results.json claims {record['label']}, but holds no finite number for it: {numbers}.")
        if record["extractor"]["name"] != "inception" and re.search(r"\b[FK]ID\b", record["label"]):
            raise InputError(
                f"results.json calls a distance over features of {record['extractor']['name']} {record['label']};"
                " only Inception's features give an FID or a KID. Evaluate the model again."
            )


def table_rows(evaluations: Sequence[Evaluation]) -> Iterator[dict]:
    """The rows of the results table: every record, beside the baseline where it has such a number."""
    for evaluation in evaluations:
        for record in evaluation.results["metrics"]:
            comparable = record["name"] != "frechet_distance" or record["label"] == "FID"
            baseline = BASELINE.get((record["name"], record["k"])) if comparable else None
            photos, same_n = record["real_photos"], record["same_n"]
            yield {
                "label": record["label"],
                "baseline": None if baseline is None else f"{baseline:g}",
                "value": number(record["value"], record["std"]),
                "better": record["better"],
                "arrow": ARROWS[record["better"]],
                "photos_value": None if photos is None else number(photos["value"]),
                "photos": None if photos is None else f"{number(photos['value'])} (N={photos['n']:,})",
                "same_n": None if same_n is None else number(same_n["value"], same_n["std"]),
                "n": f"{record['n_generated']:,} / {record['n_real']:,}",
                "seed": record["seed"],
                "extractor": record["extractor"]["name"],
                "note": record["note"],
                "headline": record["name"] in ("frechet_distance", "faithfulness")
                or (record["name"], record["k"]) in BASELINE,
            }


def notes(rows: Sequence[dict]) -> dict[str, list[str]]:
    """How numbers must be read: {note: labels of the numbers}."""
    noted = {}
    for row in rows:
        if row["note"]:
            noted.setdefault(row["note"], []).append(row["label"])
    return noted


def eval_results(statements: Statements, results: dict) -> Iterator[EvalResult]:
    """Every measured metric for the `model-index`, each with all that belongs to the number."""
    sampling = {
        f"sampling_{name}": list(value) if isinstance(value, tuple) else value
        for name, value in (results["sampling"] or {}).items()
        if name in ("guidance_scale", "num_inference_steps", "scheduler", "class_mix", "dtype")
    }
    for record in results["metrics"]:
        extractor, photos = record["extractor"], record["real_photos"]
        yield EvalResult(
            task_type="text-to-image",
            task_name="Text-to-Image",
            dataset_type=statements.dataset or "imagefolder",
            dataset_name=one_line(results["data"]["name"]),
            dataset_split=results["data"]["reference"],
            metric_type={"FID": "fid", "KID": "kid"}.get(record["label"], record["name"]),
            metric_name=f"{record['label']} [{extractor['name']}]",
            metric_value=record["value"],
            metric_args={
                "k": record["k"],
                "n_generated": record["n_generated"],
                "n_real": record["n_real"],
                "seed": record["seed"],
                "repeats": record["repeats"],
                "std": record["std"],
                "extractor": extractor["name"],
                "extractor_weights_sha256": extractor["weights_digest"],
                "resize": extractor["resize"],
                "real_photos_score": photos and photos["value"],
                "real_photos_n": photos and photos["n"],
                **sampling,
            },
        )


def weak_classes(evaluations: Sequence[Evaluation]) -> Iterator[dict]:
    """Classes that a probe recognises clearly less often in samples than in held-out photos."""
    for evaluation in evaluations:
        for found in evaluation.results["per_class"] or ():
            photos = found["recognised_held_out"]
            if photos is not None and found["recognised"] < photos - 0.1:
                yield found


# --- training --------------------------------------------------------------------------------------------------------


def hyperparameters(arguments: dict) -> list[tuple[str, str]]:
    """Every argument of the training, of a path the last part alone."""
    return [(name, "none" if value is None else str(without_folders(value))) for name, value in arguments.items()]


def without_folders(value):
    """`value` without what names the machine: absolute paths are cut to their last part, at any depth."""
    if isinstance(value, dict):
        return {name: without_folders(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_folders(part) for part in value]
    if isinstance(value, str):
        path = PurePath(value) if value.startswith(("/", "~")) else None
        return path.name if path else value
    return value


def runs(report: dict) -> list[dict]:
    """What each run behind the model cost: the UNet's, its autoencoder's as far as known, and last their sum.

    Returns:
        name; machine; images seen; hours; kwh; grams of CO2-equivalents, as the Hub counts. None: not measured.
    """
    reports, name, made = {"text-to-image model": report}, "autoencoder", report.get("autoencoder")
    while made:
        reports[name], name, made = made, f"{name}, before", made.get("pretrained")
    costs = [
        {
            "name": name,
            "machine": machine(found["hardware"]),
            "images": found["images_seen"],
            "hours": found["wall_time_seconds"] / 3600,
            "kwh": None if found["energy_kwh"] == NOT_MEASURED else found["energy_kwh"],
            "grams": None if found["co2_kg"] == NOT_MEASURED else 1000 * found["co2_kg"],
        }
        for name, found in reports.items()
    ]
    machines = "; ".join(dict.fromkeys(cost["machine"] for cost in costs))
    sums = {name: total([cost[name] for cost in costs]) for name in ("images", "hours", "kwh", "grams")}
    return [*costs, {"name": "together", "machine": machines, **sums}]


def total(amounts: Sequence[float | None]) -> float | None:
    """Their sum, None if any is."""
    return None if None in amounts else sum(amounts)


def machine(hardware: dict) -> str:
    gpus = [*hardware["gpus"]]
    names = f"{len(gpus)} x {gpus[0]}" if gpus else f"{hardware['cpu']}, {hardware['cpu_cores']} cores, no GPU"
    return names + (f", {hardware['processes']} processes" if hardware.get("processes", 1) > 1 else "")


# --- figures ---------------------------------------------------------------------------------------------------------


def number(value: float, std: float | None = None) -> str:
    return f"{value:.4g}" + (f" ± {std:.2g}" if std is not None else "")


def file_size(size: float) -> str:
    """Bytes for a person to read."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
