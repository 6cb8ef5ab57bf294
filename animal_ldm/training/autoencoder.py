"""Train the autoencoder: `accelerate launch -m animal_ldm.training.autoencoder` or `animal-ldm train-autoencoder`.

L1 + LPIPS + KL, then, late, a discriminator: the recipe of latent diffusion (arXiv 2112.10752, appendix G), and L1
once more between the pictures shrunk to the size of the latent.
"""

import contextlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional as F

from ..arguments import parse
from ..cli import exit_on_bad_input
from ..data.prepared import load_split
from ..errors import InputError
from ..perceptual import PerceptualDistance
from .discriminator import FeatureDiscriminator, PatchDiscriminator, adaptive_weight, fooling_loss, hinge_loss
from .ema import EMA
from .models import build_autoencoder, load_component
from .pixels import center_crop, pixel_array, random_crops, to_model_range, to_picture
from .report import autoencoder_record
from .run import Run, learning_rate_schedule, start_accelerator
from .stream import ImageStream, micro_batches, step_generator, step_seed


@dataclass(frozen=True)
class AutoencoderArguments:
    """Train an AutoencoderKL on prepared photos.

    Writes OUTPUT_DIR/vae (EMA weights, latents of zero mean and unit variance per channel), training_report.json
    with PSNR and LPIPS on the validation split, sample reconstructions, and checkpoints to resume from.
    """

    # Prepared dataset, as written by `animal-ldm prepare`; its photos may be larger than --image_size.
    data: str
    # Folder for the autoencoder, its checkpoints, logs and report.
    output_dir: str
    # Side of the random crops trained on, in pixels.
    image_size: int = 128
    # Size of a new autoencoder (3, 11, 21 and 84 million parameters at factor 8).
    preset: Literal["tiny", "small", "medium", "large"] = "small"
    # Go on from this autoencoder (Hub id or folder) instead of a new one.
    pretrained: str | None = None
    # Train the decoder of --pretrained alone: its latents, and all that was trained on them, stay as they are.
    decoder_only: bool = False
    # Pixels per latent, along each side: 4 or 8.
    downsample_factor: int = 8
    # Channels of the latent: 4 to 16.
    latent_channels: int = 4
    # Length of the run, in passes over the training photos.
    num_epochs: float = 60
    # Photos per optimizer step, over all processes and accumulation steps.
    batch_size: int = 16
    # Backward passes per optimizer step and process.
    gradient_accumulation_steps: int = 1
    # Peak learning rate of AdamW.
    learning_rate: float = 4e-4
    # Optimizer steps until the learning rate reaches its peak.
    num_warmup_steps: int = 200
    # Course of the learning rate after its peak.
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    # Largest norm of the gradient.
    max_grad_norm: float = 1.0
    # Weight of LPIPS against L1; 0 trains without.
    perceptual_weight: float = 1.0
    # SqueezeNet 1.1 backbone of LPIPS as safetensors; by default torchvision's own is downloaded.
    perceptual_weights: str | None = None
    # Weight of L1 between the pictures shrunk to the size of the latent: without it, colours come very late.
    coarse_weight: float = 1.0
    # Weight of the KL divergence, summed over the latent and divided by the number of pixel values.
    kl_weight: float = 1e-6
    # What the discriminator judges: patches of pixels, or LPIPS's features of a random window (projected GAN), which
    # learns sooner and takes less time.
    discriminator: Literal["patches", "features"] = "patches"
    # Weight of the discriminator's loss; 0 trains without.
    discriminator_weight: float = 0.5
    # Share of the run after which the discriminator joins.
    discriminator_start: float = 0.6
    # Learning rate of the discriminator's AdamW, constant.
    discriminator_learning_rate: float = 1e-4
    # Share of batches whose latents are shrunk and turned, to be decoded to the shrunk and turned photos (EQ-VAE):
    # it makes the latents easier to learn for the diffusion model.
    equivariance: float = 0.0
    # Half-life of the averaged weights (EMA), in photos.
    ema_half_life: float = 10_000
    # Randomness of order, crops, flips and noise.
    seed: int = 423432
    # Arithmetic of the forward pass.
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    # Compile the network with torch.compile.
    compile: bool = False
    # Photos between two validations.
    validate_every: int = 10_000
    # Validation photos at each of them (the last validation takes all).
    validation_images: int = 256
    # Photos between two checkpoints.
    checkpoint_every: int = 10_000
    # How many checkpoints to keep.
    checkpoints_total_limit: int = 2
    # Go on from the newest checkpoint in OUTPUT_DIR.
    resume: bool = False
    # Trackers, with commas: tensorboard, wandb, …, or none.
    report_to: str = "tensorboard"
    # Country of the machine, three letters (FRA, USA, …), for energy and CO2; without it they are "not measured".
    country: str | None = None
    # Where computed arrays are kept between runs.
    cache_dir: str = "outputs/cache"


