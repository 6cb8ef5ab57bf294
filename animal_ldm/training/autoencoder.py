"""The recipe of the autoencoder, from top to bottom.

L1 + LPIPS + KL, then, late in the run, a discriminator: the loss of latent diffusion (arXiv 2112.10752, appendix G),
with a second L1 between the images downsampled to the size of the latent.
"""

# diffusers annotates configs, outputs and tensors too narrowly for a type checker.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional as F

from ..data.prepared import PreparedSplit, load_splits
from ..digest import encoder_digest, network_digest
from ..errors import InputError
from ..files import whole_folder
from ..loading import load_component
from ..perceptual import PerceptualDistance
from ..pixels import to_model_range, to_uint8
from ..released import RELEASED_MODEL
from .arguments import AutoencoderArguments
from .batches import prepared_along
from .cache import Cache
from .cost import autoencoder_record
from .crops import center_crop, pixel_array, random_crops
from .discriminator import FeatureDiscriminator, PatchDiscriminator, adaptive_weight, fooling_loss, hinge_loss
from .ema import EMA
from .equivariance import Transform, least_image_size, random_transform
from .execution import Execution
from .guard import guarded
from .models import autoencoder_architecture, build_autoencoder, downsample_factor
from .normalisation import latent_statistics, normalize_latents
from .run import Run, accumulate, learning_rate_schedule, rows_of, start_accelerator
from .stream import ImageStream, step_generator, step_seed

# What the digests in the report are computed over.
DIGEST_NOTES = {
    "digests.encoder": "SHA-256 over the weights of the saved encoder and quant_conv "
    "(animal_ldm.digest.encoder_digest)",
}


