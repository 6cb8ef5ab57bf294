"""The model card: numbers only from the reports, facts only from what is known, the Hub's rules, round trips."""

import copy
import re
import shlex
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard, SpaceCard

from animal_ldm.errors import InputError
from animal_ldm.evaluation.results import (
    AttributeResult,
    AutoencoderResult,
    ClassResult,
    ExtractorInfo,
    Results,
    Sweep,
    SweepPoint,
)
from animal_ldm.markdown import printable
from animal_ldm.publishing.architecture import Architecture
from animal_ldm.publishing.card import PublishedModel, Sample, model_card
from animal_ldm.publishing.costs import training_costs
from animal_ldm.publishing.evaluations import Evaluation, table_rows, trained_against
from animal_ldm.publishing.request import Statements
from animal_ldm.publishing.rules import check_card
from animal_ldm.publishing.spaces import space_card
from animal_ldm.publishing.training_record import parse_training_record
from animal_ldm.sampling import Sampling

from ..test_markdown import HOSTILE

STATEMENTS = Statements(
    repo_id="user/my_model",
    developed_by="A. Person",
    contact="me@example.org",
    language="en",
    license="unlicense",
    photo_terms="cc-by-4.0",
    dataset="user/animals",
    dataset_title="Animals of the world",
    failures=("Giraffes lose their heads.",),
    provider="own machine",
    region="FRA",
)
SAMPLES = [Sample("zebra", "a zebra", "samples/00-zebra.png", 0, Sampling())]
ARCHITECTURE = Architecture(
    image_size=16,
    parameters={"UNet": 60_000, "text encoder": 5_000, "autoencoder": 15_000},
    scheduler="DDIMScheduler",
    prediction_type="v_prediction",
    latent_shape=(4, 8, 8),
    downsample_factor=2,
    autoencoder_channels=(8, 8),
    unet_channels=(8, 16),
    text_layers=1,
    text_width=8,
    text_tokens=24,
    pipeline_digest="ab" * 32,
    encoder_digest="cd" * 32,
)
SECTIONS = """
At a Glance; Model Details; Model Description; Model Sources; Uses; Direct Use; Downstream Use; Out-of-Scope Use;
Bias, Risks, and Limitations; Recommendations; How to Get Started with the Model; Training Details; Training Data;
Training Procedure; Training Hyperparameters; Evaluation; Testing Data; Metrics; Results; Per class; Summary;
Environmental Impact; Technical Specifications; Software; Citation; Model Card Contact
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("samples/00-zebra.png", "evaluation/squeezenet/samples.webp"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"picture")
    return tmp_path


@pytest.fixture
def evaluation(results) -> Evaluation:
    return Evaluation(results, {"evaluation/squeezenet/samples.webp": "Samples"})


def card_of(report, evaluations=(), statements=STATEMENTS, samples=SAMPLES, verified=("identity.vae",)) -> str:
    record = parse_training_record(report)
    return model_card(statements, PublishedModel(record, evaluations, samples, ARCHITECTURE, verified))


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def row(card: str, start: str) -> list[str]:
    """The cells of the table row that begins with `start`."""
    [line] = [line for line in card.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def without_code(text: str) -> str:
    """A card's text without code, which shows markup as it is."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<![`\\])(`+)(?!`).*?(?<!`)\1(?!`)", "", text)


def changed(evaluation: Evaluation, **fields) -> Evaluation:
    return replace(evaluation, results=replace(evaluation.results, **fields))


def first_metric(results: Results, **fields) -> list:
    """The metrics, with other fields in the first."""
    return [replace(results.metrics[0], **fields), *results.metrics[1:]]


def test_sections_of_the_original_card(training_report, evaluation):
    headings = re.findall(r"^#+ (.*)$", card_of(training_report, [evaluation]), re.MULTILINE)
    for section in SECTIONS.replace("\n", " ").split(";"):
        assert section.strip() in headings


