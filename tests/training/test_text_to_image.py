"""The whole recipe on real tiny components; the shared fixtures are in conftest.py."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import animal_ldm
from animal_ldm import AnimalLDMPipeline
from animal_ldm.commands import ema
from animal_ldm.data.captions import caption_sources
from animal_ldm.data.prepared import read_metadata
from animal_ldm.data.shards import write_shards
from animal_ldm.digest import encoder_digest, pipeline_digest, weights_digest
from animal_ldm.errors import InputError, MachineError
from animal_ldm.loading import load_pipeline, store_sampling_defaults
from animal_ldm.sampling import Sampling
from animal_ldm.training import run, validation
from animal_ldm.training.arguments import AutoencoderArguments, TrainingArguments
from animal_ldm.training.autoencoder import train as train_autoencoder
from animal_ldm.training.cache import DIGEST
from animal_ldm.training.checkpoints import checkpoint_paths
from animal_ldm.training.execution import Execution
from animal_ldm.training.kinds import Kind, kinds
from animal_ldm.training.text_to_image import train
from animal_ldm.training.validation import sample_grid, save_pipeline
from tests.conftest import held_by_another
from tests.training.conftest import assert_same_weights, weights_of, write_split

ROOT = Path(animal_ldm.__file__).parent.parent


@pytest.fixture
def arguments(prepared, parts, tmp_path) -> TrainingArguments:
    """Three steps an epoch; dropout on, so that its randomness is tested too."""
    return TrainingArguments(
        data=prepared,
        output_dir=str(tmp_path / "model"),
        vae=parts["vae"],
        text_encoder="scratch",
        unet=parts["unet_scratch"],
        image_size=16,
        num_epochs=2,
        batch_size=8,
        learning_rate=1e-3,
        num_warmup_steps=2,
        dropout=0.1,
        validate_every=24,
        checkpoint_every=24,
        samples_per_class=2,
        num_inference_steps=2,
        report_to="none",
        cache_dir=str(tmp_path / "cache"),
    )


def flags(arguments: TrainingArguments) -> list[str]:
    """The command line for these arguments."""
    given = []
    for name, value in dataclasses.asdict(arguments).items():
        if isinstance(value, bool):
            given.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, tuple):
            given += [f"--{name}", *map(str, value)]
        elif value is not None:
            given += [f"--{name}", str(value)]
    return given


def history(arguments: TrainingArguments | AutoencoderArguments, name: str) -> list[float]:
    report = json.loads(Path(arguments.output_dir, "training_report.json").read_text())
    return [entry[name] for entry in report["history"] if name in entry]


def test_result_is_a_pipeline_that_plain_stable_diffusion_loads_too(arguments, library_warnings):
    train(arguments)
    assert not any(
        "float32" in message for message in library_warnings()
    )  # where a plain `to` is used, diffusers warns
    ours = AnimalLDMPipeline.from_pretrained(arguments.output_dir)
    plain = StableDiffusionPipeline.from_pretrained(arguments.output_dir)
    assert ours.classes == ["lion", "zebra"]
    images = [
        np.asarray(
            pipeline(
                "a zebra",
                num_inference_steps=3,
                guidance_scale=3.0,
                generator=torch.Generator().manual_seed(0),
                output_type="np",
            ).images
        )
        for pipeline in (ours, plain)
    ]
    assert np.array_equal(*images)
    grid = Image.open(Path(arguments.output_dir, "samples", "samples-0000000048.png"))
    assert grid.size == (2 * 16, 2 * 16)


def test_half_precision_weights_halve_the_file_and_load_as_float32(arguments, tmp_path):
    train(arguments)
    half = dataclasses.replace(arguments, output_dir=str(tmp_path / "half"), save_dtype="float16")
    train(half)
    whole, saved = AnimalLDMPipeline.from_pretrained(arguments.output_dir), Path(half.output_dir)
    halved = AnimalLDMPipeline.from_pretrained(saved)
    assert {tensor.dtype for tensor in weights_of(saved, "unet").values()} == {torch.float16}
    assert halved.unet.dtype == halved.vae.dtype == halved.text_encoder.dtype == torch.float32
    assert halved.classes == whole.classes
    for name, weight in halved.unet.state_dict().items():
        assert torch.equal(weight, whole.unet.state_dict()[name].half().float())
    halved("a zebra", num_inference_steps=1)


def test_report_says_what_was_done(arguments):
    train(arguments)
    report = json.loads(Path(arguments.output_dir, "training_report.json").read_text())
    assert report["images_seen"] == 48 and report["training_photos"] == 24
    assert report["arguments"]["batch_size"] == 8 and report["identity"]["seed"] == arguments.seed
    assert report["wall_time_seconds"] > 0 and report["co2_kg"] == report["energy_kwh"] == "not measured"
    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert report["hardware"]["processes"] == 1
    assert report["execution"] == dataclasses.asdict(Execution())
    assert report["arguments"]["mixed_precision"] == "no"  # what "auto" chose
    assert report["autoencoder"] is None
    assert "Finished after 48 images" in Path(arguments.output_dir, "training.html").read_text()


def test_trackers_get_the_arguments_and_the_images(arguments):
    train(dataclasses.replace(arguments, num_epochs=1, report_to="tensorboard"))
    logs = Path(arguments.output_dir, "logs", "animal-ldm")
    (settings,) = logs.glob("*/hparams.yml")
    assert yaml.safe_load(settings.read_text())["learning_rate"] == 1e-3
    events = EventAccumulator(str(logs), {"images": 0}).Reload()
    assert events.Scalars("validation/loss")[0].step == 24 and events.Images("samples")[0].step == 24


def test_trackio_gets_the_name_of_the_run_and_its_images(arguments, monkeypatch, tmp_path):
    trackio = pytest.importorskip("trackio", reason="no trackio: pip install trackio")
    logged = {}
    monkeypatch.setattr(trackio.Run, "log", lambda self, values, step=None: logged.update(values, run=self))
    train(dataclasses.replace(arguments, num_epochs=1, report_to="trackio"))
    assert (logged["run"].project, logged["run"].name) == ("animal-ldm", "model")
    assert isinstance(logged["samples"], trackio.Image)


def test_page_is_written_at_every_validation(arguments, monkeypatch):
    written = []
    monkeypatch.setattr(run, "write_page", lambda report, total, _: written.append((report["images_seen"], total)))
    train(dataclasses.replace(arguments, validate_every=16))
    assert written == [(16, 48), (32, 48), (48, 48), (48, 48)]  # once more with the final report


def test_captions_that_say_more_than_the_class(arguments, tmp_path):
    """Rows of the grid, words in the pipeline's config, and what the report tells the card and the demo."""
    data = shutil.copytree(arguments.data, tmp_path / "data")
    for split in ("train", "validation"):
        lines = [json.loads(line) for line in (data / split / "metadata.jsonl").read_text().splitlines()]
        for number, line in enumerate(lines):
            line["texts"] = [line["text"], f"an orange {line['label']} on a green background, number {number}"]
        (data / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "prompts.txt").write_text("two zebras\n\n a lion at night\n")
    own = dataclasses.replace(
        arguments, data=str(data), validation_prompts=str(tmp_path / "prompts.txt"), num_epochs=1
    )
    train(own)
    # two classes; four captions of the validation photos and two prompts of one's own, each below a line of text
    grid = Image.open(Path(own.output_dir, "samples", "samples-0000000024.png"))
    assert grid.size == (2 * 16, 2 * 16 + 6 * (16 + 18))
    pipeline = AnimalLDMPipeline.from_pretrained(own.output_dir)
    assert pipeline.unknown_words("two orange lions on a mat, number 7") == ["two", "mat"]
    captions = json.loads(Path(own.output_dir, "training_report.json").read_text())["captions"]
    assert captions["sources"] == {"template": 24, "own": 24}
    assert captions["words"] == {"background": ["green"], "colour": ["orange"]}
    assert len(set(captions["examples"])) == 4 and all("on a green" in text for text in captions["examples"])


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), ("\n \n", "holds no prompt")])
def test_prompts_of_ones_own_that_cannot_be_used(arguments, tmp_path, content, message):
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=f"--validation_prompts.*{message}"):
        train(dataclasses.replace(arguments, validation_prompts=str(file)))