@guarded
def train(arguments: AutoencoderArguments) -> Path | None:
    """Train as `arguments` say, see `AutoencoderArguments`.

    Returns:
        Folder of the autoencoder; None in all processes but the main one.

    Raises:
        InputError: an argument, the dataset or a component is at fault.
    """
    arguments.check()
    arguments = arguments.resolved()
    accelerator, execution = start_accelerator(arguments)
    size, device = arguments.image_size, accelerator.device
    verify = arguments.verify_photos and accelerator.is_main_process
    train_split, validation_split = load_splits(arguments.data, verify)
    check_photo_size(train_split, size)

    # networks; those that may have to be downloaded come before anything slow
    torch.manual_seed(arguments.seed)
    vae = load_or_build(arguments)
    earlier = autoencoder_record(arguments.pretrained) if arguments.pretrained else None
    latent_size = size // downsample_factor(vae)
    least = least_image_size(arguments.perceptual_weight > 0)
    if arguments.equivariance and (latent_size % 4 or size < least):
        raise InputError(
            f"--equivariance downsamples to a quarter: it needs an --image_size of at least {least} and latents with a"
            f" side that is a multiple of 4, but these are {size} and {latent_size}."
        )
    perceptual = PerceptualDistance(arguments.squeezenet_weights).to(device) if arguments.perceptual_weight else None
    identity = identity_of(arguments, (train_split, validation_split), vae, perceptual)
    adversarial_from = arguments.discriminator_start if arguments.discriminator_weight > 0 else 1.0
    run = Run(accelerator, arguments, identity, len(train_split), execution, adversarial_from)
    execution = run.execution
    trainer = Trainer(accelerator, arguments, vae, perceptual, run.total_steps, execution)
    run.resume(**trainer.parts())

    # data
    cache = Cache(accelerator, arguments.cache_dir)
    pixels, validation_pixels = pixel_array(cache, train_split), pixel_array(cache, validation_split)
    some_validation_pixels = validation_pixels[:: -(-len(validation_pixels) // arguments.validation_images)]
    stream = ImageStream(train_split.labels, arguments.seed)
    rows = rows_of(accelerator, arguments).reshape(-1)
    latent_shape = (arguments.batch_size, vae.config.latent_channels, latent_size, latent_size)

    def crops_at(images_seen: int) -> Crops:
        generator = step_generator(arguments.seed, images_seen)
        chosen = stream.indices(images_seen, arguments.batch_size)
        images = to_model_range(random_crops(pixels, chosen, size, generator, rows))
        noise = torch.randn(latent_shape, generator=generator)[rows]
        transform = random_transform(generator, arguments.equivariance)
        if execution.pinned_memory:
            images, noise = images.pin_memory(), noise.pin_memory()
        return Crops(images, noise, transform)

    for images_seen, crops in prepared_along(run.steps(), crops_at, arguments.batch_size, execution):
        # the window the discriminator looks at is a function of (seed, images seen, process) too
        torch.manual_seed(step_seed(arguments.seed, images_seen, accelerator.process_index + 1))
        losses = trainer.step(crops, adversarial=run.late)
        run.advance()
        trainer.ema.update(run.images_seen, arguments.batch_size)
        for name, loss in losses.items():
            run.track_loss(name, loss)

        if run.due(arguments.validate_every):
            with trainer.ema.swapped_in(), torch.compiler.set_stance("force_eager"):  # of other shapes than a step
                measured = validation_pixels if run.done else some_validation_pixels
                run.announce(validate(vae, measured, size, perceptual))
                if accelerator.is_main_process:
                    run.log_image("reconstructions", reconstruction_grid(vae, validation_pixels, size))
            run.write_page()
        if run.due(arguments.checkpoint_every):
            run.checkpoint()

    if accelerator.is_main_process:
        with trainer.ema.swapped_in():
            save_autoencoder(vae, pixels, arguments, run, earlier)
    accelerator.end_training()
    return run.output_dir / "vae" if accelerator.is_main_process else None


# --- networks --------------------------------------------------------------------------------------------------------


def check_photo_size(split: PreparedSplit, size: int) -> None:
    height, width = split.image(0).shape[:2]
    if min(height, width) < size:
        raise InputError(
            f"The photos in {split.folder} must have at least {size} pixels, but have {width} x {height}. Prepare them"
            f" with --image_size {size} or more."
        )


def load_or_build(arguments: AutoencoderArguments) -> AutoencoderKL:
    """The autoencoder to train; with --decoder_only its encoder is frozen.

    Args:
        arguments: resolved.
    """
    if arguments.pretrained is None:
        assert arguments.preset and arguments.downsample_factor and arguments.latent_channels
        return build_autoencoder(
            arguments.preset, arguments.image_size, arguments.downsample_factor, arguments.latent_channels
        )
    included = f"the included model's autoencoder works: --pretrained {RELEASED_MODEL}"
    vae = load_component(AutoencoderKL, arguments.pretrained, "vae", offline=included)
    if arguments.image_size % downsample_factor(vae):
        raise InputError(
            f"--image_size must be a multiple of {downsample_factor(vae)}, the downsample factor of"
            f" {arguments.pretrained}, but is {arguments.image_size}."
        )
    if arguments.decoder_only:
        vae.requires_grad_(False)
        for part in (vae.decoder, vae.post_quant_conv):
            if part is not None:
                part.requires_grad_(True)
    return vae


def identity_of(
    arguments: AutoencoderArguments,
    splits: Sequence[PreparedSplit],
    vae: AutoencoderKL,
    perceptual: PerceptualDistance | None,
) -> dict[str, Any]:
    """Digests of what the run is made of, see `Run`. Call it before training: the network has its first weights.

    Args:
        splits: train and validation.
    """
    return {
        "data": splits[0].fingerprint,
        "data.validation": splits[1].fingerprint,
        "pretrained": network_digest(vae, weights=arguments.pretrained is not None),
        "squeezenet_weights": perceptual and perceptual.backbone_digest(),
    }


def build_discriminator(kind: str, perceptual: PerceptualDistance | None) -> torch.nn.Module:
    if kind == "patches":
        return PatchDiscriminator()
    assert perceptual is not None  # see `AutoencoderArguments.check`
    return FeatureDiscriminator(perceptual)


class Reconstruction(torch.nn.Module):
    """The whole pass of the autoencoder in one `forward`, because that is what accelerate wraps and synchronises."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(
        self, images: torch.Tensor, noise: torch.Tensor, transform: Transform
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images `(B, 3, H, W)` and standard normal noise `(B, C, h, w)` to reconstructions and the posterior's KL.

        The latents are decoded after `transform`. The KL divergence from N(0, I) is summed over the latent: `(B,)`.
        """
        posterior = self.vae.encode(images).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + torch.exp(0.5 * logvar) * noise
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))
        return self.vae.decode(transform(latents)).sample, kl


# --- optimisation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crops:
    """One process's rows of a global batch, on the CPU."""

    images: torch.Tensor  # (B, 3, S, S), -1 to 1
    noise: torch.Tensor  # (B, C, h, w), for the latents
    transform: Transform  # of images and latents

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, Transform]:
        asynchronous = device.type == "cuda"
        images, noise = (tensor.to(device, non_blocking=asynchronous) for tensor in (self.images, self.noise))
        return images, noise, self.transform


