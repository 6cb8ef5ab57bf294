"""Train a text-to-image latent diffusion model on prepared photos: `accelerate launch train_text_to_image.py --help`.

photos -> latents (encoded once) -> noised -> UNet -> loss; EMA weights -> AnimalLDMPipeline.
"""

import contextlib
import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.utils import make_image_grid
from PIL import Image

from animal_ldm import AnimalLDMPipeline
from animal_ldm.arguments import parse
from animal_ldm.cli import exit_on_bad_input
from animal_ldm.data.captions import with_article
from animal_ldm.data.prepared import load_split
from animal_ldm.evaluation.draw import Sampling
from animal_ldm.evaluation.evaluate import quick_report
from animal_ldm.evaluation.features import Extractor, load_extractor
from animal_ldm.perceptual import PerceptualDistance
from animal_ldm.training.alignment import alignment_loss, build_projector, classifier_features
from animal_ldm.training.batches import Batch, Photos
from animal_ldm.training.ema import EMA
from animal_ldm.training.latents import encoder_digest, latent_moments
from animal_ldm.training.models import load_component, load_unet, use_attention
from animal_ldm.training.objective import (
    Denoiser,
    build_noise_scheduler,
    build_sampling_scheduler,
    diffusion_loss,
    loss_weights,
    training_target,
)
from animal_ldm.training.report import autoencoder_record
from animal_ldm.training.run import Run, learning_rate_schedule, start_accelerator
from animal_ldm.training.stream import ImageStream, micro_batches, step_generator, step_seed
from animal_ldm.training.text import Captions, load_text_encoder


@dataclass(frozen=True)
class TrainingArguments:
    """Train a text-to-image latent diffusion model on prepared photos.

    Writes a pipeline (EMA weights) and training_report.json into OUTPUT_DIR, beside sample grids, logs and
    checkpoints to resume from. The defaults are the recipe of the model card this project goes back to.
    """

    # Prepared dataset, as written by `animal-ldm prepare`.
    data: str
    # Folder for the pipeline, its checkpoints, logs and report.
    output_dir: str
    # Autoencoder: Hub id or folder. Frozen.
    vae: str = "stabilityai/sd-vae-ft-mse"
    # Text encoder with its tokenizer: Hub id or folder, frozen; or "scratch": a small one, trained along.
    text_encoder: str = "openai/clip-vit-large-patch14"
    # UNet: tiny, small, medium or large (4, 11, 42, 75 million parameters); a config.json; or weights to go on from.
    unet: str = "medium"
    # Side of the photos, in pixels.
    image_size: int = 128
    # Length of the run, in passes over the training photos.
    num_epochs: float = 60
    # Photos per optimizer step, over all processes and accumulation steps.
    batch_size: int = 128
    # Backward passes per optimizer step and process.
    gradient_accumulation_steps: int = 1
    # Draw every class equally often, instead of every photo.
    balance_classes: bool = False
    # Steps of the diffusion process.
    num_ddpm_steps: int = 1000
    # What the UNet predicts.
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    # Gamma of min-SNR loss weighting; None weighs all timesteps equally.
    snr_gamma: float | None = 5.0
    # Weight of the representation alignment (REPA): the middle of the UNet learns to foretell SqueezeNet's features of
    # the photo; 0 trains without. 0.5 is a good value.
    alignment_weight: float = 0.0
    # Its SqueezeNet 1.1 backbone as safetensors; by default torchvision's own is downloaded.
    perceptual_weights: str | None = None
    # Share of captions left out, for classifier-free guidance.
    caption_dropout: float = 0.1
    # Dropout in the UNet's residual blocks.
    dropout: float = 0.0
    # Peak learning rate of AdamW.
    learning_rate: float = 1e-4
    # Optimizer steps until the learning rate reaches its peak.
    num_warmup_steps: int = 500
    # Course of the learning rate after its peak.
    lr_schedule: Literal["constant", "cosine"] = "constant"
    # Weight decay of AdamW.
    weight_decay: float = 0.01
    # Largest norm of the gradient.
    max_grad_norm: float = 1.0
    # Half-life of the averaged weights (EMA), in photos; shorter at the beginning of the run.
    ema_half_life: float = 50_000
    # Randomness of weights, order, noise, timesteps and dropout.
    seed: int = 423432
    # Arithmetic of the forward pass.
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    # Attention kernels: PyTorch's own, or xformers' (its extra must be installed, with kernels for this GPU).
    attention: Literal["sdpa", "xformers"] = "sdpa"
    # Recompute activations in the backward pass: less memory, more time.
    gradient_checkpointing: bool = False
    # Compile the UNet with torch.compile.
    compile: bool = False
    # Photos between two validations: loss on the validation split, and a grid of samples.
    validate_every: int = 50_000
    # Samples per class in the grid.
    samples_per_class: int = 4
    # Guidance and steps of the samples in the grid.
    guidance_scale: float = 3.0
    num_inference_steps: int = 25
    # Photos between two evaluations of the averaged weights by KID on the validation split, with guidance and steps as
    # in the grid; the best go to OUTPUT_DIR/best. 0 never evaluates.
    eval_every: int = 0
    # Samples drawn for each evaluation.
    eval_images: int = 1024
    # Feature extractor, and the file or folder with its weights, as in `animal-ldm evaluate`.
    eval_extractor: str = "inception"
    eval_weights: str | None = None
    # Scheduler the pipeline draws with, in the grid too; a finished run takes over another one with --resume.
    scheduler: Literal["ddim", "euler_ancestral", "sde_dpm"] = "ddim"
    # Number type of the saved UNet and autoencoder; they load as float32 either way.
    save_dtype: Literal["float32", "float16"] = "float32"
    # Photos between two checkpoints.
    checkpoint_every: int = 50_000
    # How many checkpoints to keep.
    checkpoints_total_limit: int = 2
    # Go on from the newest checkpoint in OUTPUT_DIR.
    resume: bool = False
    # Trackers, with commas: tensorboard, wandb, …, or none.
    report_to: str = "tensorboard"
    # Country of the machine, three letters (FRA, USA, …), for energy and CO2; without it they are "not measured".
    country: str | None = None
    # Where latents and text embeddings are kept between runs.
    cache_dir: str = "outputs/cache"