def test_prompts_and_words_they_ask_for(training_report, evaluation):
    words = [
        AttributeResult("colour", "white", 40, 30, 0.8, 1200, 0.25, 10, 8, 0.875),
        AttributeResult("background", "green", 9, 0, None, 0, None, 0, 0, None),
    ]
    sampling = replace(evaluation.results.sampling, prompts={}, prompts_from="data", distinct_prompts=31)
    accuracy = replace(evaluation.results.metrics[-2], name="colour_accuracy", label="colour accuracy")
    score = replace(accuracy, name="clip_score", label="CLIP score")
    metrics = [*evaluation.results.metrics, accuracy, score]
    found = changed(evaluation, per_attribute=words, sampling=sampling, metrics=metrics)
    card = card_of(training_report, [found])
    assert row(card, "colour white") == ["colour white", "40", "25%", "80%", "25% of 1,200", "10", "20%", "88%"]
    assert row(card, "background green") == ["background green", "9", "100%", "", "", "0", "", ""]
    assert "prompts: captions of the photos" in card and "Framing and number are not measured" in card
    assert "- **CLIP score**" in card and "- **Colour and background accuracy**" in card
    card = card_of(training_report, [evaluation])
    assert "prompts: class names" in card and "CLIP score" not in card and "Framing" not in card


def test_every_measured_number_with_its_context(training_report, evaluation):
    card = card_of(training_report, [evaluation])
    table = card.split("### Results")[1]
    for metric in evaluation.results.metrics:
        cells = row(table, metric.label)
        assert cells[1] == {"lower": "↓", "higher": "↑", "near real photos": "≈"}[metric.better]
        assert cells[2] == f"{metric.value:.4g} ± {metric.std:.2g}"
        photos = metric.real_photos
        assert cells[3] == (f"{photos.value:.4g} (N={photos.n})" if photos else "not measured")
        same_n = metric.same_n
        assert cells[4] == (f"{same_n.value:.4g} ± {same_n.std:.2g}" if same_n else "")
        assert cells[6] == f"{metric.n_generated:,} / {metric.n_real:,}"
        assert cells[7] == str(metric.seed)
        assert cells[8] == "squeezenet"
        if metric.note:
            assert any(metric.label in line and metric.note[:20] in line for line in table.splitlines())
    digest = evaluation.results.extractor.weights_digest
    assert f"weights `{digest[:16]}…`" in card
    assert digest in card.split("---\n")[1]
    for found in evaluation.results.per_class:
        assert f"{found.accuracy:.0%}" in row(card, found.label)


def test_baseline_is_marked_as_not_comparable(training_report, evaluation):
    card = card_of(training_report, [evaluation])
    table = card.split("### Results")[1]
    assert row(table, "FID")[5] == "172.5"
    assert row(table, "precision, k=10")[5] == "0.55"
    assert row(table, "recall, k=10")[5] == "0.225"
    assert row(table, "precision, k=3")[5] == ""
    assert row(table, "FD (squeezenet)")[5] == ""  # not an FID, so not beside one
    assert "states neither extractor nor N. Its numbers are not comparable" in " ".join(card.split())


def test_at_a_glance(training_report, evaluation):
    top = card_of(training_report, [evaluation]).split("## At a Glance")[1].split("\n## ")[0]
    assert "![Samples](evaluation/squeezenet/samples.webp)" in top
    accuracy = evaluation.results.find("prompt_accuracy")
    shown = row(top, "prompt accuracy (higher is better)")
    assert shown[1].startswith(f"{accuracy.value:.4g}")
    assert shown[2] == f"{accuracy.real_photos.value:.4g}"
    for name in ("FD (squeezenet)", "precision, k=10", "recall, k=10"):
        assert f"| {name} (" in top
    assert "Nothing was measured" in card_of(training_report).split("## At a Glance")[1].split("\n## ")[0]


def test_what_was_not_measured_is_marked_with_its_command(training_report, evaluation):
    for card in (card_of(training_report, [evaluation]), card_of(training_report)):
        assert row(card.split("### Results")[1], "FID")[2:4] == ["not measured", "not measured"]
        command = "`animal-ldm evaluate user/my_model --data DATA -n 7500 --extractor inception`"
        assert f"To measure the rest, run {command}" in card
    nothing = card_of(training_report | {"co2_kg": "not measured", "history": []})
    assert row(nothing, "recall, k=10")[2] == "not measured"
    assert row(nothing, "text-to-image model")[-1] == "not measured"
    assert "`--country FRA` (or another country's code) to `animal-ldm train`" in nothing
    assert "Validation loss: not measured" in nothing
    assert "how close they come was not measured" in nothing
    assert "co2_eq_emissions" not in metadata(nothing)
    assert "model-index" not in metadata(nothing)


