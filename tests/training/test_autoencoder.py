import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional as F

from animal_ldm.digest import encoder_digest
from animal_ldm.errors import InputError
from animal_ldm.perceptual import PerceptualDistance
from animal_ldm.pixels import to_model_range
from animal_ldm.training.arguments import AutoencoderArguments
from animal_ldm.training.autoencoder import Crops, Trainer, train, validate
from animal_ldm.training.discriminator import (
    FeatureDiscriminator,
    PatchDiscriminator,
    adaptive_weight,
    fooling_loss,
    hinge_loss,
)
from animal_ldm.training.equivariance import Transform
from animal_ldm.training.execution import Execution
from animal_ldm.training.normalisation import latent_statistics
from tests.conftest import tiny_vae
from tests.training.conftest import assert_same_weights, random_pixels, write_split


@pytest.fixture
def arguments(prepared, tmp_path) -> AutoencoderArguments:
    return AutoencoderArguments(
        data=prepared,
        output_dir=str(tmp_path / "autoencoder"),
        image_size=16,
        preset="tiny",
        num_epochs=2,
        batch_size=8,
        learning_rate=1e-3,
        num_warmup_steps=2,
        lr_schedule="constant",
        perceptual_weight=0.0,
        discriminator_start=0.5,
        validate_every=24,
        checkpoint_every=24,
        report_to="none",
        cache_dir=str(tmp_path / "cache"),
    )


def test_psnr_is_that_of_the_definition():
    torch.manual_seed(0)
    vae, pixels = tiny_vae(), random_pixels(5)
    images = to_model_range(pixels)
    with torch.no_grad():
        decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    # over [0, 1], peak 1
    mse = ((decoded - images) / 2).double().square().mean(dim=(1, 2, 3))
    assert validate(vae, pixels, 16, None)["validation/psnr"] == pytest.approx((-10 * mse.log10()).mean().item(), 1e-5)


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(arguments, tmp_path):
    shutil.copytree(Path(arguments.data, "train"), tmp_path / "data" / "train")
    write_split(tmp_path / "data" / "validation", 15, seed=2)  # 45 photos, two pieces
    arguments = dataclasses.replace(arguments, data=str(tmp_path / "data"), discriminator_weight=0.0)
    train(arguments)
    options = dataclasses.replace(arguments, output_dir=str(tmp_path / "two")).record()
    flags = [f"--{name}={value}" for name, value in options.items() if type(value) in (int, float, str)]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "animal_ldm", "train-autoencoder"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launcher, *flags], env=environment, check=True, timeout=600)
    one, two = (
        [entry for entry in json.loads(Path(folder, "training_report.json").read_text())["history"]]
        for folder in (arguments.output_dir, tmp_path / "two")
    )
    for first, second in zip(one, two, strict=True):
        assert second == pytest.approx(first, rel=1e-3)


def test_discriminator_judges_patches_and_its_loss_is_zero_when_it_is_sure():
    (verdicts,) = PatchDiscriminator()(torch.zeros(2, 3, 32, 32))
    assert verdicts.shape == (2, 1, 4, 4)
    sure = torch.tensor([1.5, -1.5])
    assert hinge_loss([sure]) == 0
    assert hinge_loss([-sure]) == 2.5
    assert hinge_loss([sure.repeat_interleave(100), -sure]) == 1.25
    assert fooling_loss([-sure[1:], 2 * sure[:1]]) == -2.25


def test_features_tell_blurred_images_from_sharp_ones(squeezenet_weights):
    torch.manual_seed(0)
    perceptual = PerceptualDistance(squeezenet_weights)
    discriminator = FeatureDiscriminator(perceptual, channels=16)
    assert not any("lpips" in name for name in discriminator.state_dict())
    sharp = torch.rand(4, 3, 64, 64) * 2 - 1
    blurred = F.avg_pool2d(sharp, 3, 1, 1)
    same = discriminator(sharp[:1].expand(2, -1, -1, -1))
    assert len(same) == len(perceptual.widths) - 1
    for verdicts in same:  # the window is the batch's, so equal images get equal verdicts
        assert torch.equal(verdicts[0], verdicts[1])
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        losses.append(hinge_loss(discriminator(torch.cat([sharp, blurred]))))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 0.8 and losses[-1] < 0.6
    # their gradient points to sharper images
    (gradient,) = torch.autograd.grad(fooling_loss(discriminator(blurred.requires_grad_())), blurred)
    assert fooling_loss(discriminator(blurred - 0.5 * gradient.sign())) < fooling_loss(discriminator(blurred))