@dataclass(frozen=True)
class Change:
    """Shrinks to `scale` of the size and turns by `quarters` of a circle: what latents and images are to share.

    EQ-VAE (Kouzelis et al. 2025, arXiv 2502.09509, section 3.3): a decoder trained on changed latents makes the
    latents follow the picture's own symmetries.
    """

    scale: float = 1.0
    quarters: int = 0

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` to `(B, C, H * scale, W * scale)`."""
        if self.scale != 1:
            maps = F.interpolate(maps, scale_factor=self.scale, mode="bilinear", antialias=True)
        return maps.rot90(self.quarters, dims=(2, 3))


def draw_change(generator: torch.Generator, share: float) -> Change:
    """With probability `share` a scale of 1/4, 1/2, 3/4 or 1 and a turn; else none."""
    changed = torch.rand((), generator=generator).item() < share
    scale, quarters = torch.randint(4, (2,), generator=generator).tolist()
    return Change((scale + 1) / 4, quarters) if changed else Change()


class Reconstruction(torch.nn.Module):
    """The autoencoder's whole pass in one `forward`, for that is what accelerate wraps and synchronises."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, images: torch.Tensor, noise: torch.Tensor, change: Change) -> tuple[torch.Tensor, torch.Tensor]:
        """Images `(B, 3, H, W)` and standard normal noise `(B, C, h, w)` to reconstructions and the posterior's KL.

        The latents are decoded after `change`. The KL divergence to N(0, I) is summed over the latent: `(B,)`.
        """
        posterior = self.vae.encode(images).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + torch.exp(0.5 * logvar) * noise
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))
        return self.vae.decode(change(latents)).sample, kl


@torch.no_grad()
def latent_statistics(
    vae: AutoencoderKL, pixels: np.ndarray, size: int, seed: int, most: int = 4096
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each latent channel over drawn posteriors: two `(C,)`, float64.

    Of more than `most` photos, `most` spread evenly over the dataset are measured.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = pixels[np.linspace(0, len(pixels) - 1, min(most, len(pixels))).astype(int)]
    moments = []
    for start in range(0, len(pixels), 64):
        images = to_model_range(center_crop(pixels[start : start + 64], size)).to(vae.device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        latents = posterior.mean.cpu() + posterior.std.cpu() * noise
        latents = latents.double().transpose(0, 1).flatten(1)
        moments.append(
            torch.stack([latents.sum(1), latents.square().sum(1), torch.full((len(latents),), latents.shape[1])])
        )
    total, squares, count = torch.stack(moments).sum(0)
    mean = total / count
    return mean, (squares / count - mean.square()).sqrt()


@torch.no_grad()
def normalize_latents(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Fold `(z - mean) / std` into the 1x1 convolutions on both sides of the latent; reconstructions do not change.

    Args:
        mean, std: `(C,)`, of the latents as they are.
    """
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    mean, std = mean.to(quant.weight), std.to(quant.weight)
    # encoder side: mean' = (mean - m) / s and logvar' = logvar - 2 log s
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    # decoder side: post(s z' + m); the bias first, for it needs the old weight
    post.bias += (post.weight.flatten(1) * mean).sum(1)
    post.weight *= std[None, :, None, None]


@torch.no_grad()
def validate(
    vae: AutoencoderKL, pixels: np.ndarray, size: int, perceptual: PerceptualDistance | None
) -> dict[str, float]:
    """PSNR in dB (mean over photos), LPIPS, and the latents' mean and standard deviation, from posterior means."""
    psnr, lpips, latents = [], [], []
    for start in range(0, len(pixels), 32):
        images = to_model_range(center_crop(pixels[start : start + 32], size)).to(vae.device)
        encoded = vae.encode(images).latent_dist.mode()
        decoded = vae.decode(encoded).sample.clamp(-1, 1)
        latents.append(encoded)
        # pixel values span 2, so the peak is 2
        psnr.append(10 * torch.log10(4 / (decoded - images).square().mean(dim=(1, 2, 3))))
        if perceptual is not None:
            lpips.append(perceptual(decoded, images))
    latents = torch.cat(latents)
    values = {
        "validation/psnr": torch.cat(psnr).mean().item(),
        "validation/latent_mean": latents.mean().item(),
        "validation/latent_std": latents.std().item(),
        "validation/images": len(pixels),
    }
    return values | ({"validation/lpips_squeeze": torch.cat(lpips).mean().item()} if lpips else {})


@torch.no_grad()
def reconstruction_grid(vae: AutoencoderKL, pixels: np.ndarray, size: int, count: int = 24) -> Image.Image:
    """Photos, each with its reconstruction to the right of it, six pairs a row."""
    chosen = np.linspace(0, len(pixels) - 1, min(count, len(pixels))).astype(int)
    photos = center_crop(pixels[chosen], size)
    decoded = to_picture(vae.decode(vae.encode(to_model_range(photos).to(vae.device)).latent_dist.mode()).sample)
    pairs = np.concatenate([photos, decoded], axis=2)
    rows = [np.concatenate(list(pairs[start : start + 6]), axis=1) for start in range(0, len(pairs) // 6 * 6, 6)]
    return Image.fromarray(np.concatenate(rows) if rows else np.concatenate(list(pairs)))


def load_or_build(arguments: AutoencoderArguments) -> AutoencoderKL:
    if arguments.decoder_only and arguments.pretrained is None:
        raise InputError("--decoder_only goes on from an autoencoder: expected its folder or Hub id in --pretrained")
    if arguments.pretrained is None:
        return build_autoencoder(
            arguments.preset, arguments.image_size, arguments.downsample_factor, arguments.latent_channels
        )
    vae = load_component(AutoencoderKL, arguments.pretrained, "vae")
    if arguments.decoder_only:
        vae.requires_grad_(False)
        for part in (vae.decoder, vae.post_quant_conv):
            if part is not None:
                part.requires_grad_(True)
    return vae


def build_discriminator(kind: str, perceptual: PerceptualDistance | None) -> torch.nn.Module:
    if kind == "patches":
        return PatchDiscriminator()
    if perceptual is None:
        raise InputError("--discriminator features judges LPIPS's features: expected a --perceptual_weight above 0")
    return FeatureDiscriminator(perceptual)


class Trainer:
    """The networks and optimizers of a run, and one step of it.

    Args:
        perceptual: None trains without LPIPS.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        arguments: AutoencoderArguments,
        vae: AutoencoderKL,
        perceptual: PerceptualDistance | None,
        total_steps: int,
    ):
        self.accelerator, self.arguments, self.vae = accelerator, arguments, vae
        self.perceptual = perceptual
        self.discriminator = build_discriminator(arguments.discriminator, perceptual)
        trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, arguments.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        discriminator_optimizer = torch.optim.AdamW(
            self.discriminator.parameters(),
            arguments.discriminator_learning_rate,
            betas=(0.5, 0.9),
            weight_decay=0.0,
        )
        self.lr_scheduler = learning_rate_schedule(optimizer, arguments, total_steps)
        self.model, self.judge, self.optimizer, self.discriminator_optimizer = accelerator.prepare(
            Reconstruction(vae), self.discriminator, optimizer, discriminator_optimizer
        )
        self.ema = EMA(trained, arguments.ema_half_life)
        if arguments.compile:
            vae.encoder.compile()
            vae.decoder.compile()

    def parts(self) -> dict:
        """Everything that has a state."""
        return {
            "vae": self.vae,
            "discriminator": self.discriminator,
            "optimizer": self.optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            "lr_scheduler": self.lr_scheduler,
            "ema": self.ema,
        }

    def step(
        self, batch: torch.Tensor, noise: torch.Tensor, change: Change, adversarial: bool
    ) -> dict[str, torch.Tensor]:
        """One optimizer step on the global batch `(B, 3, S, S)`; returns this process's losses."""
        accelerator, parts = self.accelerator, self.arguments.gradient_accumulation_steps
        pieces = list(micro_batches(len(batch), parts, accelerator.process_index, accelerator.num_processes))
        losses = {"train/loss": torch.zeros((), device=accelerator.device)}
        wanted, decoded_pieces = change(batch), []
        for piece in pieces:
            with self._synchronised(self.model, piece is pieces[-1]):
                with accelerator.autocast():
                    decoded, kl = self.model(batch[piece], noise[piece], change)
                decoded = decoded.float()
                decoded_pieces.append(decoded.detach())
                loss = self.reconstruction_loss(wanted[piece], decoded, kl)
                losses["train/loss"] += loss.detach() / parts
                if adversarial:
                    loss = loss + self.adversarial_loss(loss, decoded)
                accelerator.backward(loss / parts)
        accelerator.clip_grad_norm_(self.model.parameters(), self.arguments.max_grad_norm)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        if not adversarial:
            return losses

        losses["train/discriminator_loss"] = torch.zeros((), device=accelerator.device)
        for piece, decoded in zip(pieces, decoded_pieces, strict=True):
            with self._synchronised(self.judge, piece is pieces[-1]):
                with accelerator.autocast():
                    verdicts = self.judge(torch.cat([wanted[piece], decoded]))
                loss = hinge_loss(verdicts)
                losses["train/discriminator_loss"] += loss.detach() / parts
                accelerator.backward(loss / parts)
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad()
        return losses

    def _synchronised(self, model: torch.nn.Module, synchronised: bool):
        """Between accumulation steps the processes need not exchange gradients."""
        return contextlib.nullcontext() if synchronised else self.accelerator.no_sync(model)

    def reconstruction_loss(self, images: torch.Tensor, decoded: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
        """L1, fine and coarse, + LPIPS + KL, the KL divergence per pixel value."""
        difference = decoded - images
        coarse = F.avg_pool2d(difference, 2 ** (len(self.vae.config.block_out_channels) - 1))
        loss = difference.abs().mean() + self.arguments.coarse_weight * coarse.abs().mean()
        loss = loss + self.arguments.kl_weight * kl.mean() / images[0].numel()
        if self.perceptual is not None:
            with self.accelerator.autocast():
                distance = self.perceptual(decoded, images)
            loss = loss + self.arguments.perceptual_weight * distance.float().mean()
        return loss

    def adversarial_loss(self, loss: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """What the discriminator finds, balanced against the reconstruction `loss`."""
        self.discriminator.requires_grad_(False)
        with self.accelerator.autocast():
            fooling = fooling_loss(self.discriminator(decoded))
        self.discriminator.requires_grad_(True)
        weight = adaptive_weight(loss, fooling, self.vae.decoder.conv_out.weight)
        return self.arguments.discriminator_weight * weight * fooling


def train(arguments: AutoencoderArguments) -> None:
    """Train as `arguments` say; see `AutoencoderArguments` for what is written."""
    accelerator = start_accelerator(arguments.output_dir, arguments.mixed_precision, arguments.report_to)
    size, device = arguments.image_size, accelerator.device

    # data
    train_split, validation_split = load_split(arguments.data, "train"), load_split(arguments.data, "validation")
    pixels = pixel_array(accelerator, train_split, arguments.cache_dir)
    validation_pixels = pixel_array(accelerator, validation_split, arguments.cache_dir)
    if min(pixels.shape[1:3]) < size:
        raise InputError(
            f"expected photos of at least {size} pixels, found {pixels.shape[2]} x {pixels.shape[1]} in "
            f"{arguments.data}; prepare them with --image_size {size} or more"
        )
    stream = ImageStream(train_split.labels, arguments.seed)

    # networks and training state
    torch.manual_seed(arguments.seed)
    vae = load_or_build(arguments)
    latent_size = size // 2 ** (len(vae.config.block_out_channels) - 1)
    if arguments.equivariance and (latent_size % 4 or size < 32):
        raise InputError(
            "--equivariance shrinks to a quarter: expected an --image_size of at least 32 and latents of a size that "
            f"4 divides, found {size} and {latent_size}"
        )
    perceptual = PerceptualDistance(arguments.perceptual_weights).to(device) if arguments.perceptual_weight else None
    run = Run(
        accelerator,
        arguments,
        identity={
            "data": train_split.fingerprint,
            "vae": tuple(vae.config.block_out_channels),
            "discriminator": arguments.discriminator,
        },
        batch_size=arguments.batch_size,
        total_images=round(arguments.num_epochs * len(train_split)),
    )
    trainer = Trainer(accelerator, arguments, vae, perceptual, run.total_steps)
    run.resume(**trainer.parts())
    latent_shape = (arguments.batch_size, vae.config.latent_channels, latent_size, latent_size)
    some = validation_pixels[:: -(-len(validation_pixels) // arguments.validation_images)]

    for images_seen in run.steps():
        generator = step_generator(arguments.seed, images_seen)
        chosen = stream.indices(images_seen, arguments.batch_size)
        batch = to_model_range(random_crops(pixels[chosen], size, generator)).to(device)
        noise = torch.randn(latent_shape, generator=generator).to(device)
        change = draw_change(generator, arguments.equivariance)
        # what the discriminator looks at is a function of (seed, images seen, process) too
        torch.manual_seed(step_seed(arguments.seed, images_seen, accelerator.process_index + 1))
        late = images_seen >= arguments.discriminator_start * run.total_images
        losses = trainer.step(batch, noise, change, adversarial=arguments.discriminator_weight > 0 and late)
        run.advance()
        trainer.ema.update(run.images_seen, arguments.batch_size)
        for name, loss in losses.items():
            run.track_loss(name, loss)

        if run.due(arguments.validate_every) and accelerator.is_main_process:
            done = run.images_seen >= run.total_images
            with trainer.ema.swapped_in():
                run.announce(validate(vae, validation_pixels if done else some, size, perceptual))
                run.log_picture("reconstructions", reconstruction_grid(vae, validation_pixels, size))
        if run.due(arguments.checkpoint_every):
            run.checkpoint()

    if accelerator.is_main_process:
        with trainer.ema.swapped_in():
            save_autoencoder(vae, pixels, arguments, run)
    accelerator.end_training()


def save_autoencoder(vae: AutoencoderKL, pixels: np.ndarray, arguments: AutoencoderArguments, run: Run) -> None:
    """Normalise new latents, measure their `scaling_factor`, and write the autoencoder with the run's report."""
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
    vae.save_pretrained(run.output_dir / "vae")
    run.write_report(
        run.output_dir,
        **normalisation,
        scaling_factor=vae.config.scaling_factor,
        pretrained=autoencoder_record(arguments.pretrained) if arguments.pretrained else None,
    )
    print(f"autoencoder: {run.output_dir / 'vae'}")


def main(argv: list[str] | None = None) -> None:
    train(parse(AutoencoderArguments, argv, prog="animal-ldm train-autoencoder"))


if __name__ == "__main__":
    exit_on_bad_input(main)
