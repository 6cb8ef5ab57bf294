"""Ranges and combinations of arguments are checked before anything slow, and `--help` imports nothing slow."""

import dataclasses
import math
import subprocess
import sys

import pytest

from animal_ldm.commands.trainers import parse_grouped
from animal_ldm.errors import InputError
from animal_ldm.training.arguments import HUB_TEXT_ENCODER, HUB_VAE, AutoencoderArguments, TrainingArguments
from animal_ldm.training.kinds import Kind, kinds

BOTH = (TrainingArguments, AutoencoderArguments)
REQUIRED = {"data": "data", "output_dir": "out"}


@pytest.mark.parametrize("arguments_class", BOTH)
def test_defaults_are_in_range(arguments_class):
    arguments_class(**REQUIRED).check()


@pytest.mark.parametrize("arguments_class", BOTH)
@pytest.mark.parametrize(
    "name, value, message",
    [
        ("batch_size", 0, "--batch_size must be at least 1, but is 0"),
        ("gradient_accumulation_steps", 0, "--gradient_accumulation_steps must be at least 1"),
        ("num_epochs", -1.0, "--num_epochs must be greater than 0, but is -1.0"),
        ("num_epochs", 0.0, "--num_epochs must be greater than 0"),
        ("num_epochs", math.nan, "--num_epochs must be greater than 0"),
        ("learning_rate", -1e-4, "--learning_rate must be at least 0"),
        ("image_size", 0, "--image_size must be at least 1"),
        ("num_warmup_steps", -1, "--num_warmup_steps must be at least 0"),
        ("max_grad_norm", 0.0, "--max_grad_norm must be greater than 0"),
        ("ema_half_life", -1.0, "--ema_half_life must be at least 0"),
        ("seed", -1, "--seed must be at least 0"),
        ("validate_every", 0, "--validate_every must be at least 1"),
        ("checkpoint_every", 0, "--checkpoint_every must be at least 1"),
        ("checkpoints_total_limit", 0, "--checkpoints_total_limit must be at least 1"),
        ("country", "France", "--country must be an ISO code with three letters"),
    ],
)
def test_shared_arguments_out_of_range_are_named(arguments_class, name, value, message):
    with pytest.raises(InputError, match=message):
        arguments_class(**REQUIRED, **{name: value}).check()


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("caption_dropout", 1.1, "--caption_dropout must be from 0 to 1, but is 1.1"),
        ("dropout", -0.1, "--dropout must be from 0 to 1"),
        ("snr_gamma", 0.0, "--snr_gamma must be greater than 0"),
        ("balance_classes", 2.0, "--balance_classes must be from 0 to 1"),
        ("alignment_end", 1.5, "--alignment_end must be from 0 to 1"),
        ("alignment_weight", -1.0, "--alignment_weight must be at least 0"),
        ("weight_decay", -1.0, "--weight_decay must be at least 0"),
        ("num_ddpm_steps", 10, "--num_inference_steps must be at most --num_ddpm_steps, 10, but is 25"),
        ("num_inference_steps", 0, "--num_inference_steps must be at least 1"),
        ("guidance_rescale", 2.0, "--guidance_rescale must be from 0 to 1"),
        ("pag_scale", -1.0, "--pag_scale must be a finite number of at least 0"),
        ("pag_applied_layers", (), "--pag_applied_layers must name at least one layer"),
        ("samples_per_class", 0, "--samples_per_class must be at least 1"),
        ("eval_every", -1, "--eval_every must be at least 0"),
        ("eval_images", 1, "--eval_images must be at least 2"),
    ],
)
def test_arguments_of_the_pipeline_out_of_range_are_named(name, value, message):
    with pytest.raises(InputError, match=message):
        TrainingArguments(**REQUIRED, **{name: value}).check()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"discriminator_start": 1.5}, "--discriminator_start must be from 0 to 1"),
        ({"equivariance": -0.5}, "--equivariance must be from 0 to 1"),
        ({"perceptual_weight": -1.0}, "--perceptual_weight must be at least 0"),
        ({"kl_weight": -1.0}, "--kl_weight must be at least 0"),
        ({"validation_images": 0}, "--validation_images must be at least 1"),
        ({"downsample_factor": 3}, "--downsample_factor must be 2, 4 or 8, but is 3"),
        ({"latent_channels": 0}, "--latent_channels must be at least 1"),
        ({"discriminator": "features", "perceptual_weight": 0.0}, "Pass a --perceptual_weight above 0"),
        ({"decoder_only": True}, "Pass its folder or Hub id with --pretrained"),
        ({"pretrained": "vae", "preset": "small"}, "--preset cannot be combined with --pretrained"),
        (
            {"pretrained": "vae", "latent_channels": 4, "downsample_factor": 8},
            "--downsample_factor, --latent_channels",
        ),
        ({"pretrained": "vae", "decoder_only": True, "kl_weight": 1e-6}, "--kl_weight has no effect"),
    ],
)
def test_arguments_of_the_autoencoder_out_of_range_or_without_effect_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        AutoencoderArguments(**REQUIRED, **changes).check()