def test_metric_without_a_value_is_not_measured(evaluation):
    """The distance at infinite N has none where the samples are too few to extrapolate."""
    metrics = first_metric(evaluation.results, value=None, std=None)
    assert table_rows([changed(evaluation, metrics=metrics)])[0].value == "not measured"


def test_every_hyperparameter_and_no_local_folder(training_report, folder):
    card = card_of(training_report)
    shown = {"data": "Animals of the world", "snr_gamma": "none"}
    for name, value in training_report["arguments"].items():
        if name == "output_dir":
            assert f"`{name}`" not in card
        else:
            assert row(card, f"`{name}`")[1] == shown.get(name, str(value))
    for local in ("/home/me", "runs/secret", "prepared"):
        assert local not in card
    check_card(card, "model", folder)


def test_hyperparameters_that_differ_from_the_defaults_come_first(training_report):
    report = copy.deepcopy(training_report)
    report["defaults"] = report["arguments"] | {"learning_rate": 2e-4, "data": "photos"}
    before, details = card_of(report).split("#### Training Hyperparameters")[1].split("<details>")
    assert "`learning_rate`" in before and "`learning_rate`" not in details
    assert "`snr_gamma`" not in before and "`snr_gamma`" in details


def test_metadata(training_report, evaluation):
    data = metadata(card_of(training_report, [evaluation]))
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "text-to-image"
    assert data["license"] == "unlicense"
    assert data["datasets"] == ["user/animals"]
    assert data["metrics"] == ["accuracy", "precision", "recall"]  # those that the Hub knows
    assert "stable-diffusion" not in data["tags"]
    assert data["co2_eq_emissions"]["emissions"] == 12.5  # grams; the report has kilograms
    assert data["widget"][0]["output"]["url"] == "samples/00-zebra.png"
    assert data["model-index"][0]["results"][0]["dataset"]["name"] == "prepared"  # staging has put its title there
    names = [metric["name"] for metric in data["model-index"][0]["results"][0]["metrics"]]
    assert names[0] == "FD (squeezenet)"
    assert "precision, k=10 (squeezenet)" in names


def test_frozen_parts_are_not_base_models(training_report):
    card = card_of(training_report)
    assert "base_model" not in metadata(card)
    assert "- **Frozen parts:** [stabilityai/sd-vae-ft-mse](https://huggingface.co/stabilityai/sd-vae-ft-mse)" in card
    assert "- **Initialised from:** random weights (UNet, text encoder)" in card
    finetuned = card_of(training_report, statements=replace(STATEMENTS, base_models=("user/older-model",)))
    assert metadata(finetuned)["base_model"] == ["user/older-model"]
    assert "- **Initialised from:** [user/older-model](" in finetuned
    start = AUTOENCODER | {"arguments": {"pretrained": "stabilityai/sd-vae-ft-mse"}}
    own = training_report | {"autoencoder": start, "arguments": training_report["arguments"] | {"vae": "vae"}}
    assert metadata(card_of(own))["base_model"] == ["stabilityai/sd-vae-ft-mse"]


def test_licence_of_ones_own(training_report, folder):
    terms = {"license": "other", "license_name": "be-kind-1.0", "license_link": "https://example.org/be_kind"}
    card = card_of(training_report, statements=replace(STATEMENTS, **terms))
    check_card(card, "model", folder)
    assert terms.items() <= metadata(card).items()
    assert "**Licence:** be-kind-1.0, for code and weights (<https://example.org/be_kind>)." in card


def test_weak_classes_are_named(training_report, evaluation):
    lion, zebra = ClassResult("lion", 10, 0.3, 0.9, "wolf"), ClassResult("zebra", 10, 0.85, 0.9, "wolf")
    weak = changed(evaluation, per_class=[lion, zebra])
    card = card_of(training_report, [weak])
    assert "than in held-out photos: by squeezenet, lion (30%, photos 90%).\n" in card
    strong = changed(evaluation, per_class=[replace(lion, accuracy=0.9), zebra])
    assert "linear probe recognises" not in card_of(training_report, [strong])
    several = card_of(training_report, [weak, strong, weak])
    assert "by squeezenet, lion (30%, photos 90%); by squeezenet, lion" in several