def test_features_need_lpips(arguments):
    with pytest.raises(InputError, match="Pass a --perceptual_weight above 0"):
        train(dataclasses.replace(arguments, discriminator="features"))


def test_adaptive_weight_equals_the_ratio_of_gradients():
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    assert adaptive_weight((2 * weight).sum(), (0.5 * weight).sum(), weight).item() == pytest.approx(4, rel=1e-3)


def test_a_wrong_colour_costs_twice_and_noise_once(arguments):
    trainer = Trainer(Accelerator(), arguments, tiny_vae(), None, 1, Execution())
    images, kl = torch.zeros(2, 3, 16, 16), torch.zeros(2)
    checkerboard = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    assert trainer.reconstruction_loss(images, images + 0.1, kl).item() == pytest.approx(0.2)
    assert trainer.reconstruction_loss(images, images + 0.1 * checkerboard, kl).item() == pytest.approx(0.1)


def test_an_autoencoder_trained_on_transforms_decodes_turned_latents_better(arguments):
    arguments = dataclasses.replace(arguments, num_warmup_steps=0, discriminator_weight=0.0)
    ramp = torch.linspace(-1, 1, 32)
    images = torch.stack([ramp[:, None] * torch.rand(3, 1, 1) + ramp * torch.rand(3, 1, 1) for _ in range(8)])
    images, noise = images.clamp(-1, 1), torch.zeros(8, 4, 16, 16)
    errors = {}
    for trained_on in (Transform(), Transform(1.0, 1)):
        torch.manual_seed(0)
        trainer = Trainer(Accelerator(), arguments, tiny_vae(), None, 60, Execution())
        for _ in range(60):
            trainer.step(Crops(images, noise, trained_on), adversarial=False)
        with torch.no_grad():
            decoded, _ = trainer.model(images, noise, Transform(1.0, 1))
        errors[trained_on] = (decoded - Transform(1.0, 1)(images)).abs().mean().item()
    assert errors[Transform(1.0, 1)] < 0.7 * errors[Transform()]


def test_transforms_need_latents_that_can_be_downsampled(arguments):
    with pytest.raises(InputError, match="at least 32"):
        train(dataclasses.replace(arguments, equivariance=0.5))
    with pytest.raises(InputError, match="at least 128"):  # LPIPS needs something to look at
        train(dataclasses.replace(arguments, equivariance=0.5, perceptual_weight=1.0))


def test_training_writes_an_autoencoder_with_normal_latents_and_a_report(arguments):
    train(dataclasses.replace(arguments, num_epochs=20, ema_half_life=100))
    folder = Path(arguments.output_dir)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    report = json.loads((folder / "training_report.json").read_text())
    assert report["images_seen"] == 480
    assert "Reconstructions" in (folder / "training.html").read_text()
    assert report["scaling_factor"] == vae.config.scaling_factor == pytest.approx(1, abs=1e-3)
    assert report["co2_kg"] == "not measured"
    psnr = [entry["validation/psnr"] for entry in report["history"] if "validation/psnr" in entry]
    assert psnr[-1] > psnr[0] + 3
    assert any("train/discriminator_loss" in entry for entry in report["history"])
    pixels = np.stack([np.asarray(Image.open(file)) for file in sorted(Path(arguments.data, "train").rglob("*.png"))])
    mean, std = latent_statistics(vae, pixels, 16, seed=arguments.seed)
    assert mean.abs().max() < 0.02 and (std - 1).abs().max() < 0.02
    assert Image.open(next(iter((folder / "samples").glob("*.png")))).size[0] == 6 * 2 * 16