def test_report_takes_facts_of_the_networks_from_the_networks(arguments):
    train(arguments)
    report = json.loads(Path(arguments.output_dir, "training_report.json").read_text())
    pipeline = AnimalLDMPipeline.from_pretrained(arguments.output_dir)
    facts = report["architecture"]
    assert facts["unet"]["block_out_channels"] == [8, 16] and facts["unet"]["sample_size"] == 8
    assert facts["autoencoder"]["latent_channels"] == 4 and facts["autoencoder"]["downsample_factor"] == 2
    assert facts["text_encoder"]["hidden_size"] == 128
    for name, component in (("unet", "unet"), ("autoencoder", "vae"), ("text_encoder", "text_encoder")):
        assert facts[name]["parameters"] == getattr(pipeline, component).num_parameters()


@pytest.mark.parametrize("save_dtype", ["float32", "float16"])
def test_a_reader_can_compute_the_digests_of_the_report(arguments, save_dtype):
    train(dataclasses.replace(arguments, num_epochs=0.3, save_dtype=save_dtype))
    report = json.loads(Path(arguments.output_dir, "training_report.json").read_text())
    pipeline = AnimalLDMPipeline.from_pretrained(arguments.output_dir)
    assert report["digests"] == {"encoder": encoder_digest(pipeline.vae), "pipeline": pipeline_digest(pipeline)}
    assert report["identity"]["vae"] == encoder_digest(AutoencoderKL.from_pretrained(arguments.vae))
    assert (report["identity"]["vae"] == report["digests"]["encoder"]) == (save_dtype == "float32")
    assert set(report["digest_notes"]) == {"identity.data", "identity.vae", "digests.encoder", "digests.pipeline"}


def test_report_takes_over_what_its_autoencoder_cost(arguments, tmp_path):
    autoencoder = AutoencoderArguments(
        data=arguments.data,
        output_dir=str(tmp_path / "autoencoder"),
        image_size=16,
        preset="tiny",
        downsample_factor=2,
        num_epochs=0.5,
        batch_size=4,
        perceptual_weight=0.0,
        report_to="none",
        cache_dir=arguments.cache_dir,
    )
    train_autoencoder(autoencoder)
    train(dataclasses.replace(arguments, vae=autoencoder.output_dir, num_epochs=0.3))
    made = json.loads(Path(autoencoder.output_dir, "training_report.json").read_text())
    record = json.loads(Path(arguments.output_dir, "training_report.json").read_text())["autoencoder"]
    assert record["images_seen"] == 12 and record["arguments"]["preset"] == "tiny"
    assert record["wall_time_seconds"] == made["wall_time_seconds"] > 0
    assert [record["validation"]["psnr"]] == history(autoencoder, "validation/psnr")