def test_network_that_trained_and_measures_the_model_is_disclosed(training_report, evaluation):
    assert "may flatter" not in card_of(training_report, [evaluation])
    aligned = training_report | {"arguments": training_report["arguments"] | {"alignment_weight": 0.5}}
    assert "SqueezeNet's features (feature alignment)" in card_of(aligned, [evaluation])
    other = ExtractorInfo("inception", "00", "bicubic")
    assert trained_against(other, parse_training_record(aligned)) == []


def test_evaluation_results_come_back_from_the_metadata(training_report, evaluation):
    card = ModelCard(card_of(training_report, [evaluation]))
    measured = evaluation.results.metrics
    assert len(card.data.eval_results) == len(measured)
    for result, metric in zip(card.data.eval_results, measured, strict=True):
        assert result.metric_value == metric.value
        assert result.metric_args.get("k") == metric.k
        assert result.metric_args["n_generated"] == metric.n_generated
        assert result.metric_args["extractor"] == "squeezenet"
        assert "fid" not in result.metric_type.lower()


def test_settings_that_are_not_plain_come_with_every_number(training_report, evaluation):
    sampling = replace(evaluation.results.sampling, guidance_interval=(0.1, 0.8), pag_scale=6.0)
    tuned = changed(evaluation, sampling=sampling)
    for found, perturbed in ((evaluation, False), (tuned, True)):
        card = card_of(training_report, [found])
        told = ModelCard(card).data.eval_results[0].metric_args
        assert told.get("sampling_guidance_interval") == ([0.1, 0.8] if perturbed else None)
        assert told.get("sampling_pag_scale") == (6.0 if perturbed else None)
        assert ("perturbed-attention guidance with scale 6.0 in `mid`, guided from 0.1 to 0.8" in card) == perturbed


def test_card_survives_reading_and_writing(training_report, evaluation, folder):
    card = card_of(training_report, [evaluation])
    check_card(card, "model", folder)
    again = ModelCard(str(ModelCard(card)))
    assert str(again) == card
    assert again.data.to_dict() == ModelCard(card).data.to_dict()


def test_hostile_free_text(training_report, evaluation, folder):
    statements = replace(
        STATEMENTS,
        developed_by=HOSTILE,
        contact=HOSTILE,
        photo_terms=HOSTILE,
        dataset_title=HOSTILE,
        failures=(HOSTILE,),
        provider=HOSTILE,
        region=HOSTILE,
        cost_note=HOSTILE,
    )
    report = copy.deepcopy(training_report)
    report["classes"] = [HOSTILE]
    report["arguments"]["country"] = HOSTILE
    hostile = changed(evaluation, data=replace(evaluation.results.data, name=HOSTILE))
    card = card_of(report, [hostile], statements, [replace(SAMPLES[0], label=HOSTILE, prompt=HOSTILE)])
    check_card(card, "model", folder)
    body = without_code(ModelCard(card).text)
    assert "<script>" not in body.replace(r"\<script\>", "")
    assert "49" not in re.findall(r"Developed by.*", body)[0]
    headings = re.findall(r"^#+ (.*)$", card_of(training_report, [evaluation]), re.MULTILINE)
    assert re.findall(r"^#+ (.*)$", card, re.MULTILINE) == headings
    assert metadata(card).keys() == metadata(card_of(training_report, [evaluation])).keys()


# What a class may be called by somebody who means harm.
HOSTILE_CLASSES = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a link](https://example.org)",
    "![an image](https://example.org/x.png)",
    "https://example.org and www.example.org and me@example.org",
    "x\n---\nlicense: mit\n---\n# Title",
    "x: [y, {z: &a *a}] # !!python/object/apply:os.system ['true']",
    "../../../etc/passwd",
    "..",
    "/etc/passwd",
    "con\x00\x1b[2J\u202egnp.exe",
    "$(touch run) `touch run` '; touch run; '",
    "{{ 7 * 7 }} {% raw %}",
    "| a | b |",
    "```\n<b>bold</b>",
    "$\\frac{1}{$ \\(x\\)",
    "</details></td></table>",
    "a" * 3000,
    "\ud800",
    "",
]


