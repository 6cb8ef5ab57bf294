"""The whole recipe on real tiny components; the shared fixtures are in conftest.py."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

import animal_ldm
from animal_ldm import AnimalLDMPipeline
from animal_ldm.digest import encoder_digest, pipeline_digest
from animal_ldm.errors import InputError
from animal_ldm.training import run
from animal_ldm.training.arguments import AutoencoderArguments, TrainingArguments
from animal_ldm.training.autoencoder import train as train_autoencoder
from animal_ldm.training.text_to_image import train
from tests.training.conftest import assert_same_weights, weights_of, write_split

ROOT = Path(animal_ldm.__file__).parent.parent


@pytest.fixture(autouse=True)
def fresh_accelerator_state():
    """Accelerate keeps one state per process; tests that choose another precision need their own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


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


def test_result_is_a_pipeline_that_plain_stable_diffusion_loads_too(arguments):
    train(arguments)
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
    assert report["autoencoder"] is None
    assert "Finished after 48 images" in Path(arguments.output_dir, "training.html").read_text()


def test_page_is_written_at_every_validation(arguments, monkeypatch):
    written = []
    monkeypatch.setattr(run, "write_page", lambda report, total, _: written.append((report["images_seen"], total)))
    train(dataclasses.replace(arguments, validate_every=16))
    assert written == [(16, 48), (32, 48), (48, 48), (48, 48)]  # once more with the final report


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


def test_validating_does_not_touch_the_run(arguments, tmp_path):
    often = dataclasses.replace(arguments, output_dir=str(tmp_path / "often"), validate_every=8)
    train(often)
    train(arguments)
    assert_same_weights(often.output_dir, arguments.output_dir, "unet")


def test_accumulating_gradients_changes_rounding_alone(arguments, tmp_path):
    arguments = dataclasses.replace(arguments, dropout=0.0)
    pieces = dataclasses.replace(arguments, output_dir=str(tmp_path / "pieces"), gradient_accumulation_steps=4)
    train(arguments)
    train(pieces)
    assert history(pieces, "train/loss") == pytest.approx(history(arguments, "train/loss"), rel=1e-4)


@pytest.mark.slow
def test_compiled_run_has_the_same_losses(arguments, tmp_path):
    arguments = dataclasses.replace(arguments, dropout=0.0)
    compiled = dataclasses.replace(arguments, output_dir=str(tmp_path / "compiled"), compile=True)
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
    assert AnimalLDMPipeline.from_pretrained(Path(evaluated.output_dir, "best")).classes == ["lion", "zebra"]
    train(dataclasses.replace(arguments, num_epochs=3))
    assert_same_weights(evaluated.output_dir, arguments.output_dir, "unet")


def test_aligned_run_learns_the_features_and_publishes_nothing_of_them(arguments, squeezenet_weights, tmp_path):
    write_split(tmp_path / "data" / "train", 8, seed=1, size=32)
    write_split(tmp_path / "data" / "validation", 2, seed=2, size=32)
    config = {**json.loads(Path(arguments.unet).read_text()), "sample_size": 16}
    (tmp_path / "unet.json").write_text(json.dumps(config))
    aligned = dataclasses.replace(
        arguments,
        data=str(tmp_path / "data"),
        image_size=32,
        unet=str(tmp_path / "unet.json"),
        num_epochs=17,
        validate_every=10_000,
        alignment_weight=0.5,
        squeezenet_weights=str(squeezenet_weights),
    )
    train(aligned)
    misalignment = history(aligned, "train/misalignment")
    assert misalignment[-1] < misalignment[0] - 0.02
    assert "projector" not in " ".join(weights_of(aligned.output_dir, "unet"))
    pieces = dataclasses.replace(aligned, output_dir=str(tmp_path / "pieces"), num_epochs=1)
    train(pieces)
    train(dataclasses.replace(pieces, num_epochs=17, resume=True))
    assert_same_weights(aligned.output_dir, pieces.output_dir, "unet")
    with pytest.raises(InputError, match="aligned was True, is False"):
        train(dataclasses.replace(pieces, alignment_weight=0.0, resume=True))


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
            balance_classes=True,
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
    ],
)
def test_bad_input_is_named(arguments, change, message):
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(arguments, **change))


def test_fresh_run_into_an_old_folder_is_refused(arguments):
    train(arguments)
    with pytest.raises(InputError, match="--resume"):
        train(arguments)
    with pytest.raises(InputError, match="seed was"):
        train(dataclasses.replace(arguments, resume=True, seed=1))


def launch(arguments: TrainingArguments, processes: int = 1) -> subprocess.Popen:
    """Train in a process group of its own: one process by the entry script, several by the package's command."""
    entry = [str(ROOT / "train_text_to_image.py")]
    if processes > 1:
        entry = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "-m", "animal_ldm", "train"]
    return subprocess.Popen(
        [sys.executable, *entry, *flags(arguments)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        start_new_session=True,
    )


def test_killed_and_resumed_run_equals_one_that_was_never_stopped(arguments, tmp_path):
    arguments = dataclasses.replace(arguments, num_epochs=40, checkpoint_every=8, validate_every=10_000)
    process = launch(arguments)
    checkpoints = Path(arguments.output_dir, "checkpoints")
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not Path(arguments.output_dir, "training_report.json").exists()
    assert launch(dataclasses.replace(arguments, resume=True)).wait() == 0
    whole = dataclasses.replace(arguments, output_dir=str(tmp_path / "whole"))
    assert launch(whole).wait() == 0
    for component in ("unet", "text_encoder"):
        assert_same_weights(whole.output_dir, arguments.output_dir, component)


def test_two_processes_with_half_the_batch_each_give_the_same_losses_as_one(arguments, tmp_path):
    arguments = dataclasses.replace(arguments, dropout=0.0, num_epochs=4)
    pair = dataclasses.replace(arguments, output_dir=str(tmp_path / "pair"), cache_dir=str(tmp_path / "pair-cache"))
    train(arguments)
    assert launch(pair, processes=2).wait() == 0
    for name in ("train/loss", "validation/loss"):
        assert history(pair, name) == pytest.approx(history(arguments, name), rel=1e-4)
    report = json.loads(Path(pair.output_dir, "training_report.json").read_text())
    assert report["hardware"]["processes"] == 2
