"""The budget, the state of a run, what it notices, and what it says at the end."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import animal_ldm
from animal_ldm.commands.run import main
from animal_ldm.errors import InputError
from animal_ldm.evaluation.results import AutoencoderResult, read_results
from animal_ldm.workflow import run
from animal_ldm.workflow.clock import Clock, RunState, StageState
from animal_ldm.workflow.job import Job
from animal_ldm.workflow.measuring import tune_the_guidance
from animal_ldm.workflow.run import Plan, check_changes, settings_for
from animal_ldm.workflow.settings import SHARES
from animal_ldm.workflow.stages import STAGES, autoencoder_of, harm_of_tuning
from animal_ldm.workflow.survey import Survey
from animal_ldm.workflow.verdict import of_gap, of_photos, of_results, of_training, of_tuning
from tests.data.photos_on_disk import write_photos
from tests.training.conftest import write_split
from tests.workflow.test_settings import SETTINGS

PHOTOS = Survey(20, {"cat": 20}, captioned=0, short_side=200, fingerprint="now")


def test_time_is_counted_per_stage_and_over_all_starts(tmp_path):
    state = RunState(stages={"prepare": StageState(seconds=10.0, done=True), "card": StageState()})
    for _ in range(2):
        with Clock(state, tmp_path, minutes=1, already=1.0) as clock:
            clock.work_on("card")
            time.sleep(0.05)
            clock.work_on(None)
        state = RunState.read(tmp_path)
    assert 0.1 <= state.stages["card"].seconds < 5 and state.stages["prepare"].seconds == 10
    assert 2 <= state.other_seconds < 7
    assert clock.left == pytest.approx(60 - state.seconds, abs=1)


def test_a_run_goes_on_beyond_its_time(tmp_path):
    state = RunState(other_seconds=500.0)
    with Clock(state, tmp_path, minutes=1, already=0.0) as clock:
        assert clock.left < -400
        clock.bar.refresh()


def test_the_clock_does_not_hide_why_a_run_stopped(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    with (
        pytest.raises(InputError, match="the disk is full"),
        Clock(RunState(), folder, minutes=1, already=0.0) as clock,
    ):
        clock.folder = tmp_path / "out" / "state.json"  # cannot be written: its folder is a file
        clock.folder.write_text("{}")
        raise InputError("the disk is full")


def begun(folder: Path, **changes) -> tuple[Plan, RunState]:
    """A plan for a run whose stages are all finished; `changes` are of its settings since."""
    state = RunState(fingerprint="now", stages={stage.name: StageState(done=True) for stage in STAGES})
    for stage in STAGES:
        state.stages[stage.name].settings = settings_for(stage, SETTINGS)
        (folder / stage.folder).mkdir()
    return Plan(dataclasses.replace(SETTINGS, **changes), [], PHOTOS, state), state


def test_a_changed_setting_is_noticed_and_redoes_its_stage_and_those_after_it(tmp_path):
    plan, state = begun(tmp_path, learning_rate=1.0)
    with pytest.raises(InputError, match=r"learning_rate \(was 0.0005, is 1.0\).*--changed redo"):
        check_changes(plan, state, tmp_path, "stop")
    check_changes(plan, state, tmp_path, "keep")
    assert len(state.stages) == len(STAGES)
    check_changes(plan, state, tmp_path, "redo")
    assert sorted(state.stages) == ["autoencoder", "prepare"]
    assert (tmp_path / "data").is_dir() and not (tmp_path / "model").exists()


def test_changed_photos_are_noticed(tmp_path):
    plan, state = begun(tmp_path)
    check_changes(plan, state, tmp_path, "stop")
    state.fingerprint = "before"
    with pytest.raises(InputError, match="the photos in photos"):
        check_changes(plan, state, tmp_path, "stop")
    check_changes(plan, state, tmp_path, "keep")
    check_changes(plan, state, tmp_path, "stop")  # what is kept is not asked about again
    state.fingerprint = "before"
    check_changes(plan, state, tmp_path, "redo")
    assert not state.stages and not (tmp_path / "data").exists()


def test_more_minutes_and_another_place_to_publish_redo_nothing(tmp_path):
    plan, state = begun(tmp_path, minutes=90.0, push="user/name", shares=SHARES | {"evaluation": 30.0})
    check_changes(plan, state, tmp_path, "stop")


@pytest.mark.parametrize(
    "losses, said",
    [
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], "still fell"),
        ([1.0, 0.5, 0.4, 0.4, 0.4, 0.4], "is level"),
        ([1.0, 0.5, 0.4, 0.5, 0.6, 0.7], "by heart. More photos"),
        ([1.0, 0.5], "too few to tell"),
    ],
)
def test_advice_follows_from_the_validation_loss(losses, said):
    history = [{"images_seen": 100 * i, "validation/loss": loss} for i, loss in enumerate(losses, 1)]
    report = {"history": history, "images_seen": 100 * len(losses), "training_photos": 50}
    assert said in " ".join(of_training(report))


@pytest.mark.parametrize("train, widens", [([0.5, 0.45, 0.40], True), ([0.5, 0.49, 0.485], False), ([], False)])
def test_losses_that_part_ask_for_more_photos(train, widens):
    history = [{"images_seen": 100 * i, "train/loss": loss} for i, loss in enumerate(train, 1)]
    history += [{"images_seen": 100 * i, "validation/loss": loss} for i, loss in enumerate([0.5, 0.49, 0.485], 1)]
    said = [*of_gap({"history": history, "images_seen": 300})]
    assert bool(said) == widens
    assert not said or ("from 0.4500 to 0.4000" in said[0] and "More photos" in said[0])


@pytest.mark.parametrize("probe, said", [(0.5, True), (0.85, False), (None, False)])
def test_an_autoencoder_that_loses_the_classes_is_named(probe, said):
    results = read_results(Path(__file__).parents[2] / "models/animal-ldm-128/evaluation/squeezenet/results.json")
    autoencoder = AutoencoderResult(50, 20.0, None, 1.0, 0.1, probe, probe and 0.9, seed=1, note=None)
    lines = [*of_results(dataclasses.replace(results, autoencoder=autoencoder))]
    assert any("reconstructions, of 90% of the photos" in line for line in lines) == said


@pytest.mark.parametrize(
    "lpips, worse", [([0.20, 0.21], True), ([0.20, 0.19], False), ([0.2], False), ([None] * 2, False)]
)
def test_an_autoencoder_that_tuning_made_worse_is_used_as_it_was(tmp_path, lpips, worse):
    settings = dataclasses.replace(SETTINGS, autoencoder_training="tune")
    job = Job(settings, tmp_path, 1.0, {}, lambda: None)
    history = [{"images_seen": 40 * i, "validation/lpips_squeeze": value} for i, value in enumerate(lpips, 1)]
    job.autoencoder.mkdir()
    (job.autoencoder / "training_report.json").write_text(json.dumps({"history": history, "images_seen": 80}))
    assert autoencoder_of(job) == (SETTINGS.autoencoder if worse else str(job.autoencoder))
    state = RunState(stages={"autoencoder": StageState(facts={"harm": harm_of_tuning(job)} if worse else {})})
    assert any("from 0.2000 to 0.2100" in line for line in of_tuning(settings, state)) == worse


def test_small_classes_and_skipped_photos_are_named():
    facts = {"train": 44, "validation": 4, "classes": {"cat": 40, "dog": 4}, "skipped": {"too_small": 12}}
    said = " ".join(of_photos(RunState(stages={"prepare": StageState(facts=facts)})))
    assert "'dog' has 4 training photos, 'cat' 40" in said and "20% of the photos were skipped" in said


def test_a_folder_with_other_things_is_refused(tmp_path):
    write_photos(tmp_path / "photos" / "cat", 4, 0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear diary")
    with pytest.raises(InputError, match="holds something else"):
        main([str(tmp_path / "photos"), str(tmp_path / "out"), "--minutes", "1"])


def test_dry_run_prints_the_settings_and_writes_nothing(tmp_path, capsys):
    write_photos(tmp_path / "photos" / "cat", 4, 0)
    main([str(tmp_path / "photos"), str(tmp_path / "out"), "--minutes", "1", "--dry_run"])
    printed = capsys.readouterr().out
    assert "image_size            32" in printed and "shorter side of 40 px" in printed
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="--minutes is missing"):
        main([str(tmp_path / "photos"), str(tmp_path / "out")])


@pytest.fixture
def tuning_job(tmp_path, tiny_pipeline_folder) -> Job:
    """A trained model and its photos, before the search for its guidance scale."""
    write_split(tmp_path / "data" / "train", 10, seed=1)
    write_split(tmp_path / "data" / "validation", 6, seed=2)
    shutil.copytree(tiny_pipeline_folder, tmp_path / "model")
    return Job(dataclasses.replace(SETTINGS, tune_guidance=True), tmp_path, 1.0, {}, lambda: None)


def test_without_time_the_guidance_stays_as_it_is_and_the_reason_is_kept(tuning_job):
    before = (tuning_job.model / "model_index.json").read_bytes()
    tune_the_guidance(tuning_job)
    assert "Allow more time" in tuning_job.facts["not_tuned"]
    assert (tuning_job.model / "model_index.json").read_bytes() == before


@pytest.mark.slow
def test_with_time_the_guidance_scale_is_searched(tuning_job):
    tune_the_guidance(dataclasses.replace(tuning_job, seconds=300.0))
    if "Allow more time" in tuning_job.facts.get("not_tuned", ""):
        pytest.skip("this machine is too busy")
    assert "not_tuned" not in tuning_job.facts
    tuned = json.loads((tuning_job.tuning / "tune.json").read_text())
    assert {trial["varied"] for trial in tuned["trials"]} == {"", "guidance_scale"} and tuned["verdict"]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Photos of two classes that are small enough to train on in seconds."""
    write_photos(tmp_path / "photos" / "cat", 80, 0)
    write_photos(tmp_path / "photos" / "dog", 30, 1000)
    return tmp_path / "photos"