def batch_loss(
    denoiser: torch.nn.Module, scheduler: DDPMScheduler, batch: Batch, piece: slice, snr_gamma: float | None, device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss over the rows `piece` of `batch`, and how far the UNet's middle is from the photos' features."""
    latents, noise = batch.latents[piece].to(device), batch.noise[piece].to(device)
    timesteps = batch.timesteps[piece].to(device)
    noisy_latents = scheduler.add_noise(latents, noise, timesteps)
    prediction, projected = denoiser(noisy_latents, timesteps, batch.captions[piece].to(device))
    target = training_target(scheduler, latents, noise, timesteps)
    loss = diffusion_loss(prediction, target, loss_weights(scheduler, timesteps, snr_gamma))
    if batch.features is None:
        return loss, torch.zeros_like(loss)
    return loss, alignment_loss(projected, batch.features[piece].to(device))


@torch.no_grad()
def validation_loss(denoiser: Denoiser, scheduler: DDPMScheduler, batch: Batch, device) -> float:
    """Unweighted loss over a fixed batch."""
    pieces = [slice(start, start + 64) for start in range(0, len(batch.latents), 64)]
    sizes = [len(batch.latents[piece]) for piece in pieces]
    losses = [batch_loss(denoiser, scheduler, batch, piece, None, device)[0].item() for piece in pieces]
    return float(np.average(losses, weights=sizes))


def sample_grid(pipeline: AnimalLDMPipeline, arguments: TrainingArguments) -> Image.Image:
    """Samples from the same latents at every call: a row per class."""
    rows = []
    for name in pipeline.classes:
        generators = [
            torch.Generator().manual_seed(arguments.seed + column) for column in range(arguments.samples_per_class)
        ]
        rows += pipeline(
            [with_article(name)] * arguments.samples_per_class,
            num_inference_steps=arguments.num_inference_steps,
            guidance_scale=arguments.guidance_scale,
            generator=generators,
        ).images
    return make_image_grid(rows, rows=len(pipeline.classes), cols=arguments.samples_per_class)


def save_pipeline(pipeline: AnimalLDMPipeline, folder: Path, dtype: str) -> None:
    """Write the pipeline, UNet and VAE in `dtype`; not the text encoder: transformers would load it in that dtype."""
    networks = {name: copy.deepcopy(getattr(pipeline, name)).to(getattr(torch, dtype)) for name in ("unet", "vae")}
    components = {**pipeline.components, **networks}
    AnimalLDMPipeline(**components, classes=pipeline.classes).save_pretrained(folder)


def keep_best(run: Run, pipeline: AnimalLDMPipeline, extractor: Extractor, arguments: TrainingArguments) -> None:
    """Measure against the validation split; weights with the lowest kernel distance so far go to OUTPUT_DIR/best."""
    report = quick_report(
        pipeline,
        Path(arguments.data),
        arguments.eval_images,
        extractor,
        arguments.seed,
        run.output_dir / "evaluation",
        Sampling(guidance_scale=arguments.guidance_scale, num_inference_steps=arguments.num_inference_steps),
        state=PartialState() if run.accelerator.num_processes > 1 else None,
    )
    if run.accelerator.is_main_process:
        earlier = run.values("evaluation/kernel_distance")
        run.announce({f"evaluation/{name}": report[name] for name in ("kernel_distance", "frechet_distance")})
        if report["kernel_distance"] < min(earlier, default=math.inf):
            save_pipeline(pipeline, run.output_dir / "best", arguments.save_dtype)
            record = json.dumps({"images_seen": run.images_seen, **report}, indent=2)
            (run.output_dir / "best" / "quick_report.json").write_text(record)


def train(arguments: TrainingArguments) -> None:
    """Train as `arguments` say; see `TrainingArguments` for what is written."""
    accelerator = start_accelerator(arguments.output_dir, arguments.mixed_precision, arguments.report_to)
    device = accelerator.device
    splits = {name: load_split(arguments.data, name) for name in ("train", "validation")}
    texts = (*splits["train"].texts, *splits["validation"].texts)

    # networks
    torch.manual_seed(arguments.seed)
    vae = load_component(AutoencoderKL, arguments.vae, "vae").to(device).eval().requires_grad_(False)
    autoencoder_run = autoencoder_record(arguments.vae)
    tokenizer, text_encoder = load_text_encoder(arguments.text_encoder, splits["train"].texts)
    train_text = arguments.text_encoder == "scratch"
    text_encoder.to(device).train(train_text).requires_grad_(train_text)
    latent_size = arguments.image_size // 2 ** (len(vae.config.block_out_channels) - 1)
    unet = load_unet(
        arguments.unet, latent_size, vae.config.latent_channels, text_encoder.config.hidden_size, arguments.dropout
    ).train()
    use_attention(unet, arguments.attention, device)
    if arguments.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    aligned = arguments.alignment_weight > 0
    projector = build_projector(unet.config.block_out_channels[-1]) if aligned else None
    noise_scheduler = build_noise_scheduler(arguments.num_ddpm_steps, arguments.prediction_type)

    # data
    captions = Captions(accelerator, texts, tokenizer, text_encoder, not train_text, arguments.cache_dir)
    photos = {
        name: Photos(
            latent_moments(accelerator, split, vae, arguments.image_size, arguments.cache_dir),
            split,
            captions,
            vae.config.scaling_factor,
            arguments.num_ddpm_steps,
        )
        for name, split in splits.items()
    }
    if aligned:
        perceptual = PerceptualDistance(arguments.perceptual_weights).to(device)
        side = latent_size // 2 ** (len(unet.config.block_out_channels) - 1)
        photos["train"].features = classifier_features(
            accelerator, splits["train"], perceptual, side, arguments.cache_dir
        )
    stream = ImageStream(splits["train"].labels, arguments.seed, arguments.balance_classes)
    validation_batch = photos["validation"].validation_batch(arguments.seed)
    accelerator.print(
        f"{len(splits['train'])} photos; latents after scaling: mean {validation_batch.latents.mean():.3f} "
        f"(about 0 is right), standard deviation {validation_batch.latents.std():.3f} (about 1 is right)"
    )

    # training state
    run = Run(
        accelerator,
        arguments,
        identity={
            "data": splits["train"].fingerprint,
            "vae": encoder_digest(vae),
            "unet": arguments.unet,
            "aligned": aligned,
        },
        batch_size=arguments.batch_size,
        total_images=round(arguments.num_epochs * len(splits["train"])),
    )
    model = Denoiser(unet, text_encoder if train_text else None, projector)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.99), weight_decay=arguments.weight_decay
    )
    lr_scheduler = learning_rate_schedule(optimizer, arguments, run.total_steps)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    ema = EMA(model.parameters(), arguments.ema_half_life)
    run.resume(model=model, optimizer=optimizer, lr_scheduler=lr_scheduler, ema=ema)
    if arguments.compile:
        unet.compile()
    pipeline = AnimalLDMPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_sampling_scheduler(arguments.scheduler, noise_scheduler),
        classes=splits["train"].classes,
    )
    pipeline.set_progress_bar_config(disable=True)
    if arguments.eval_every:
        extractor = load_extractor(arguments.eval_extractor, arguments.eval_weights, device)

    for images_seen in run.steps():
        generator = step_generator(arguments.seed, images_seen)
        chosen = stream.indices(images_seen, arguments.batch_size)
        batch = photos["train"].draw(chosen, generator, arguments.caption_dropout)
        # dropout inside the network is a function of (seed, images seen, process) too
        torch.manual_seed(step_seed(arguments.seed, images_seen, accelerator.process_index + 1))
        parts = arguments.gradient_accumulation_steps
        loss_sum = misalignment_sum = torch.zeros((), device=device)
        for part, piece in enumerate(
            micro_batches(arguments.batch_size, parts, accelerator.process_index, accelerator.num_processes)
        ):
            with contextlib.nullcontext() if part == parts - 1 else accelerator.no_sync(wrapped):
                with accelerator.autocast():
                    loss, misalignment = batch_loss(
                        wrapped, noise_scheduler, batch, piece, arguments.snr_gamma, device
                    )
                accelerator.backward((loss + arguments.alignment_weight * misalignment) / parts)
            loss_sum = loss_sum + loss.detach() / parts
            misalignment_sum = misalignment_sum + misalignment.detach() / parts
        accelerator.clip_grad_norm_(wrapped.parameters(), arguments.max_grad_norm)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        run.advance()
        ema.update(run.images_seen, arguments.batch_size)
        run.track_loss("train/loss", loss_sum)
        if aligned:
            run.track_loss("train/misalignment", misalignment_sum)

        if run.due(arguments.validate_every) and accelerator.is_main_process:
            with ema.swapped_in(), inference(model):
                run.announce({"validation/loss": validation_loss(model, noise_scheduler, validation_batch, device)})
                run.log_picture("samples", sample_grid(pipeline, arguments))
        if arguments.eval_every and run.due(arguments.eval_every):
            with ema.swapped_in(), inference(model):
                keep_best(run, pipeline, extractor, arguments)
        if run.due(arguments.checkpoint_every):
            run.checkpoint()

    if accelerator.is_main_process:
        with ema.swapped_in():
            save_pipeline(pipeline, run.output_dir, arguments.save_dtype)
        run.write_report(
            run.output_dir,
            training_photos=len(splits["train"]),
            classes=splits["train"].classes,
            autoencoder=autoencoder_run,
        )
        print(f"pipeline: {run.output_dir}")
    accelerator.end_training()


@contextlib.contextmanager
def inference(model: torch.nn.Module):
    """Without dropout, and back to where the model was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def main(argv: list[str] | None = None) -> None:
    train(parse(TrainingArguments, argv, prog="train_text_to_image.py"))


if __name__ == "__main__":
    exit_on_bad_input(main)