def test_it_learns(arguments):
    train(dataclasses.replace(arguments, num_epochs=40, learning_rate=3e-3, validate_every=240, dropout=0.0))
    losses = history(arguments, "validation/loss")
    assert losses[-1] < 0.8 * losses[0]


def test_frozen_text_encoder_is_published_as_it_was(arguments, parts):
    train(dataclasses.replace(arguments, text_encoder=parts["text_encoder"], unet=parts["unet"]))
    given = weights_of(Path(parts["text_encoder"]).parent, "text")
    published = weights_of(arguments.output_dir, "text_encoder")
    assert all(torch.equal(given[name], published[name]) for name in given)
    assert AnimalLDMPipeline.from_pretrained(arguments.output_dir).tokenizer.model_max_length == 24


def test_text_encoder_from_scratch_is_trained_jointly(arguments):
    train(dataclasses.replace(arguments, num_epochs=0.3, ema_half_life=1e-6))
    before = weights_of(arguments.output_dir, "text_encoder")
    later = dataclasses.replace(arguments, output_dir=arguments.output_dir + "-later", ema_half_life=1e-6)
    train(later)
    after = weights_of(later.output_dir, "text_encoder")
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_resumed_run_equals_one_in_a_single_stretch(arguments, tmp_path):
    whole = dataclasses.replace(arguments, output_dir=str(tmp_path / "whole"))
    train(whole)
    train(dataclasses.replace(arguments, num_epochs=1))
    train(dataclasses.replace(arguments, resume=True))
    for component in ("unet", "text_encoder"):
        assert_same_weights(whole.output_dir, arguments.output_dir, component)


@pytest.mark.slow
def test_a_run_with_minutes_ends_in_time_and_keeps_its_length_when_resumed(arguments, tmp_path):
    timed = dataclasses.replace(
        arguments, max_minutes=0.2, lr_schedule="cosine", num_warmup_steps=1000, checkpoint_every=80,
        checkpoints_total_limit=10_000,
        validate_every=10**6,
    )  # fmt: skip
    start = time.perf_counter()
    train(timed)
    assert time.perf_counter() - start < 40  # of 12 seconds, on a busy machine
    report = json.loads(Path(timed.output_dir, "training_report.json").read_text())
    length = report["length"]
    assert report["images_seen"] == 8 * length["steps"]
    assert report["arguments"]["num_epochs"] == pytest.approx(report["images_seen"] / 24)
    # one break while it was timed, and those of its length
    assert length["breaks"] <= len(history(timed, "validation/loss")) <= length["breaks"] + 2
    checkpoints = sorted(Path(timed.output_dir, "checkpoints").iterdir())
    assert (
        torch.load(checkpoints[-1])["states"]["lr_scheduler"]["_last_lr"][0] < 1e-9
    )  # the cosine has come to its end
    shutil.copytree(timed.output_dir, tmp_path / "whole")
    fixed = [path for path in checkpoints if torch.load(path)["states"]["run"]["length"]]
    for path in fixed[1:]:
        path.unlink()
    train(dataclasses.replace(timed, resume=True, max_minutes=50.0))
    assert json.loads(Path(timed.output_dir, "training_report.json").read_text())["length"] == length
    assert_same_weights(tmp_path / "whole", timed.output_dir, "unet")


@pytest.mark.slow
def test_a_run_that_adjusts_its_length_takes_the_minutes_of_the_start_that_resumes_it(arguments):
    timed = dataclasses.replace(
        arguments, max_minutes=0.2, lr_schedule="cosine", adjust_length=True, checkpoints_total_limit=10_000,
    )  # fmt: skip
    train(timed)
    report = Path(timed.output_dir, "training_report.json")
    before = json.loads(report.read_text())
    start = time.perf_counter()
    train(dataclasses.replace(timed, resume=True, max_minutes=0.2))
    after = json.loads(report.read_text())
    assert time.perf_counter() - start < 40  # of 12 seconds, on a busy machine
    assert after["images_seen"] == 8 * after["length"]["steps"] > before["images_seen"]
    newest = sorted(Path(timed.output_dir, "checkpoints").iterdir())[-1]
    assert torch.load(newest)["states"]["lr_scheduler"]["_last_lr"][0] < 1e-9  # the cosine was stretched


