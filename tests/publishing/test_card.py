"""The model card: numbers only from the reports, the Hub's rules, round trips."""

import copy
import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard, SpaceCard

from animal_ldm.errors import InputError
from animal_ldm.publishing.card import Evaluation, Sample, Statements, model_card, runs, space_card
from animal_ldm.publishing.rules import check_card

from ..test_markdown import HOSTILE

STATEMENTS = Statements(
    repo_id="user/my_model",
    developed_by="A. Person",
    contact="me@example.org",
    language="en",
    license="unlicense",
    license_name=None,
    license_link=None,
    photo_terms="cc-by-4.0",
    dataset="user/animals",
    base_models=("stabilityai/sd-vae-ft-mse",),
    failures=("Giraffes lose their heads.",),
    provider="own machine",
    region="FRA",
)
SAMPLES = [Sample("zebra", "a zebra", "samples/00-zebra.png", 0, 25, 3.0)]
MODEL = {
    "image_size": 16,
    "parameters": {"UNet": 60_000, "text encoder": 5_000, "autoencoder": 15_000},
    "scheduler": "DDIMScheduler",
    "prediction_type": "v_prediction",
}
SECTIONS = """
At a Glance; Model Details; Model Description; Model Sources; Uses; Direct Use; Downstream Use; Out-of-Scope Use;
Bias, Risks, and Limitations; Recommendations; How to Get Started with the Model; Training Details; Training Data;
Training Procedure; Training Hyperparameters; Evaluation; Testing Data; Metrics; Results; Per class; Summary;
Environmental Impact; Technical Specifications; Software; Citation; Model Card Contact
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("samples/00-zebra.png", "evaluation/squeezenet/samples.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"picture")
    return tmp_path


@pytest.fixture
def evaluation(results) -> Evaluation:
    return Evaluation(results, {"evaluation/squeezenet/samples.png": "Samples"})


def card_of(report, evaluations=(), statements=STATEMENTS, samples=SAMPLES) -> str:
    return model_card(statements, report, evaluations, samples, MODEL)


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def row(card: str, start: str) -> list[str]:
    """The cells of the table row that begins with `start`."""
    [line] = [line for line in card.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_sections_of_the_original_card(training_report, evaluation):
    headings = re.findall(r"^#+ (.*)$", card_of(training_report, [evaluation]), re.MULTILINE)
    for section in SECTIONS.replace("\n", " ").split(";"):
        assert section.strip() in headings


def test_every_measured_number_with_its_context(training_report, evaluation):
    card = card_of(training_report, [evaluation])
    for record in evaluation.results["metrics"]:
        name = record["label"]
        cells = row(card, name)
        assert cells[1] == {"lower": "↓", "higher": "↑", "near real photos": "≈"}[record["better"]]
        assert cells[2] == f"{record['value']:.4g} ± {record['std']:.2g}"
        photos = record["real_photos"]
        assert cells[3] == (f"{photos['value']:.4g} (N={photos['n']})" if photos else "not measured")
        same_n = record["same_n"]
        assert cells[4] == (f"{same_n['value']:.4g} ± {same_n['std']:.2g}" if same_n else "")
        assert cells[6] == f"{record['n_generated']:,} / {record['n_real']:,}"
        assert cells[7] == str(record["seed"])
        assert cells[8] == "squeezenet"
        if record["note"]:
            notes = card.split("### Results")[1].splitlines()
            assert any(name in line and record["note"][:20] in line for line in notes)
    assert f"weights `{evaluation.results['extractor']['weights_digest'][:16]}…`" in card
    assert evaluation.results["extractor"]["weights_digest"] in card.split("---\n")[1]
    for found in evaluation.results["per_class"]:
        assert f"{found['recognised']:.0%}" in row(card, found["label"])


def test_baseline_is_marked_as_not_comparable(training_report, evaluation):
    card = card_of(training_report, [evaluation])
    assert row(card.split("### Results")[1], "FID")[5] == "172.5"
    assert row(card, "precision, k=10")[5] == "0.55"
    assert row(card, "recall, k=10")[5] == "0.225"
    assert row(card, "precision, k=3")[5] == ""
    assert row(card, "FD (squeezenet)")[5] == ""  # no FID, so not beside one
    assert "extractor and N not stated. Its numbers are comparable with none below" in card


def test_at_a_glance(training_report, evaluation):
    top = card_of(training_report, [evaluation]).split("## At a Glance")[1].split("\n## ")[0]
    assert "![Samples](evaluation/squeezenet/samples.png)" in top
    [faithfulness] = [record for record in evaluation.results["metrics"] if record["name"] == "faithfulness"]
    shown = row(top, "drawn as asked (higher is better)")
    assert shown[1].startswith(f"{faithfulness['value']:.4g}")
    assert shown[2] == f"{faithfulness['real_photos']['value']:.4g}"
    for name in ("FD (squeezenet)", "precision, k=10", "recall, k=10"):
        assert f"| {name} (" in top
    assert "Nothing was measured" in card_of(training_report).split("## At a Glance")[1].split("\n## ")[0]


def test_what_was_not_measured_is_called_so_with_its_command(training_report, evaluation):
    for card in (card_of(training_report, [evaluation]), card_of(training_report)):
        assert row(card.split("### Results")[1], "FID")[2:4] == ["not measured", "not measured"]
        command = "`animal-ldm evaluate user/my_model --data DATA -n 7500 --extractor inception`"
        assert f"What was not measured here, this measures: {command}" in card
    nothing = card_of(training_report | {"co2_kg": "not measured", "history": []})
    assert row(nothing, "recall, k=10")[2] == "not measured"
    assert row(nothing, "text-to-image model")[-1] == "not measured"
    assert "`--country FRA` (any country's code) of `animal-ldm train`" in nothing
    assert "Validation loss: not measured" in nothing
    assert "co2_eq_emissions" not in metadata(nothing)
    assert "model-index" not in metadata(nothing)


def test_every_hyperparameter_and_no_folder_of_the_machine(training_report):
    card = card_of(training_report)
    for name, value in training_report["arguments"].items():
        assert row(card, f"`{name}`")[1] == {"data": "prepared", "snr_gamma": "none"}.get(name, str(value))
    assert "/home/me" not in card


def test_metadata(training_report, evaluation):
    data = metadata(card_of(training_report, [evaluation]))
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "text-to-image"
    assert data["license"] == "unlicense"
    assert data["datasets"] == ["user/animals"]
    assert data["base_model"] == ["stabilityai/sd-vae-ft-mse"]
    assert data["co2_eq_emissions"]["emissions"] == 12.5  # grams; the report has kilograms
    assert data["widget"][0]["output"]["url"] == "samples/00-zebra.png"


def test_licence_of_ones_own(training_report, folder):
    terms = {"license": "other", "license_name": "be-kind-1.0", "license_link": "https://example.org/be_kind"}
    card = card_of(training_report, statements=replace(STATEMENTS, **terms))
    check_card(card, "model", folder)
    assert terms.items() <= metadata(card).items()
    assert "**Licence:** be-kind-1.0, code and weights (<https://example.org/be_kind>)." in card


def test_weak_classes_are_named(training_report, evaluation):
    found = {"n_generated": 10, "recognised_held_out": 0.9, "mistaken_for": "wolf"}
    per_class = [found | {"label": "lion", "recognised": 0.3}, found | {"label": "zebra", "recognised": 0.85}]
    card = card_of(training_report, [replace(evaluation, results=evaluation.results | {"per_class": per_class})])
    assert "than in held-out photos: lion (30%, photos 90%).\n" in card
    per_class[0]["recognised"] = 0.9
    assert "linear probe recognises" not in card_of(
        training_report, [replace(evaluation, results=evaluation.results | {"per_class": per_class})]
    )


def test_evaluation_results_come_back_from_the_metadata(training_report, evaluation):
    card = ModelCard(card_of(training_report, [evaluation]))
    measured = evaluation.results["metrics"]
    assert len(card.data.eval_results) == len(measured)
    for result, record in zip(card.data.eval_results, measured, strict=True):
        assert result.metric_value == record["value"]
        assert result.metric_args.get("k") == record["k"]
        assert result.metric_args["n_generated"] == record["n_generated"]
        assert result.metric_args["extractor"] == "squeezenet"
        assert "fid" not in result.metric_type


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
        failures=(HOSTILE,),
        provider=HOSTILE,
        region=HOSTILE,
    )
    report = copy.deepcopy(training_report)
    report["classes"] = [HOSTILE]
    report["arguments"]["country"] = HOSTILE
    evaluation.results["data"]["name"], name = HOSTILE, evaluation.results["data"]["name"]
    try:
        card = card_of(report, [evaluation], statements, [replace(SAMPLES[0], label=HOSTILE, prompt=HOSTILE)])
    finally:
        evaluation.results["data"]["name"] = name
    check_card(card, "model", folder)
    body = re.sub(r"(`+) ?.*?\1|\"x \| y.*\"", "", ModelCard(card).text)  # code shows markup as it is
    assert "<script>" not in body.replace(r"\<script\>", "")
    assert "49" not in re.findall(r"Developed by.*", body)[0]
    headings = re.findall(r"^#+ (.*)$", card_of(training_report, [evaluation]), re.MULTILINE)
    assert re.findall(r"^#+ (.*)$", card, re.MULTILINE) == headings
    assert metadata(card).keys() == metadata(card_of(training_report, [evaluation])).keys()


def test_sweep_and_autoencoder_of_the_evaluation(training_report, evaluation):
    points = [{"value": value, "metrics": copy.deepcopy(evaluation.results["metrics"])} for value in (1.0, 3.5)]
    points[1]["metrics"][0]["value"] = 7.125
    reconstructed = {"n": 24, "psnr": 21.5, "lpips": None}
    reconstructed |= {"frechet_distance": 12.5, "recognised": 0.5, "recognised_photos": 0.75}
    measured = {"sweep": {"parameter": "guidance_scale", "points": points}, "autoencoder": reconstructed}
    card = card_of(training_report, [replace(evaluation, results=evaluation.results | measured)])
    table = card.split("#### Along the guidance scale")[1].split("\n\n")[2].splitlines()
    assert table[0] == "| metric | 1 | 3.5 | real photos |"
    assert table[1] == "|---|---:|---:|---:|"
    assert table[2].startswith(f"| FD (squeezenet) | {points[0]['metrics'][0]['value']:.4g} | 7.125 |")
    assert len(table) == 2 + len(points[0]["metrics"])
    assert "on 24 held-out photos: PSNR 21.5 dB, LPIPS not measured, FD (squeezenet) 12.5;" in card
    assert "names 50% of the reconstructions rightly, 75% of the photos" in card


def test_refuses_an_fid_of_other_features(training_report, evaluation):
    wrong = copy.deepcopy(evaluation)
    wrong.results["metrics"][1]["label"] = "FID, N→∞"
    with pytest.raises(InputError, match="only Inception's features give an FID"):
        card_of(training_report, [wrong])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "not measured"])
def test_refuses_numbers_that_are_claimed_and_missing(training_report, evaluation, value):
    wrong = copy.deepcopy(evaluation)
    wrong.results["metrics"][0]["value"] = value
    with pytest.raises(InputError, match="holds no finite number"):
        card_of(training_report, [wrong])


def test_refuses_other_schemas_and_half_reports(training_report, evaluation):
    wrong = replace(evaluation, results=evaluation.results | {"schema_version": 99})
    with pytest.raises(InputError, match="schema version"):
        card_of(training_report, [wrong])
    with pytest.raises(InputError, match="lacks versions"):
        card_of({name: value for name, value in training_report.items() if name != "versions"})


AUTOENCODER = {
    "arguments": {"preset": "tiny"},
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
    assert row(card, "together")[3:] == ["2.00", "0.3 kWh", "15 g"]
    carbon = metadata(card)["co2_eq_emissions"]
    assert carbon["emissions"] == 15  # grams; the reports have kilograms
    assert carbon["source"].endswith("training of text-to-image model and autoencoder")
    assert carbon["hardware_used"] == "A CPU, 4 cores, no GPU; 1 x A GPU"
    assert "PSNR 22.5 dB, LPIPS 0.125" in card
    assert row(card, "`preset`")[1] == "tiny"
    assert "no report of its training" not in card


def test_cost_of_an_autoencoder_trained_in_two_runs(training_report):
    refined = AUTOENCODER | {"images_seen": 6_000, "energy_kwh": 0.1, "co2_kg": 0.005, "pretrained": AUTOENCODER}
    card = card_of(training_report | {"autoencoder": refined})
    assert row(card, "autoencoder")[1] == "6,000" and row(card, "autoencoder, before")[1] == "24,000"
    assert row(card, "together")[1:2] + row(card, "together")[4:] == ["34,800", "0.4 kWh", "20 g"]


def test_cost_of_one_run_is_not_called_that_of_both(training_report):
    card = card_of(training_report | {"autoencoder": None})
    assert "| together |" not in card
    assert "nor is the autoencoder: no report of its training was at hand" in card
    unmeasured = AUTOENCODER | {"co2_kg": "not measured", "energy_kwh": "not measured"}
    card = card_of(training_report | {"autoencoder": unmeasured})
    assert row(card, "together")[3:] == ["2.00", "not measured", "not measured"]
    assert "co2_eq_emissions" not in metadata(card)
    assert runs(training_report)[-1]["grams"] == 12.5


# --- the Hub's rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"license": "Unlicense"}, "is no identifier"),
        ({"license": "other"}, "license_name"),
        ({"license": "other", "license_name": "My Licence"}, "small letters"),
        ({"license_link": "https://example.org"}, "license other alone"),
        ({"language": "English"}, "ISO 639"),
        ({"base_model": ["/home/me/vae"]}, "is no id on the Hub"),
        ({"datasets": ["my animals"]}, "is no id on the Hub"),
        ({"pipeline_tag": "image-to-image"}, "text-to-image"),
        ({"co2_eq_emissions": {"emissions": "12 g"}}, "number of grams"),
        ({"widget": [{"text": "a zebra", "output": {"url": "samples/none.png"}}]}, "is not there"),
        ({"tags": [1]}, "tags must be texts"),
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
        ({"sdk_version": ">=6"}, "one of its releases"),
        ({"sdk_version": None}, "one of its releases"),
        ({"colorFrom": "orange"}, "colorFrom must be one of red"),
        ({"emoji": "zebra"}, "an emoji"),
        ({"title": ""}, "needs a title"),
        ({"short_description": "x" * 61}, "60 characters"),
        ({"app_file": "main.py"}, "app_file must be a file"),
        ({"python_version": "2.7"}, "release of Python 3"),
        ({"pinned": "no"}, "pinned must be true or false"),
        ({"license": "Public domain"}, "is no identifier"),
        ({"models": ["/home/me/model"]}, "is no id on the Hub"),
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


def test_pictures_must_be_there(training_report, evaluation, folder):
    (folder / "evaluation/squeezenet/samples.png").unlink()
    with pytest.raises(InputError, match=r"squeezenet/samples\.png, which is not there"):
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