class Trainer:
    """The trained networks with optimizers and averaged weights, and one step of the run.

    Args:
        arguments: resolved.
        perceptual: None trains without LPIPS.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        arguments: AutoencoderArguments,
        vae: AutoencoderKL,
        perceptual: PerceptualDistance | None,
        total_steps: int,
        execution: Execution,
    ):
        self.accelerator, self.arguments, self.vae = accelerator, arguments, vae
        self.perceptual = perceptual
        self.discriminator = build_discriminator(arguments.discriminator, perceptual)
        trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
        fused = execution.fused_adamw or None
        optimizer = torch.optim.AdamW(
            trained, arguments.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=fused
        )
        discriminator_optimizer = torch.optim.AdamW(
            self.discriminator.parameters(),
            arguments.discriminator_learning_rate,
            betas=(0.5, 0.9),
            weight_decay=0.0,
            fused=fused,
        )
        self.lr_scheduler = learning_rate_schedule(optimizer, arguments, total_steps)
        self.model, self.judge, self.optimizer, self.discriminator_optimizer = accelerator.prepare(
            Reconstruction(vae), self.discriminator, optimizer, discriminator_optimizer
        )
        self.ema = EMA(trained, arguments.ema_half_life)
        if execution.compiled:
            vae.encoder.compile(dynamic=False)
            vae.decoder.compile(dynamic=False)

    def parts(self) -> dict[str, Any]:
        """Everything that has a state."""
        return {
            "vae": self.vae,
            "discriminator": self.discriminator,
            "optimizer": self.optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            "lr_scheduler": self.lr_scheduler,
            "ema": self.ema,
        }

    def step(self, crops: Crops, adversarial: bool) -> dict[str, torch.Tensor]:
        """One optimizer step on this process's rows of the batch; returns its losses.

        Nothing here waits for the device: its work is queued, and what is returned stays there.
        """
        accelerator, parts = self.accelerator, self.arguments.gradient_accumulation_steps
        batch, noise, transform = crops.on(accelerator.device)
        losses = {"train/loss": torch.zeros((), device=accelerator.device)}
        targets, decoded_pieces = transform(batch), []
        for rows in accumulate(accelerator, self.model, self.arguments):
            with accelerator.autocast():
                decoded, kl = self.model(batch[rows], noise[rows], transform)
            decoded = decoded.float()
            decoded_pieces.append(decoded.detach())
            loss = self.reconstruction_loss(targets[rows], decoded, kl)
            losses["train/loss"] += loss.detach() / parts
            if adversarial:
                loss = loss + self.adversarial_loss(loss, decoded)
            accelerator.backward(loss / parts)
        accelerator.clip_grad_norm_(self.model.parameters(), self.arguments.max_grad_norm)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        if adversarial:
            losses["train/discriminator_loss"] = self.discriminator_step(targets, decoded_pieces)
        return losses

    def discriminator_step(self, targets: torch.Tensor, decoded_pieces: list[torch.Tensor]) -> torch.Tensor:
        """One step of the discriminator on the images just decoded; returns its loss."""
        accelerator, parts = self.accelerator, self.arguments.gradient_accumulation_steps
        loss_sum = torch.zeros((), device=accelerator.device)
        pieces = accumulate(accelerator, self.judge, self.arguments)
        for rows, decoded in zip(pieces, decoded_pieces, strict=True):
            with accelerator.autocast():
                verdicts = self.judge(torch.cat([targets[rows], decoded]))
            loss = hinge_loss(verdicts)
            loss_sum += loss.detach() / parts
            accelerator.backward(loss / parts)
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad()
        return loss_sum

    def reconstruction_loss(self, images: torch.Tensor, decoded: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
        """L1, fine and coarse, + LPIPS + KL; the KL divergence is per pixel value."""
        difference = decoded - images
        coarse = F.avg_pool2d(difference, downsample_factor(self.vae))
        loss = difference.abs().mean() + self.arguments.coarse_weight * coarse.abs().mean()
        if self.arguments.kl_weight is not None:
            loss = loss + self.arguments.kl_weight * kl.mean() / images[0].numel()
        if self.perceptual is not None:
            with self.accelerator.autocast():
                distance = self.perceptual(decoded, images)
            loss = loss + self.arguments.perceptual_weight * distance.float().mean()
        return loss

    def adversarial_loss(self, loss: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """The discriminator's verdict on `decoded`, balanced against the reconstruction `loss`."""
        self.discriminator.requires_grad_(False)
        with self.accelerator.autocast():
            fooling = fooling_loss(self.discriminator(decoded))
        self.discriminator.requires_grad_(True)
        weight = adaptive_weight(loss, fooling, self.vae.decoder.conv_out.weight)
        return self.arguments.discriminator_weight * weight * fooling