@pytest.mark.parametrize("discriminator", ["patches", "features"])
def test_resumed_training_equals_training_in_one_stretch(arguments, tmp_path, squeezenet_weights, discriminator):
    # the discriminator starts with the first image, because a later start depends on the length of the run
    whole = dataclasses.replace(arguments, discriminator_start=0.0)
    if discriminator == "features":  # SqueezeNet needs larger images
        for split, seed in (("train", 1), ("validation", 2)):
            write_split(tmp_path / "larger" / split, 8, seed, size=32)
        whole = dataclasses.replace(
            whole,
            data=str(tmp_path / "larger"),
            image_size=32,
            discriminator="features",
            perceptual_weight=1.0,
            squeezenet_weights=str(squeezenet_weights),
        )
    train(whole)
    pieces = dataclasses.replace(whole, output_dir=str(tmp_path / "pieces"))
    train(dataclasses.replace(pieces, num_epochs=1))
    train(dataclasses.replace(pieces, resume=True))
    assert_same_weights(whole.output_dir, pieces.output_dir, "vae")


def test_photos_smaller_than_the_crop_are_refused(arguments):
    with pytest.raises(InputError, match="at least 64 pixels, but have 16 x 16"):
        train(dataclasses.replace(arguments, image_size=64))


def test_decoder_alone_leaves_latents_as_they_are(arguments, parts):
    train(dataclasses.replace(arguments, preset=None, pretrained=parts["vae"], decoder_only=True))
    given = AutoencoderKL.from_pretrained(parts["vae"])
    tuned = AutoencoderKL.from_pretrained(Path(arguments.output_dir, "vae"))
    for name, weight in given.state_dict().items():
        same = torch.equal(weight, tuned.state_dict()[name])
        assert same == (not name.startswith(("decoder", "post_quant_conv"))), name
    assert tuned.config.scaling_factor == given.config.scaling_factor
    again = dataclasses.replace(arguments, output_dir=arguments.output_dir + "-again", preset=None, decoder_only=True)
    with pytest.raises(InputError, match="Pass its folder or Hub id with --pretrained"):
        train(again)
    train(dataclasses.replace(again, pretrained=arguments.output_dir, num_epochs=0.3))
    report = json.loads(Path(again.output_dir, "training_report.json").read_text())
    assert report["images_seen"] == 8 and report["pretrained"]["images_seen"] == 48


def test_a_missing_autoencoder_is_named_with_one_that_works_offline(arguments):
    with pytest.raises(InputError, match=r"AutoencoderKL was found in 'nowhere'.*--pretrained models/animal-ldm-128"):
        train(dataclasses.replace(arguments, preset=None, pretrained="nowhere"))


def test_report_describes_the_autoencoder_that_was_loaded_not_the_defaults(arguments, parts):
    train(dataclasses.replace(arguments, preset=None, pretrained=parts["vae"], num_epochs=0.3))
    report = json.loads(Path(arguments.output_dir, "training_report.json").read_text())
    assert report["arguments"]["preset"] is None and report["arguments"]["latent_channels"] is None
    assert report["architecture"]["block_out_channels"] == [8, 8]
    assert report["architecture"]["downsample_factor"] == 2
    saved = AutoencoderKL.from_pretrained(Path(arguments.output_dir, "vae"))
    assert report["architecture"]["parameters"] == saved.num_parameters()
    assert report["digests"] == {"encoder": encoder_digest(saved)}


def test_fine_tuning_starts_from_the_given_weights(arguments, parts):
    train(dataclasses.replace(arguments, preset=None, pretrained=parts["vae"], num_epochs=0.3, learning_rate=0.0))
    with torch.no_grad():
        images = to_model_range(random_pixels(2))
        tuned, given = (
            AutoencoderKL.from_pretrained(folder) for folder in (Path(arguments.output_dir, "vae"), parts["vae"])
        )
        reconstructions = [vae.decode(vae.encode(images).latent_dist.mode()).sample for vae in (tuned, given)]
    torch.testing.assert_close(*reconstructions, atol=1e-4, rtol=1e-4)