@pytest.mark.parametrize("name", HOSTILE_CLASSES, ids=range(len(HOSTILE_CLASSES)))
def test_hostile_class_names(training_report, evaluation, folder, name):
    """Inert in the card's text, its metadata, its commands and the model index."""
    report = training_report | {"classes": [name, "zebra"]}
    found = [replace(result, label=name, mistaken_for=name) for result in evaluation.results.per_class or ()]
    measured = changed(evaluation, per_class=found)
    sample = replace(SAMPLES[0], label=name, prompt=f"a {name}")
    card = card_of(report, [measured], samples=[sample])
    card.encode("utf-8")
    check_card(card, "model", folder)
    usual = card_of(training_report, [evaluation])
    assert metadata(card).keys() == metadata(usual).keys()
    assert metadata(card)["widget"][0]["text"] == " ".join(printable(f"a {name}").split())
    assert metadata(card)["license"] == metadata(usual)["license"]
    text = ModelCard(card).text
    assert re.findall(r"^#+ .*$", text, re.MULTILINE) == re.findall(r"^#+ .*$", ModelCard(usual).text, re.MULTILINE)
    fences = [len(re.findall("^ {0,3}```", shown, re.MULTILINE)) for shown in (text, ModelCard(usual).text)]
    assert fences[0] == fences[1]
    shown = without_code(text)
    assert not re.search(r"(?<!\\)(<(script|img|b>|/td)|\]\(https://example)|://example|www\.example|49", shown)
    (command,) = re.findall(r"^animal-ldm generate (.*) --model", text, re.MULTILINE)
    assert shlex.split(command) == [metadata(card)["widget"][0]["text"]]


def test_sweep_and_autoencoder_of_the_evaluation(training_report, evaluation):
    results = evaluation.results
    points = [SweepPoint(1.0, results.metrics), SweepPoint(3.5, first_metric(results, value=7.125))]
    reconstructed = AutoencoderResult(24, 21.5, None, 12.5, 0.5, 0.5, 0.75, 0, None)
    measured = changed(evaluation, sweep=Sweep("guidance_scale", points), autoencoder=reconstructed)
    card = card_of(training_report, [measured])
    table = card.split("#### Along the guidance scale")[1].split("\n\n")[2].splitlines()
    assert table[0] == "| metric | 1 | 3.5 | real photos |"
    assert table[1] == "|---|---:|---:|---:|"
    assert table[2].startswith(f"| FD (squeezenet) | {results.metrics[0].value:.4g} | 7.125 |")
    assert len(table) == 2 + len(results.metrics)
    text = card.split("#### Autoencoder")[1]
    assert "On 24 held-out photos (squeezenet): PSNR 21.5 dB, LPIPS (SqueezeNet) not measured" in text
    assert "FD (squeezenet) 12.5." in text
    assert "correctly classifies 50% of the reconstructions and 75% of the photos" in text


def test_refuses_an_fid_of_other_features(training_report, evaluation):
    wrong = changed(evaluation, metrics=first_metric(evaluation.results, label="FID"))
    with pytest.raises(InputError, match="only Inception's features give an FID"):
        card_of(training_report, [wrong])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_numbers_that_are_claimed_and_missing(training_report, evaluation, value):
    wrong = changed(evaluation, metrics=first_metric(evaluation.results, value=value))
    with pytest.raises(InputError, match="not a finite number"):
        card_of(training_report, [wrong])


def test_refuses_half_reports(training_report):
    with pytest.raises(InputError, match="lacks versions"):
        card_of({name: value for name, value in training_report.items() if name != "versions"})


# --- the stages of the training --------------------------------------------------------------------------------------

AUTOENCODER = {
    "arguments": {"preset": "tiny", "data": "prepared_33"},
    "images_seen": 24_000,
    "wall_time_seconds": 1800.0,
    "energy_kwh": 0.05,
    "co2_kg": 0.0025,
    "co2_source": "codecarbon 3.3.2, offline tracker, whole machine",
    "hardware": {"cpu": "A CPU", "cpu_cores": 4, "gpus": ["A GPU"], "processes": 1},
    "validation": {"psnr": 22.5, "lpips_squeeze": 0.125, "images": 123},
}