def test_snapshots_survive_a_resume_and_give_a_pipeline(arguments, tmp_path):
    kept = dataclasses.replace(arguments, ema_snapshots_every=8)
    whole = dataclasses.replace(kept, output_dir=str(tmp_path / "whole"))
    train(whole)
    train(dataclasses.replace(kept, num_epochs=1))
    train(dataclasses.replace(kept, resume=True))
    snapshots = sorted(Path(whole.output_dir, "ema_snapshots").iterdir())
    assert len(snapshots) == 2 * 6
    for path in snapshots:
        mine, other = load_file(path), load_file(Path(kept.output_dir, "ema_snapshots", path.name))
        assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())

    ema.main([whole.output_dir, "--sigma_rel", "0.1", "--out", str(tmp_path / "averaged")])
    averaged, last = weights_of(tmp_path / "averaged", "unet"), load_file(snapshots[-1])
    assert {name.partition(".")[0] for name in last} == {"unet", "text_encoder"}
    for name, tensor in averaged.items():
        torch.testing.assert_close(tensor, last[f"unet.{name}"].float(), atol=1e-4, rtol=1e-3)
    report = json.loads((tmp_path / "averaged" / "training_report.json").read_text())
    assert report["power_average"]["images_seen"] == 48
    assert report["digests"]["pipeline"] == pipeline_digest(load_pipeline(str(tmp_path / "averaged"), "cpu"))

    plain = dataclasses.replace(arguments, output_dir=str(tmp_path / "plain"))
    train(plain)
    assert_same_weights(plain.output_dir, whole.output_dir, "unet")
    with pytest.raises(InputError, match="a run without --ema_snapshots_every"):
        train(dataclasses.replace(plain, ema_snapshots_every=8, resume=True))


def test_validating_does_not_touch_the_run(arguments, tmp_path):
    often = dataclasses.replace(arguments, output_dir=str(tmp_path / "often"), validate_every=8)
    train(often)
    train(arguments)
    assert_same_weights(often.output_dir, arguments.output_dir, "unet")


@pytest.mark.parametrize("latents", ["memory", "none"])
def test_the_place_of_the_latents_does_not_change_what_is_learned(arguments, squeezenet_weights, tmp_path, latents):
    aligned = dataclasses.replace(
        arguments, num_epochs=1, alignment_weight=0.5, squeezenet_weights=str(squeezenet_weights), image_size=32
    )
    write_split(tmp_path / "data" / "train", 8, seed=1, size=32)
    write_split(tmp_path / "data" / "validation", 2, seed=2, size=32)
    config = {**json.loads(Path(arguments.unet).read_text()), "sample_size": 16}
    (tmp_path / "unet.json").write_text(json.dumps(config))
    aligned = dataclasses.replace(aligned, data=str(tmp_path / "data"), unet=str(tmp_path / "unet.json"))
    other = dataclasses.replace(aligned, output_dir=str(tmp_path / "other"), latents=latents)
    train(aligned)
    train(other)
    for name in ("train/loss", "train/misalignment", "validation/loss"):
        assert history(other, name) == pytest.approx(history(aligned, name), rel=0 if latents == "memory" else 1e-3)
    if latents == "memory":
        assert_same_weights(aligned.output_dir, other.output_dir, "unet")
    else:
        shutil.rmtree(Path(other.output_dir))
        train(dataclasses.replace(other, cache_dir=str(tmp_path / "empty")))
        assert not list((tmp_path / "empty").glob("*/array.npy"))


