"""`animal-ldm tune`, on a tiny pipeline, squares of colour and a random network's features."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline

from animal_ldm import AnimalLDMPipeline
from animal_ldm.commands import tune
from animal_ldm.commands.evaluate import EvaluateArguments
from animal_ldm.commands.generate import GenerateArguments
from animal_ldm.digest import pipeline_digest
from animal_ldm.errors import InputError
from animal_ldm.evaluation import tuning
from animal_ldm.evaluation.kernel_distance import kernel_distance, kernel_distance_difference
from animal_ldm.evaluation.tuning_results import Confirmation, Score, Setting, Tuning, conclude, read_search
from animal_ldm.files import write_json
from animal_ldm.loading import store_sampling_defaults
from animal_ldm.pipeline_animal_ldm import SAMPLING_DEFAULTS
from animal_ldm.sampling import Sampling
from animal_ldm.schedulers import SCHEDULERS, schedulers_for
from animal_ldm.training.ema import PowerAverages

TUNED = Sampling(
    num_inference_steps=2,
    guidance_scale=2.0,
    guidance_rescale=0.5,
    guidance_interval=(0.0, 0.5),
    pag_scale=1.5,
    pag_applied_layers=("mid", "up_blocks.0"),
)


@pytest.fixture
def model(tiny_pipeline_folder, tmp_path):
    """A copy of the tiny pipeline that samples in two steps by default, with a training report."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", index | {"sampling_defaults": {"num_inference_steps": 2}})
    digest = pipeline_digest(AnimalLDMPipeline.from_pretrained(folder))
    write_json(folder / "training_report.json", {"digests": {"pipeline": digest}})
    return folder


@pytest.fixture
def run(model, prepared, tiny_resnet, tmp_path):
    """Run `animal-ldm tune` with few values; returns its folder."""

    def call(*options: str):
        main_options = ["--data", str(prepared), "--extractor", str(tiny_resnet), "--out", str(tmp_path / "out")]
        budget = ["-n", "12", "--confirm_number", "14", "--workers", "0", "--device", "cpu", "--max_minutes", "60"]
        values = ["--guidance_scale", "1", "3", "--scheduler", "ddim", "sde_dpm", "--guidance_interval", "0", "1"]
        few = ["--guidance_rescale", "0", "--pag_scale", "0", "2", "--steps", "2", "3"]
        tune.main([str(model), *main_options, *budget, *values, *few, *options])
        return tmp_path / "out"

    return call


def test_search_and_its_record(run, model, capsys):
    out = run("--dry_run")
    found = read_search(out / "tune.json", json_identity(out))
    assert found and found.plan and found.chosen
    tried = [trial.setting for trial in found.trials]
    assert tried[0] == found.default == Setting(num_inference_steps=2, scheduler="DDIMScheduler")
    assert len(set(tried)) == len(tried) <= found.plan.settings
    assert {trial.varied for trial in found.trials[1:]} <= set(tuning.COORDINATES)
    assert all(trial.score.n == 12 for trial in found.trials)
    assert (found.trials[0].score.difference, found.trials[0].score.accuracy_difference) == (0, 0)
    assert found.winner in tried
    assert found.confirmation is None or found.confirmation.winner.n == 14
    for name in ("tune.md", "tune.png", "tune_samples.png"):
        assert (out / name).stat().st_size > 0
    printed = capsys.readouterr().out
    assert found.verdict in printed and "| setting |" in printed


def json_identity(out):
    from animal_ldm.evaluation.results import parse
    from animal_ldm.evaluation.tuning_results import Identity

    return parse(Identity, json.loads((out / "tune.json").read_text())["identity"])


def test_an_interrupted_search_resumes_to_the_same_end(run, monkeypatch, tmp_path):
    whole = json.loads((run("--dry_run") / "tune.json").read_text())
    shutil.rmtree(tmp_path / "out")
    real, calls = tuning.Tuner.score, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(tuning.Tuner, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("--dry_run")
    assert len(json.loads((tmp_path / "out" / "tune.json").read_text())["trials"]) == 2
    resumed = json.loads((run("--dry_run") / "tune.json").read_text())
    for name in ("winner", "chosen", "confirmation"):
        assert resumed[name] == whole[name]
    assert [trial["score"] for trial in resumed["trials"]] == [trial["score"] for trial in whole["trials"]]
    with pytest.raises(InputError, match=r"another search: seed differ.*--out"):
        run("--dry_run", "--seed", "5")


def test_averaged_weights_are_tried_and_leave_the_pipeline_as_it_was(run, model, prepared, tiny_resnet, tmp_path):
    pipeline = AnimalLDMPipeline.from_pretrained(model)
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter.mul_(0.5)
    PowerAverages([(f"unet.{name}", value) for name, value in pipeline.unet.named_parameters()]).save(model, 100)
    before = pipeline_digest(AnimalLDMPipeline.from_pretrained(model))
    found = json.loads((run("--sigma_rel", "0.05", "--guidance_scale", "3") / "tune.json").read_text())
    tried = {trial["setting"]["sigma_rel"]: trial["score"] for trial in found["trials"]}
    assert tried[0.05]["kernel_distance"] != tried[None]["kernel_distance"]
    assert pipeline_digest(AnimalLDMPipeline.from_pretrained(model)) == before
    if found["chosen"]["sigma_rel"]:
        assert (
            AnimalLDMPipeline.from_pretrained(tmp_path / "out" / "model").sampling_defaults["num_inference_steps"] > 0
        )


def test_a_budget_that_does_not_suffice(run):
    with pytest.raises(InputError, match=r"need about .* minutes here, but --max_minutes is 0.0001"):
        run("--max_minutes", "0.0001")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--max_minutes", "0"], "--max_minutes must be greater than 0"),
        (["-n", "3"], "--number must be at least 12"),
        (["--guidance_interval", "0.8", "0.2"], "--guidance_interval must be two fractions"),
        (["--guidance_rescale", "2"], "--guidance_rescale must be from 0 to 1"),
        (["--pag_scale", "-2"], "--pag_scale must be a finite number of at least 0"),
    ],
)
def test_values_out_of_range(run, option, message):
    with pytest.raises(InputError, match=message):
        run(*option)