@pytest.mark.slow
def test_a_run_killed_anywhere_goes_on_and_ends_in_its_time_with_a_model_and_its_card(photos, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "animal_ldm", "run", str(photos), str(out), "--minutes", "2"]
    root = str(Path(animal_ldm.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "ANIMAL_LDM_CACHE": str(tmp_path / "cache")}
    for stage in ("prepare", "text_to_image", "evaluation"):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        while process.poll() is None and stage not in getattr(RunState.read(out), "stages", {}):
            time.sleep(0.2)
        time.sleep(2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    state = RunState.read(out)
    assert all(state.stages[stage.name].done for stage in STAGES) and state.starts == 4
    assert "animal-ldm generate" in found.stdout and "--push" in found.stdout
    assert (out / "published" / "README.md").is_file()
    measured, results = (out / "evaluation" / "results.json").is_file(), (out / "report.md").read_text()
    assert ("prompt accuracy" if measured else "the time did not suffice") in results and "FID" not in results
    times = [path.stat().st_mtime_ns for path in (out / "model").rglob("*.safetensors")]
    subprocess.run(command, env=environment, check=True)  # all is finished: nothing is made again
    assert times == [path.stat().st_mtime_ns for path in (out / "model").rglob("*.safetensors")]


@pytest.mark.slow
def test_twenty_photos_without_classes_give_a_model_and_say_what_was_not_measured(tmp_path, capsys):
    write_photos(tmp_path / "photos", 20, 0)
    for number in range(20):
        (tmp_path / "photos" / f"{number:03d}.txt").write_text(f"a pattern, number {number}")
    main([str(tmp_path / "photos"), str(tmp_path / "out"), "--minutes", "1"])
    printed = capsys.readouterr().out
    assert "Not measured: 16 training and 4 validation photos are too few" in printed
    assert 'animal-ldm generate "a pattern, number' in printed and "The photos have no class" in printed
    assert json.loads((tmp_path / "out" / "model" / "training_report.json").read_text())["length"]["steps"] > 0
    assert run.LOG in {path.name for path in (tmp_path / "out").iterdir()}