def test_photos_in_shards_give_the_same_model(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    for split in ("train", "validation"):
        folder = Path(arguments.data, split)
        lines = read_metadata(folder.parent, folder / "metadata.jsonl")
        lines = [dataclasses.replace(line, caption_sources=caption_sources(line)) for line in lines]
        write_shards(tmp_path / "shards" / split, lines, lambda i, of=folder, lines=lines: of / lines[i].file_name)
    packed = dataclasses.replace(arguments, data=str(tmp_path / "shards"), output_dir=str(tmp_path / "packed"))
    train(dataclasses.replace(arguments, num_epochs=1))
    train(dataclasses.replace(packed, num_epochs=1, cache_dir=str(tmp_path / "other-cache"), verify_photos=True))
    for component in ("unet", "text_encoder"):
        assert_same_weights(arguments.output_dir, packed.output_dir, component)
    train(dataclasses.replace(packed, output_dir=arguments.output_dir, resume=True))  # it is the same run


def test_accumulating_gradients_changes_rounding_alone(arguments, tmp_path):
    arguments = dataclasses.replace(arguments, dropout=0.0)
    pieces = dataclasses.replace(arguments, output_dir=str(tmp_path / "pieces"), gradient_accumulation_steps=4)
    train(arguments)
    train(pieces)
    assert history(pieces, "train/loss") == pytest.approx(history(arguments, "train/loss"), rel=1e-4)


@pytest.mark.slow
def test_compiled_run_has_the_same_losses(arguments, tmp_path):
    arguments = dataclasses.replace(arguments, dropout=0.0)
    compiled = dataclasses.replace(arguments, output_dir=str(tmp_path / "compiled"), compile="yes")
    train(arguments)
    train(compiled)
    assert history(compiled, "train/loss") == pytest.approx(history(arguments, "train/loss"), rel=1e-3)


def test_evaluating_keeps_the_best_weights_and_does_not_touch_the_run(arguments, squeezenet_weights, tmp_path):
    evaluated = dataclasses.replace(
        arguments,
        output_dir=str(tmp_path / "evaluated"),
        num_epochs=3,
        eval_every=24,
        eval_images=12,
        eval_extractor="squeezenet",
        extractor_weights=str(squeezenet_weights),
    )
    train(evaluated)
    distances = history(evaluated, "evaluation/kernel_distance")
    assert len(distances) == 3
    best = json.loads(Path(evaluated.output_dir, "best", "quick_report.json").read_text())
    assert best["kernel_distance"] == min(distances)
    assert best["images_seen"] == 24 * (1 + distances.index(min(distances)))
    pipeline = AnimalLDMPipeline.from_pretrained(Path(evaluated.output_dir, "best"))
    assert pipeline.classes == ["lion", "zebra"]
    report = json.loads(Path(evaluated.output_dir, "best", "training_report.json").read_text())
    assert report["images_seen"] == best["images_seen"] and report["training_photos"] == 24
    assert report["digests"]["pipeline"] == pipeline_digest(pipeline)
    train(dataclasses.replace(arguments, num_epochs=3))
    assert_same_weights(evaluated.output_dir, arguments.output_dir, "unet")


@pytest.fixture
def aligned(arguments, squeezenet_weights, tmp_path) -> TrainingArguments:
    """Of a run with alignment, on photos that are large enough for SqueezeNet."""
    write_split(tmp_path / "data" / "train", 8, seed=1, size=32)
    write_split(tmp_path / "data" / "validation", 2, seed=2, size=32)
    config = {**json.loads(Path(arguments.unet).read_text()), "sample_size": 16}
    (tmp_path / "unet.json").write_text(json.dumps(config))
    return dataclasses.replace(
        arguments,
        data=str(tmp_path / "data"),
        image_size=32,
        unet=str(tmp_path / "unet.json"),
        num_epochs=17,
        validate_every=10_000,
        alignment_weight=0.5,
        squeezenet_weights=str(squeezenet_weights),
    )


def test_aligned_run_learns_the_features_and_publishes_nothing_of_them(aligned, tmp_path):
    train(aligned)
    misalignment = history(aligned, "train/misalignment")
    assert misalignment[-1] < misalignment[0] - 0.02
    assert "projector" not in " ".join(weights_of(aligned.output_dir, "unet"))
    pieces = dataclasses.replace(aligned, output_dir=str(tmp_path / "pieces"), num_epochs=1)
    train(pieces)
    train(dataclasses.replace(pieces, num_epochs=17, resume=True))
    assert_same_weights(aligned.output_dir, pieces.output_dir, "unet")
    with pytest.raises(InputError, match=r"alignment_weight was 0\.5, is 0\.0"):
        train(dataclasses.replace(pieces, alignment_weight=0.0, resume=True))


def test_after_its_end_alignment_has_no_effect(aligned, tmp_path):
    def trained(name: str, **changes) -> dict[str, torch.Tensor]:
        train(dataclasses.replace(aligned, num_epochs=2, output_dir=str(tmp_path / name), **changes))
        return weights_of(tmp_path / name, "unet")

    without, never = trained("without", alignment_weight=0.0), trained("never", alignment_end=0.0)
    half, whole = trained("half", alignment_end=0.5), trained("whole")
    assert all(torch.equal(without[name], never[name]) for name in without)
    for one, other in [(never, half), (half, whole)]:
        assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_run_takes_another_decoder_but_not_another_encoder(arguments, parts, tmp_path):
    train(arguments)
    before = weights_of(arguments.output_dir, "unet")
    vae = AutoencoderKL.from_pretrained(parts["vae"])
    torch.nn.init.zeros_(vae.decoder.conv_out.weight)
    vae.save_pretrained(tmp_path / "decoder")
    train(dataclasses.replace(arguments, vae=str(tmp_path / "decoder"), resume=True))
    assert not weights_of(arguments.output_dir, "vae")["decoder.conv_out.weight"].any()
    after = weights_of(arguments.output_dir, "unet")
    assert all(torch.equal(before[name], after[name]) for name in before)
    torch.nn.init.zeros_(vae.encoder.conv_out.weight)
    vae.save_pretrained(tmp_path / "encoder")
    with pytest.raises(InputError, match="vae was"):
        train(dataclasses.replace(arguments, vae=str(tmp_path / "encoder"), resume=True))


def test_learning_rate_follows_optimizer_steps(arguments):
    """Three steps with warm-up over two: 1/2, 1, 1 of the peak, whatever the accumulation."""
    train(dataclasses.replace(arguments, num_epochs=1, gradient_accumulation_steps=2))
    (checkpoint,) = Path(arguments.output_dir, "checkpoints").glob("*.pt")
    states = torch.load(checkpoint, weights_only=True)["states"]
    assert states["lr_scheduler"]["last_epoch"] == 3
    assert states["lr_scheduler"]["_last_lr"] == [arguments.learning_rate]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_options_reach_the_pipeline(arguments, prediction_type):
    train(
        dataclasses.replace(
            arguments,
            num_epochs=0.3,
            prediction_type=prediction_type,
            num_ddpm_steps=100,
            gradient_checkpointing=True,
            mixed_precision="bf16",
            balance_classes=0.5,
            lr_schedule="cosine",
        )
    )
    config = AnimalLDMPipeline.from_pretrained(arguments.output_dir).scheduler.config
    assert (config.prediction_type, config.num_train_timesteps) == (prediction_type, 100)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": "nowhere"}, "animal-ldm prepare"),
        ({"vae": "nowhere"}, "No AutoencoderKL was found in 'nowhere'"),
        ({"vae": "nowhere"}, "--vae models/animal-ldm-128 --text_encoder scratch"),
        ({"unet": "nowhere"}, "a new UNet needs no download: --unet tiny"),
        ({"unet": "nowhere.json"}, "--unet nowhere.json: no such file"),
        ({"batch_size": 0}, "--batch_size must be at least 1"),
        ({"image_size": 32, "unet": "tiny"}, "but are 16 x 16"),
        ({"batch_size": 9, "gradient_accumulation_steps": 2}, "--batch_size must be a multiple of 2"),
        ({"pag_scale": 1.0, "pag_applied_layers": ("moon",)}, r"--pag_applied_layers: .*\['moon'\] match none"),
    ],
)
def test_bad_input_is_named(arguments, change, message):
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(arguments, **change))


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_configurations_that_split_the_weights_are_refused(arguments, monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(InputError, match=f"asks for {name}"):
        train(arguments)


def test_a_grid_of_many_classes_is_bounded(arguments, tiny_pipeline_folder, monkeypatch):
    monkeypatch.setattr(validation, "MOST_CLASSES", 6)
    pipeline = load_pipeline(tiny_pipeline_folder, "cpu")
    pipeline.register_to_config(classes=[f"class {i}" for i in range(10)])
    options = dataclasses.replace(arguments, samples_per_class=2, num_inference_steps=1)
    assert (grid := sample_grid(pipeline, options)).height == 3 * grid.width
    single = sample_grid(pipeline, dataclasses.replace(options, samples_per_class=1))
    assert single.width == 2 * single.height  # four above two


def test_fresh_run_into_an_old_folder_is_refused(arguments):
    train(arguments)
    with pytest.raises(InputError, match="--resume"):
        train(arguments)
    with pytest.raises(InputError, match="seed was"):
        train(dataclasses.replace(arguments, resume=True, seed=1))


# --- another value with --resume, and --fork -------------------------------------------------------------------------


@pytest.fixture
def begun(arguments) -> TrainingArguments:
    """To resume a run of one step."""
    train(dataclasses.replace(arguments, num_epochs=0.3))
    return dataclasses.replace(arguments, num_epochs=0.6, resume=True)


def checkpoint_of(arguments: TrainingArguments) -> dict:
    return torch.load(checkpoint_paths(arguments.output_dir)[-1], weights_only=True)


def report_of(arguments: TrainingArguments) -> dict:
    return json.loads(Path(arguments.output_dir, "training_report.json").read_text())


def with_captions(data: str, folder: Path, caption: str) -> str:
    """A copy of a prepared dataset in which every photo has another caption."""
    shutil.copytree(data, folder)
    for metadata in folder.glob("*/metadata.jsonl"):
        lines = [json.loads(line) for line in metadata.read_text().splitlines()]
        metadata.write_text("".join(json.dumps({**line, "text": caption}) + "\n" for line in lines))
    return str(folder)


def test_what_makes_another_run_is_refused_with_both_values(begun, parts, tmp_path):
    changes = {
        "prediction_type": ("epsilon", "prediction_type was v_prediction, is epsilon"),
        "snr_gamma": (None, "snr_gamma was 5.0, is None"),
        "data": (with_captions(begun.data, tmp_path / "other", "a lion"), r"data.captions was \w{12}…, is"),
        "text_encoder": (parts["text_encoder"], r"text_encoder was scratch, is \w{12}…"),
    }
    for name, (value, message) in changes.items():
        unet = {"unet": parts["unet"]} if name == "text_encoder" else {}
        with pytest.raises(InputError, match=message):
            train(dataclasses.replace(begun, **{name: value}, **unet))
    assert {name.split(".")[0] for name in checkpoint_of(begun)["identity"]} == {
        name for name, kind in kinds(TrainingArguments).items() if kind in (Kind.IDENTITY, Kind.CONTENT)
    }


def test_the_same_parts_in_another_place_are_the_same_run(begun, tmp_path):
    for name in ("data", "vae"):
        shutil.copytree(getattr(begun, name), tmp_path / name)
    train(dataclasses.replace(begun, data=str(tmp_path / "data"), vae=str(tmp_path / "vae"), validate_every=1))
    assert report_of(begun)["images_seen"] == 16 and report_of(begun)["argument_history"].keys() == {"num_epochs"}


def test_a_free_argument_applies_from_here_on_and_the_report_has_its_history(begun, caplog):
    caplog.set_level("INFO")
    train(dataclasses.replace(begun, learning_rate=0.5, weight_decay=0.2))
    states = checkpoint_of(begun)["states"]
    [group] = states["optimizer"]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.2)
    assert "From image 8 on: --learning_rate 0.5 (before: 0.001)" in caplog.text
    assert report_of(begun)["argument_history"]["learning_rate"] == [
        {"images_seen": 0, "value": 0.001},
        {"images_seen": 8, "value": 0.5},
    ]