def test_arguments_that_do_not_apply_to_a_trained_autoencoder_stay_none():
    new = AutoencoderArguments(**REQUIRED, latent_channels=8).resolved()
    assert (new.preset, new.downsample_factor, new.latent_channels, new.kl_weight) == ("small", 8, 8, 1e-6)
    tuned = AutoencoderArguments(**REQUIRED, pretrained="vae").resolved()
    assert (tuned.preset, tuned.downsample_factor, tuned.latent_channels, tuned.kl_weight) == (None, None, None, 1e-6)
    decoder = AutoencoderArguments(**REQUIRED, pretrained="vae", decoder_only=True).resolved()
    assert decoder.kl_weight is None


@pytest.mark.parametrize("arguments_class", BOTH)
def test_every_argument_is_in_one_group(arguments_class):
    grouped = [field.name for group in arguments_class.GROUPS.values() for field in dataclasses.fields(group)]
    assert sorted(grouped) == sorted(field.name for field in dataclasses.fields(arguments_class))
    arguments = arguments_class(**REQUIRED)
    assert arguments.record() == dataclasses.asdict(arguments)
    for title, group in arguments_class.GROUPS.items():
        for field in dataclasses.fields(group):
            expected = REQUIRED.get(field.name, field.default)
            if expected == "":  # depends on other arguments
                expected = {"vae": HUB_VAE, "text_encoder": HUB_TEXT_ENCODER}[field.name]
            assert getattr(arguments, field.name) == expected, title


@pytest.mark.parametrize("arguments_class", BOTH)
def test_every_argument_declares_what_becomes_of_another_value_when_a_run_is_resumed(arguments_class):
    declared = kinds(arguments_class)
    assert declared.keys() == {field.name for field in dataclasses.fields(arguments_class)}
    assert set(declared.values()) == set(Kind)


def test_an_argument_without_a_kind_is_named():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Forgetful(TrainingArguments):
        lucky_number: int = 7

    with pytest.raises(TypeError, match="lucky_number: expected one of Identity"):
        kinds(Forgetful)


@pytest.mark.parametrize(
    "argv",
    [
        ["--learning_rate", "3e-4", "--squeezenet_weights", "w", "--no_resume"],
        ["--learning-rate", "3e-4", "--perceptual_weights", "w", "--no-resume"],
    ],
)
@pytest.mark.parametrize("arguments_class", BOTH)
def test_options_have_flat_names_and_keep_their_old_ones(arguments_class, argv):
    arguments = parse_grouped(arguments_class, ["--data", "data", "--output_dir", "out", *argv], prog="train")
    assert arguments == arguments_class(**REQUIRED, learning_rate=3e-4, squeezenet_weights="w")


def test_options_of_the_pipeline_keep_their_old_names():
    options = ["--eval_weights", "w", "--steps", "10", "--guidance", "2", "--snr_gamma", "None"]
    arguments = parse_grouped(TrainingArguments, ["--data", "data", "--output_dir", "out", *options], prog="train")
    assert arguments == TrainingArguments(
        **REQUIRED, extractor_weights="w", num_inference_steps=10, guidance_scale=2.0, snr_gamma=None
    )


@pytest.mark.parametrize("command", ["train", "train-autoencoder"])
def test_help_and_bad_arguments_import_nothing_slow(command):
    code = (
        "import sys\n"
        "from animal_ldm.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        "slow = {'torch', 'diffusers', 'transformers', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "print('slow:', *sorted(slow))"
    )
    for argv in (["--help"], ["--data", "d", "--output_dir", "o", "--batch_size", "0"]):
        run = subprocess.run([sys.executable, "-c", code, command, *argv], capture_output=True, text=True, check=True)
        assert run.stdout.endswith("slow:\n"), run.stdout
    assert run.stderr == "error: --batch_size must be at least 1, but is 0.\n"


@pytest.mark.parametrize("argv", [[], ["train", "--help"], ["push", "--help"]], ids=str)
def test_a_reader_that_has_enough_is_no_error(argv):
    """`animal-ldm train --help | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "animal_ldm", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 141
