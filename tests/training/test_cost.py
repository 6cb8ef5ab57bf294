import json
from datetime import datetime
from pathlib import Path

import pytest

from animal_ldm.errors import InputError
from animal_ldm.training import cost
from animal_ldm.training.cost import WHOLE_MACHINE, Meter, autoencoder_record

REPORT = {
    "arguments": {"image_size": 128},
    "identity": {},
    "images_seen": 480,
    "scaling_factor": 1.0,
    "wall_time_seconds": 12.5,
    "energy_kwh": 0.25,
    "co2_kg": 0.125,
    "co2_source": "codecarbon",
    "hardware": {"cpu": "one"},
    "history": [
        {"images_seen": 240, "validation/psnr": 18.0, "validation/lpips_squeeze": 0.5, "validation/images": 256},
        {"images_seen": 480, "validation/psnr": 21.0, "validation/latent_std": 2.0, "validation/images": 1335},
        {"images_seen": 480, "train/loss": 0.5},
    ],
}


@pytest.fixture
def autoencoder(tmp_path) -> Path:
    (tmp_path / "vae").mkdir()
    (tmp_path / "training_report.json").write_text(json.dumps(REPORT))
    return tmp_path


def test_autoencoders_cost_and_last_figures_are_taken_over(autoencoder):
    record = autoencoder_record(str(autoencoder))
    assert record["validation"] == {"psnr": 21.0, "lpips_squeeze": None, "images": 1335}
    taken = ("wall_time_seconds", "energy_kwh", "co2_kg", "co2_source", "images_seen", "hardware", "arguments")
    assert {name: record[name] for name in taken} == {name: REPORT[name] for name in taken}
    assert "history" not in record
    assert autoencoder_record(str(autoencoder / "vae")) == record


def test_of_a_chain_of_autoencoders_each_is_remembered(autoencoder):
    before = autoencoder_record(str(autoencoder))
    assert "pretrained" not in before
    (autoencoder / "training_report.json").write_text(json.dumps({**REPORT, "images_seen": 7, "pretrained": before}))
    record = autoencoder_record(str(autoencoder))
    assert (record["images_seen"], record["pretrained"]) == (7, before)
    assert (record["stage"], before["stage"]) == (2, 1)


def test_stages_recorded_by_earlier_versions_are_counted(autoencoder):
    first = {"images_seen": 1}
    second = {"images_seen": 2, "pretrained": first}
    (autoencoder / "training_report.json").write_text(json.dumps({**REPORT, "pretrained": second}))
    record = autoencoder_record(str(autoencoder))
    assert record["stage"] == 3 and record["pretrained"] == second


def test_energy_is_that_of_this_process_and_each_stretch_says_when():
    meter = Meter("FRA")
    meter.images_seen = 8
    resumed = Meter("FRA")
    resumed.load_state_dict(meter.state_dict())
    report = resumed.report()
    assert report["energy_kwh"] > 0 and report["co2_kg"] > 0
    assert [stretch["to_image"] for stretch in report["stretches"]] == [8, 8]
    for stretch in report["stretches"]:
        assert datetime.fromisoformat(stretch["started"]) <= datetime.fromisoformat(stretch["ended"])
        assert "of this process" in stretch["metered"]
    assert report["co2_source"].endswith(f"offline tracker, {resumed.metered}")


def test_stretches_of_earlier_versions_were_metered_by_the_machine():
    old = {"from_image": 0, "to_image": 8, "seconds": 1.0, "energy_kwh": 0.5, "co2_kg": 0.25}
    meter = Meter("FRA")
    meter.load_state_dict({"stretches": [old]})
    assert meter.report()["co2_source"].endswith(f"{WHOLE_MACHINE}; {meter.metered}")
    assert meter.report()["energy_kwh"] > 0.5


def test_several_processes_are_metered_by_the_machine():
    assert Meter("FRA", processes=2).metered == WHOLE_MACHINE


def test_machines_of_a_run_are_summed(monkeypatch):
    """This process and three of another machine, one of which has a meter."""
    meter = Meter("FRA", processes=4)
    monkeypatch.setattr(cost, "gather_object", lambda own: [*own, None, (2.0, 0.5), None])
    meter.gather(process=0)
    meter.gather(process=0)  # each time anew
    report = meter.report()
    assert 2.0 < report["energy_kwh"] < 2.5 and 0.5 < report["co2_kg"] < 0.6
    assert report["co2_source"].endswith(f"{WHOLE_MACHINE}, of 2 machines")
    resumed = Meter("FRA", processes=4)
    resumed.load_state_dict(meter.state_dict())
    assert 2.0 < resumed.report()["energy_kwh"] < 2.5  # those of the next stretch are gathered anew


def test_unknown_countries_are_refused():
    for country in ("XYZ", "fra"):
        with pytest.raises(InputError, match=f"--country {country}: no carbon intensity"):
            Meter(country)


def test_without_a_country_energy_is_not_measured():
    report = Meter(None).report()
    assert report["wall_time_seconds"] >= 0
    assert report["energy_kwh"] == report["co2_kg"] == report["co2_source"] == "not measured"


def test_a_pipelines_autoencoder_is_not_charged_with_the_pipelines_own_cost(autoencoder):
    (autoencoder / "model_index.json").write_text("{}")
    assert autoencoder_record(str(autoencoder)) is None
    (autoencoder / "training_report.json").write_text(json.dumps({**REPORT, "autoencoder": {"images_seen": 7}}))
    assert autoencoder_record(str(autoencoder)) == {"images_seen": 7}


def test_an_autoencoder_of_others_has_no_record(tmp_path):
    assert autoencoder_record("stabilityai/sd-vae-ft-mse") is None
    (tmp_path / "vae").mkdir()
    assert autoencoder_record(str(tmp_path)) is None