@pytest.mark.parametrize(
    ("changes", "evaluations"),
    [
        ({}, 20),
        ({"guidance_scale": 1.0}, 10),
        ({"guidance_interval": (0.1, 0.8)}, 17),
        ({"guidance_interval": (0.1, 0.8), "pag_scale": 2.0}, 24),
        ({"guidance_scale": 1.0, "pag_scale": 2.0}, 20),
    ],
)
def test_evaluations_of_the_unet(changes, evaluations):
    assert Setting(scheduler="ddim", num_inference_steps=10, **changes).evaluations == evaluations


def score(difference: float, error: float, accuracy: float = 0.0) -> Score:
    return Score(100, 1.0, difference, error, 0.5, 0.5, accuracy, 0.02)


@pytest.mark.parametrize(
    ("found", "stays", "why"),
    [
        (score(-1.0, 0.1), False, "better than the default beyond the error"),
        (score(-1.0, 0.6), True, "within the error"),
        (score(1.0, 0.1), True, "within the error, or in favour of the default"),
        (score(-1.0, 0.1, accuracy=-0.1), True, "prompt accuracy is lower"),
        (None, True, "no time was left"),
    ],
)
def test_the_winner_becomes_the_default_only_beyond_the_error(found, stays, why):
    default, winner = Setting(scheduler="ddim"), Setting(scheduler="sde_dpm", guidance_scale=2.0)
    search = Tuning.__new__(Tuning)
    search.identity = type("identity", (), {"default": default})()
    search.winner = winner
    search.confirmation = found and Confirmation(score(0, 0), found)
    chosen, verdict = conclude(search)
    assert (chosen == default) == stays
    assert why in verdict


def test_paired_difference_is_that_of_the_distances_with_its_error():
    generator = torch.Generator().manual_seed(0)

    def draw(n, shift=0.0):
        return torch.randn(n, 8, generator=generator) + shift

    differences, errors = [], []
    for _ in range(60):
        noise = draw(80)
        difference, error = kernel_distance_difference(draw(120), noise + 0.4, noise * 1.1 + 0.2)
        differences.append(difference)
        errors.append(error)
    spread = torch.tensor(differences).std().item()
    assert 0.7 * spread < sum(errors) / len(errors) < 1.4 * spread
    real, first, second = draw(60), draw(60, 0.5), draw(60)
    apart = [kernel_distance(real, fake, subsets=1).mean for fake in (first, second)]
    found, error = kernel_distance_difference(real, first, second)
    assert found == pytest.approx(apart[0] - apart[1])
    assert kernel_distance_difference(real, second, first) == pytest.approx((-found, error))
    assert kernel_distance_difference(real, first, first) == (0, 0)
    with pytest.raises(InputError, match="pairs"):
        kernel_distance_difference(real, first, second[:50])


def test_stored_settings_are_what_everything_takes_up(model):
    pipeline = AnimalLDMPipeline.from_pretrained(model)
    euler = schedulers_for(pipeline.scheduler)["euler_ancestral"]
    pipeline.scheduler = euler
    expected = sample(pipeline, **vars(TUNED))
    store_sampling_defaults(model, TUNED, euler)
    stored = AnimalLDMPipeline.from_pretrained(model)
    assert torch.equal(sample(stored), expected)
    assert not torch.equal(sample(stored, guidance_interval=(0.0, 1.0)), expected)
    given = GenerateArguments(prompt="a zebra", guidance_scale=4.0)
    assert given.settings(stored) == replace(TUNED, guidance_scale=4.0)
    assert EvaluateArguments(model="m", data=model).settings(stored) == TUNED
    report = json.loads((model / "training_report.json").read_text())
    assert report["digests"]["pipeline"] == pipeline_digest(stored)


def test_stable_diffusion_loads_a_tuned_folder_with_its_scheduler(model):
    pipeline = AnimalLDMPipeline.from_pretrained(model)
    settings = Sampling(num_inference_steps=2, guidance_scale=2.0)
    store_sampling_defaults(model, settings, schedulers_for(pipeline.scheduler)["sde_dpm"])
    tuned, plain = AnimalLDMPipeline.from_pretrained(model), StableDiffusionPipeline.from_pretrained(model)
    assert torch.equal(sample(plain, num_inference_steps=2, guidance_scale=2.0), sample(tuned))


def sample(pipeline, **settings) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return pipeline("a zebra", generator=generator, output_type="pt", **settings).images


def test_where_nothing_is_stored_the_defaults_stay(tiny_pipeline_folder):
    pipeline = AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder)
    assert pipeline.sampling_defaults == SAMPLING_DEFAULTS == vars(Sampling())
    assert GenerateArguments(prompt="a zebra").settings(pipeline) == Sampling()


def test_every_scheduler_is_found_again_by_its_name(tiny_pipeline_folder):
    own = AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder).scheduler
    for name, scheduler in schedulers_for(own).items():
        again = schedulers_for(scheduler)
        assert next(iter(again)) == name
        assert {*again} - {"DDIMScheduler"} == {*SCHEDULERS}
        assert scheduler.config.prediction_type == own.config.prediction_type