def test_cost_of_both_runs(training_report):
    card = card_of(training_report | {"autoencoder": AUTOENCODER})
    assert row(card, "text-to-image model")[1:] == ["4,800", "A CPU, 4 cores, no GPU", "1.50", "0.25 kWh", "12.5 g"]
    assert row(card, "autoencoder")[1:] == ["24,000", "1 x A GPU", "0.50", "0.05 kWh", "2.5 g"]
    assert row(card, "all stages")[3:] == ["2.00", "≤ 0.3 kWh", "≤ 15 g"]
    assert "The reports do not record whether stages ran at the same time." in card
    carbon = metadata(card)["co2_eq_emissions"]
    assert carbon["emissions"] == 15  # grams; the reports have kilograms
    assert "training of autoencoder and text-to-image model; an upper bound" in carbon["source"]
    assert carbon["hardware_used"] == "1 x A GPU; A CPU, 4 cores, no GPU"
    assert "PSNR 22.5 dB, LPIPS (SqueezeNet) 0.125" in card
    assert row(card, "`preset`")[1] == "tiny"
    assert "training report was not available" not in card
    assert "prepared_33" not in card


def stretch(started: str, ended: str) -> list[dict]:
    return [{"started": f"2026-01-01T{started}:00+00:00", "ended": f"2026-01-01T{ended}:00+00:00"}]


def test_costs_add_up_only_where_no_stages_ran_at_the_same_time(training_report):
    autoencoder = AUTOENCODER | {"stretches": stretch("10:00", "11:00")}
    report = training_report | {"autoencoder": autoencoder, "stretches": stretch("11:00", "12:00")}
    card = card_of(report)
    assert row(card, "all stages")[4:] == ["0.3 kWh", "15 g"]
    assert "upper bound" not in card
    card = card_of(report | {"stretches": stretch("10:30", "12:00")})
    assert row(card, "all stages")[4:] == ["≤ 0.3 kWh", "≤ 15 g"]
    assert "Some stages ran at the same time" in card
    process = "codecarbon 3.3.2, offline tracker, CPU time of this process at the rated power"
    alone = {"co2_source": process, "stretches": stretch("10:30", "12:00"), "autoencoder": autoencoder}
    alone["autoencoder"] = autoencoder | {"co2_source": process}
    assert row(card_of(report | alone), "all stages")[4:] == ["0.3 kWh", "15 g"]
    noted = card_of(report, statements=replace(STATEMENTS, cost_note="Metered at the wall."))
    assert "Metered at the wall." in noted.split("## Environmental Impact")[1]
    assert metadata(noted)["co2_eq_emissions"]["source"].endswith("; Metered at the wall.")


REFINED = AUTOENCODER | {
    "arguments": {
        "preset": "small", "latent_channels": 4, "downsample_factor": 8, "kl_weight": 1e-6, "decoder_only": True,
        "pretrained": "runs/secret/autoencoder", "learning_rate": 2e-4,
    },
    "images_seen": 6_000,
    "energy_kwh": 0.1,
    "co2_kg": 0.005,
    "pretrained": AUTOENCODER,
}  # fmt: skip


def test_stages_of_the_autoencoder_are_numbered(training_report):
    card = card_of(training_report | {"autoencoder": REFINED})
    assert row(card, "autoencoder, stage 1 of 2")[1] == "24,000"
    assert row(card, "autoencoder, stage 2 of 2")[1] == "6,000"
    assert row(card, "all stages")[1:2] + row(card, "all stages")[4:] == ["34,800", "≤ 0.4 kWh", "≤ 20 g"]
    assert "training of autoencoder (2 stages) and text-to-image model" in metadata(card)["co2_eq_emissions"]["source"]


def test_arguments_that_a_pretrained_autoencoder_overrides_are_not_hyperparameters(training_report):
    card = card_of(training_report | {"autoencoder": REFINED})
    details = card.split("Autoencoder, stage 2 of 2: all hyperparameters")[1].split("</details>")[0]
    for name in ("preset", "latent_channels", "downsample_factor", "kl_weight"):
        assert f"`{name}`" not in details
    assert row(details, "`learning_rate`")[1] == "0.0002"
    assert row(details, "`pretrained`")[1] == "the stage before"
    assert "4 latent channels; downsampling by 2" in card  # as the configuration has it