# --- validation and report -------------------------------------------------------------------------------------------


@torch.no_grad()
def validate(
    vae: AutoencoderKL, pixels: np.ndarray, size: int, perceptual: PerceptualDistance | None
) -> dict[str, float]:
    """PSNR in dB (mean over photos), LPIPS, and the latents' mean and standard deviation, from posterior means.

    Each process measures a share of the photos; all of them call it.
    """
    state, sums = PartialState(), []
    for start in range(0, len(pixels), 32)[state.process_index :: state.num_processes]:
        images = to_model_range(center_crop(pixels[start : start + 32], size)).to(vae.device)
        encoded = vae.encode(images).latent_dist.mode()
        decoded = vae.decode(encoded).sample.clamp(-1, 1)
        # pixel values span 2, so the peak is 2
        psnr = 10 * torch.log10(4 / (decoded - images).square().mean(dim=(1, 2, 3)))
        lpips = perceptual(decoded, images) if perceptual is not None else torch.zeros_like(psnr)
        latents = encoded.cpu().double()
        parts = (psnr.sum(), lpips.sum(), latents.sum(), latents.square().sum())
        sums.append([*(part.item() for part in parts), latents.numel()])
    psnr_sum, lpips_sum, total, squares, count = np.sum(gather_object(sums), axis=0).tolist()
    values = {
        "validation/psnr": psnr_sum / len(pixels),
        "validation/latent_mean": total / count,
        "validation/latent_std": math.sqrt((squares - total**2 / count) / (count - 1)),
        "validation/images": len(pixels),
    }
    return values | ({"validation/lpips_squeeze": lpips_sum / len(pixels)} if perceptual is not None else {})


@torch.no_grad()
def reconstruction_grid(vae: AutoencoderKL, pixels: np.ndarray, size: int, count: int = 24) -> Image.Image:
    """Photos, each with its reconstruction on its right, six pairs per row."""
    chosen = np.linspace(0, len(pixels) - 1, min(count, len(pixels))).astype(int)
    photos = center_crop(pixels[chosen], size)
    decoded = to_uint8(vae.decode(vae.encode(to_model_range(photos).to(vae.device)).latent_dist.mode()).sample)
    pairs = np.concatenate([photos, decoded], axis=2)  # (B, H, 2 W, 3)
    rows = [np.concatenate(list(pairs[start : start + 6]), axis=1) for start in range(0, len(pairs) // 6 * 6, 6)]
    return Image.fromarray(np.concatenate(rows) if rows else np.concatenate(list(pairs)))


def save_autoencoder(
    vae: AutoencoderKL, pixels: np.ndarray, arguments: AutoencoderArguments, run: Run, earlier: dict | None
) -> None:
    """Normalise new latents, measure their `scaling_factor`, and write the autoencoder with the report of the run.

    Args:
        earlier: record of the autoencoder that the run started from, from `autoencoder_record`.
    """
    normalisation = {}
    if not arguments.decoder_only:
        mean, std = latent_statistics(vae, pixels, arguments.image_size, arguments.seed)
        vae.register_to_config(scaling_factor=1.0)
        normalize_latents(vae, mean, std)
        _, std_after = latent_statistics(vae, pixels, arguments.image_size, arguments.seed)
        vae.register_to_config(scaling_factor=round(1 / std_after.square().mean().sqrt().item(), 6))
        normalisation = {
            "latent_mean_before_normalisation": mean.tolist(),
            "latent_std_before_normalisation": std.tolist(),
        }
    with whole_folder(run.output_dir / "vae") as partial:
        vae.save_pretrained(partial)
    run.write_report(
        run.output_dir,
        **normalisation,
        scaling_factor=vae.config.scaling_factor,
        architecture=autoencoder_architecture(vae),
        digests={"encoder": encoder_digest(vae)},
        digest_notes=DIGEST_NOTES,
        pretrained=earlier,
    )