def test_a_checkpoint_of_an_earlier_version_resumes_with_a_warning(begun, caplog):
    path = checkpoint_paths(begun.output_dir)[-1]
    stored = torch.load(path, weights_only=True)
    new = stored["identity"]
    old = {name: new[name] for name in ("data", "vae", "batch_size", "seed")} | {"unet": begun.unet, "aligned": False}
    states = {**stored["states"], "run": {"history": stored["states"]["run"]["history"]}}
    del states["configs"]
    torch.save({"images_seen": 8, "identity": old, "states": states}, path)
    train(begun)
    assert "did not record data.captions" in caplog.text and report_of(begun)["images_seen"] == 16


def test_a_run_starts_from_another_ones_weights(begun, tmp_path):
    fork = dataclasses.replace(
        begun,
        resume=False,
        fork=begun.output_dir,
        output_dir=str(tmp_path / "fork"),
        caption_dropout=0.2,
        learning_rate=0.0,
        num_epochs=0.3,
    )
    train(fork)
    for component in ("unet", "text_encoder"):
        assert_same_weights(begun.output_dir, fork.output_dir, component)
    record = report_of(fork)["forked_from"]
    unet = AnimalLDMPipeline.from_pretrained(begun.output_dir).unet
    assert (record["name"], record["images_seen"]) == (begun.output_dir, 8)
    assert record["digests"]["unet"] == weights_digest(unet)
    with pytest.raises(InputError, match=r"fork was \w{12}…, is None"):
        train(dataclasses.replace(fork, resume=True, fork=None))
    # the folder of a run that is not finished: the averaged weights of its newest checkpoint, the same here
    shutil.rmtree(Path(begun.output_dir, "unet"))
    Path(begun.output_dir, "model_index.json").unlink()
    unfinished = dataclasses.replace(fork, output_dir=str(tmp_path / "again"))
    train(unfinished)
    assert report_of(unfinished)["forked_from"]["digests"] == record["digests"]
    for component in ("unet", "text_encoder"):
        assert_same_weights(fork.output_dir, unfinished.output_dir, component)