def test_cost_of_one_run_is_not_called_that_of_both(training_report):
    card = card_of(training_report | {"autoencoder": None})
    assert "| all stages |" not in card
    assert "nor is the autoencoder, whose training report was not available" in card
    unmeasured = AUTOENCODER | {"co2_kg": "not measured", "energy_kwh": "not measured"}
    card = card_of(training_report | {"autoencoder": unmeasured})
    assert row(card, "all stages")[3:] == ["2.00", "not measured", "not measured"]
    assert "co2_eq_emissions" not in metadata(card)
    assert training_costs(parse_training_record(training_report)).total.grams == 12.5


def test_digest_that_cannot_be_recomputed_is_called_so(training_report):
    assert "found equal to those in `training_report.json` (`identity.vae`)" in card_of(training_report)
    assert "cannot be recomputed" in card_of(training_report, verified=())


# --- the Hub's rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"license": "Unlicense"}, "is not an identifier"),
        ({"license": "other"}, "license_name"),
        ({"license": "other", "license_name": "My Licence"}, "lower case"),
        ({"license_link": "https://example.org"}, "license other only"),
        ({"language": "English"}, "ISO 639"),
        ({"base_model": ["/home/me/vae"]}, "is not an id on the Hub"),
        ({"datasets": ["my animals"]}, "is not an id on the Hub"),
        ({"pipeline_tag": "image-to-image"}, "text-to-image"),
        ({"co2_eq_emissions": {"emissions": "12 g"}}, "number of grams"),
        ({"widget": [{"text": "a zebra", "output": {"url": "samples/none.png"}}]}, "does not exist"),
        ({"tags": [1]}, "tags must be strings"),
    ],
)
def test_rules_of_the_hub(training_report, folder, broken, message):
    card = card_of(training_report)
    body = card.split("\n---\n", 1)[1]
    text = f"---\n{yaml.dump(metadata(card) | broken, sort_keys=False).strip()}\n---\n{body}"
    with pytest.raises(InputError, match=message):
        check_card(str(ModelCard(text)), "model", folder)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"sdk": "streamlit"}, "sdk must be gradio"),
        ({"sdk_version": ">=6"}, "a release such as"),
        ({"sdk_version": None}, "a release such as"),
        ({"colorFrom": "orange"}, "colorFrom must be one of red"),
        ({"emoji": "zebra"}, "a single emoji"),
        ({"title": ""}, "needs a title"),
        ({"short_description": "x" * 61}, "60 characters"),
        ({"app_file": "main.py"}, "app_file must be a file"),
        ({"python_version": "2.7"}, "release of Python 3"),
        ({"pinned": "no"}, "pinned must be true or false"),
        ({"license": "Public domain"}, "is not an identifier"),
        ({"models": ["/home/me/model"]}, "is not an id on the Hub"),
    ],
)
def test_rules_of_the_hub_for_spaces(tmp_path, broken, message):
    (tmp_path / "app.py").write_text("")
    card = space_card("user/my_model", "unlicense", "6.1.0")
    check_card(card, "space", tmp_path)
    body = card.split("\n---\n", 1)[1]
    text = f"---\n{yaml.dump(metadata(card) | broken, sort_keys=False, allow_unicode=True).strip()}\n---\n{body}"
    with pytest.raises(InputError, match=message):
        check_card(str(SpaceCard(text)), "space", tmp_path)


def test_images_must_exist(training_report, evaluation, folder):
    (folder / "evaluation/squeezenet/samples.webp").unlink()
    with pytest.raises(InputError, match=r"squeezenet/samples\.webp, which does not exist"):
        check_card(card_of(training_report, [evaluation]), "model", folder)


def test_dataset_card(folder):
    (folder / "contact_sheet.jpg").write_bytes(b"picture")
    card = "---\nlicense: cc-by-4.0\nsize_categories:\n- n<1K\n---\n\n# Photos\n\n![Some](contact_sheet.jpg)\n"
    check_card(card, "dataset", folder)
    assert DatasetCard(card).data.license == "cc-by-4.0"
    with pytest.raises(InputError, match="size_categories"):
        check_card(card.replace("n<1K", "small"), "dataset", folder)
    with pytest.raises(InputError, match="begin with its metadata"):
        check_card("# Photos\n", "dataset", folder)