def test_a_fork_samples_as_its_model_does_and_keeps_that(begun, tmp_path):
    settings = Sampling(num_inference_steps=2, guidance_scale=5.0, guidance_interval=(0.0, 0.5), pag_scale=3.0)
    store_sampling_defaults(
        begun.output_dir, settings, DDIMScheduler.from_pretrained(begun.output_dir, subfolder="scheduler")
    )
    fork = dataclasses.replace(begun, resume=False, fork=begun.output_dir, num_inference_steps=None, num_epochs=0.3)

    def trained(name: str, **options) -> tuple[dict, bytes]:
        """Defaults of the new model and its grid of samples, with these options for the images during training."""
        folder = tmp_path / name
        train(dataclasses.replace(fork, output_dir=str(folder), **options))
        [grid] = folder.glob("samples/*.png")
        return AnimalLDMPipeline.from_pretrained(folder).sampling_defaults, Image.open(grid).tobytes()

    kept, grid = trained("own")
    assert kept == dataclasses.asdict(settings)
    assert trained("given", **kept) == (kept, grid)
    still_kept, other_grid = trained("plain", pag_scale=0.0)
    assert still_kept == kept and other_grid != grid


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fork": "nowhere"}, "No UNet2DConditionModel was found in 'nowhere'"),
        ({"fork": "model", "output_dir": "./model/"}, "--fork and --output_dir are the same folder"),
    ],
)
def test_a_fork_without_weights_or_into_its_own_folder_is_refused(arguments, change, message):
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(arguments, **change))


def launch(arguments: TrainingArguments, processes: int = 1, **options) -> subprocess.Popen:
    """Train in a process group of its own: one process by the entry script, several by the package's command."""
    entry = [str(ROOT / "train_text_to_image.py")]
    if processes > 1:
        entry = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "-m", "animal_ldm", "train"]
    return subprocess.Popen(
        [sys.executable, *entry, *flags(arguments)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        start_new_session=True,
        **options,
    )


def test_a_second_run_in_the_same_folder_says_who_holds_it(arguments):
    lock = Path(arguments.output_dir, ".lock")
    with (
        held_by_another(lock) as other,
        pytest.raises(InputError, match=f"output_dir .*model is in use by process {other.pid} on "),
    ):
        train(arguments)
    train(dataclasses.replace(arguments, num_epochs=0.3))
    assert not lock.exists()


def test_a_pipeline_without_space_leaves_the_one_before(tiny_pipeline_folder, small_disk):
    pipeline = load_pipeline(tiny_pipeline_folder, "cpu")
    folder = small_disk(10) / "model"
    save_pipeline(pipeline, folder, "float32")
    (folder.parent / "ballast").write_bytes(bytes(7 << 20))
    with pytest.raises(MachineError, match=r"The pipeline needs .* are missing"):
        save_pipeline(pipeline, folder, "float32")
    load_pipeline(str(folder), "cpu")


@pytest.mark.slow
def test_a_lost_process_ends_the_others_within_a_minute_with_a_sentence(arguments):
    process = launch(
        dataclasses.replace(arguments, num_epochs=10_000, validate_every=10**6), 2, stderr=subprocess.PIPE
    )
    checkpoints = Path(arguments.output_dir, "checkpoints")
    deadline = time.monotonic() + 240
    while not list(checkpoints.glob("*.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    ranks = [child for child in psutil.Process(process.pid).children() if "animal_ldm" in " ".join(child.cmdline())]
    ranks[1].kill()
    lost = time.monotonic()
    _, messages = process.communicate(timeout=120)
    assert process.returncode and time.monotonic() - lost < 60
    assert re.search(rb"error: .*nother process of .* was lost.* again, a training with --resume", messages)


def test_killed_and_resumed_run_equals_one_that_was_never_stopped(arguments, tmp_path):
    arguments = dataclasses.replace(arguments, num_epochs=5, checkpoint_every=8, validate_every=10_000)
    process = launch(arguments)
    checkpoints = Path(arguments.output_dir, "checkpoints")
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not Path(arguments.output_dir, "training_report.json").exists()
    train(dataclasses.replace(arguments, resume=True))
    whole = dataclasses.replace(arguments, output_dir=str(tmp_path / "whole"))
    train(whole)
    assert history(arguments, "train/loss") == history(whole, "train/loss")
    for component in ("unet", "text_encoder"):
        assert_same_weights(whole.output_dir, arguments.output_dir, component)


def on_two_machines(arguments: TrainingArguments, folder: Path) -> list[tuple[int, str]]:
    """Train on two machines that share nothing, one process each; exit code and messages of both.

    Each has its own copy of the photos, and its own output and cache folder: `folder`/0 and `folder`/1.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = []
    for machine in range(2):
        own = folder / str(machine)
        shutil.copytree(arguments.data, own / "data", dirs_exist_ok=True)
        here = {"data": str(own / "data"), "output_dir": str(own / "model"), "cache_dir": str(own / "cache")}
        launcher = ["--nnodes=2", f"--node_rank={machine}", "--nproc_per_node=1"]
        launcher += ["--master_addr=127.0.0.1", f"--master_port={port}"]
        command = ["-m", "torch.distributed.run", *launcher, "-m", "animal_ldm", "train"]
        launched.append(
            subprocess.Popen(
                [sys.executable, *command, *flags(dataclasses.replace(arguments, **here))],
                env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    messages = [process.communicate(timeout=900)[1] for process in launched]
    return [(process.returncode, message) for process, message in zip(launched, messages, strict=True)]


@pytest.mark.slow
def test_two_machines_without_a_shared_disk_train_one_model(arguments, tmp_path):
    arguments = dataclasses.replace(arguments, dropout=0.0)
    train(arguments)
    ended = on_two_machines(arguments, tmp_path)
    assert [code for code, _ in ended] == [0, 0], ended
    first, second = tmp_path / "0", tmp_path / "1"
    on_first = dataclasses.replace(arguments, output_dir=str(first / "model"))
    for name in ("train/loss", "validation/loss"):
        assert history(on_first, name) == pytest.approx(history(arguments, name), rel=1e-4)
    # each has all latents and captions, computed on its own; the main process alone has the result
    for cache in (second / "cache", tmp_path / "cache"):
        assert cached(cache) == cached(first / "cache") != {}
    assert (first / "model" / "model_index.json").is_file()
    assert [file.name for file in (second / "model").iterdir()] == []
    ended = on_two_machines(dataclasses.replace(arguments, eval_every=24, report_to="none"), tmp_path / "evaluated")
    assert all(code for code, _ in ended)
    assert any("machines of this run do not share" in message for _, message in ended), ended

    # the second machine has no checkpoint
    ended = on_two_machines(dataclasses.replace(arguments, num_epochs=3, resume=True), tmp_path)
    assert all(code for code, _ in ended)
    assert any(re.search("error: .*checkpoint.*every machine", message) for _, message in ended), ended
    shutil.copytree(first / "model" / "checkpoints", second / "model" / "checkpoints")
    ended = on_two_machines(dataclasses.replace(arguments, num_epochs=3, resume=True), tmp_path)
    assert [code for code, _ in ended] == [0, 0], ended
    train(dataclasses.replace(arguments, num_epochs=3, resume=True))
    assert history(on_first, "validation/loss") == pytest.approx(history(arguments, "validation/loss"), rel=1e-4)


def cached(folder: Path) -> dict[str, str]:
    """Digests of the arrays in a cache."""
    return {file.parent.name: file.read_text() for file in folder.glob(f"*/{DIGEST}")}


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_with_a_part_of_the_batch_each_give_the_same_losses_as_one(arguments, tmp_path, processes):
    """And a run that begins with one process goes on with several. They share validation and sample grid."""
    shutil.copytree(Path(arguments.data, "train"), tmp_path / "data" / "train")
    write_split(tmp_path / "data" / "validation", 30, seed=2)  # two pieces
    arguments = dataclasses.replace(arguments, data=str(tmp_path / "data"), dropout=0.0, num_epochs=4)
    several = dataclasses.replace(arguments, output_dir=str(tmp_path / "several"), num_epochs=2)
    train(several)
    train(arguments)
    assert launch(dataclasses.replace(several, num_epochs=4, resume=True), processes).wait() == 0
    assert history(several, "validation/loss") == pytest.approx(history(arguments, "validation/loss"), rel=1e-4)
    # logged at the end of each of the two stretches, which have the same length
    assert np.mean(history(several, "train/loss")) == pytest.approx(*history(arguments, "train/loss"), rel=1e-4)
    grids = [Path(each.output_dir, "samples", "samples-0000000096.png") for each in (several, arguments)]
    first, second = (np.asarray(Image.open(grid)).astype(int) for grid in grids)
    assert np.abs(first - second).max() <= 2 and first.std() > 5
    report = json.loads(Path(several.output_dir, "training_report.json").read_text())
    assert report["hardware"]["processes"] == processes
