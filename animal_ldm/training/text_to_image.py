"""The recipe of the text-to-image model, from top to bottom.

photos -> latents (encoded once) -> noise added -> UNet -> loss; averaged weights (EMA) -> AnimalLDMPipeline.
"""

# diffusers annotates configs, outputs and tensors too narrowly for a type checker.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..data.prepared import PreparedSplit, load_splits
from ..digest import encoder_digest, network_digest, pipeline_digest, weights_digest
from ..evaluation.extractors import load_extractor
from ..loading import load_component, load_pipeline
from ..perceptual import PerceptualDistance
from ..pipeline_animal_ldm import AnimalLDMPipeline
from ..released import model_folder
from ..schedulers import build_sampling_scheduler
from .alignment import alignment_loss, build_projector, classifier_features
from .arguments import TrainingArguments
from .batches import Batch, Batches, DiffusionProcess, EncodedPhotos, prepared_along
from .cache import Cache, fingerprint
from .cost import autoencoder_record
from .ema import EMA, PowerAverages
from .execution import Execution
from .fork import Configs, read_fork
from .guard import guarded
from .latents import latent_moments
from .lora import add_lora
from .models import (
    UNETS,
    autoencoder_architecture,
    check_prediction_type,
    check_unet,
    downsample_factor,
    load_unet,
    text_encoder_architecture,
    unet_architecture,
    use_attention,
)
from .objective import (
    Denoiser,
    build_noise_scheduler,
    diffusion_loss,
    loss_weights,
    training_target,
)
from .run import Run, accumulate, learning_rate_schedule, rows_of, start_accelerator
from .stream import ImageStream, step_seed
from .text import Captions, caption_record, known_words, load_text_encoder, take_over
from .validation import (
    BestWeights,
    check_samples_can_be_shared,
    grid_captions,
    inference,
    sample_grid,
    save_pipeline,
    validation_loss,
)

logger = logging.getLogger(__name__)

# What the digests in the report are computed over.
DIGEST_NOTES = {
    "identity.vae": "SHA-256 over the weights of encoder and quant_conv of the autoencoder trained with, loaded as "
    "float32 (animal_ldm.digest.encoder_digest)",
    "digests.encoder": "the same of the saved autoencoder, loaded as float32; it differs from identity.vae if "
    "save_dtype is float16",
    "digests.pipeline": "SHA-256 over all weights of the saved pipeline, loaded as float32, and its scheduler's "
    "settings (animal_ldm.digest.pipeline_digest)",
}


@guarded
def train(arguments: TrainingArguments) -> Path | None:
    """Train as `arguments` say, see `TrainingArguments`.

    Returns:
        Folder of the pipeline; None in all processes but the main one.

    Raises:
        InputError: an argument, the dataset or a component is at fault.
    """
    arguments.check()
    accelerator, execution = start_accelerator(arguments)
    check_samples_can_be_shared(accelerator, arguments)
    device = accelerator.device
    verify = arguments.verify_photos and accelerator.is_main_process
    train_split, validation_split = load_splits(arguments.data, verify)
    captions = grid_captions(validation_split, arguments)

    # everything that may have to be downloaded comes first
    networks = load_networks(arguments, train_split.all_captions, device)
    autoencoder = autoencoder_record(arguments.vae)
    perceptual = PerceptualDistance(arguments.squeezenet_weights).to(device) if networks.projector else None
    extractor = None
    if arguments.eval_every:
        weights = arguments.extractor_weights
        extractor = load_extractor(arguments.eval_extractor, weights, device, arguments.cache_dir)

    identity = identity_of(arguments, (train_split, validation_split), networks, perceptual)
    aligned_until = arguments.alignment_end if arguments.alignment_weight > 0 else 1.0
    run = Run(accelerator, arguments, identity, len(train_split), execution, aligned_until)
    execution = run.execution
    photos, validation_photos = encode_photos(
        Cache(accelerator, arguments.cache_dir), arguments, networks, perceptual, train_split, validation_split
    )
    validation_batch = validation_photos.validation_batch(arguments.seed)
    if accelerator.is_main_process:
        logger.info(
            "%d photos. Latents after scaling: mean %.3f (should be about 0), standard deviation %.3f (about 1)",
            len(train_split),
            validation_batch.latents.mean(),
            validation_batch.latents.std(),
        )

    trainer = Trainer(accelerator, arguments, networks, run.total_steps, execution)
    run.resume(**trainer.parts(), configs=trained_configs(networks))
    base = config_of_base(arguments)
    classes = sorted({*train_split.classes, *known_classes(arguments, base)})
    pipeline = build_pipeline(arguments, networks, train_split, classes, base.get("sampling_defaults"))
    result = Result(run, pipeline, (train_split, validation_split), networks, autoencoder)
    best = BestWeights(run, arguments, pipeline, extractor, result.save) if extractor else None
    stream = ImageStream(train_split.labels, arguments.seed, arguments.balance_classes)
    rows, size = rows_of(accelerator, arguments), arguments.batch_size
    batches = Batches(photos, stream, size, arguments.caption_dropout, rows, execution)

    for images_seen, pieces in prepared_along(run.steps(), batches.at, size, execution):
        # dropout inside the networks is a function of (seed, images seen, process) too
        torch.manual_seed(step_seed(arguments.seed, images_seen, accelerator.process_index + 1))
        losses = trainer.step(pieces, aligned=not run.late)
        run.advance()
        trainer.ema.update(run.images_seen, size)
        if trainer.power_averages is not None:
            trainer.power_averages.update(run.images_seen, size)
            if run.due(arguments.ema_snapshots_every) and accelerator.is_main_process:
                trainer.power_averages.save(run.output_dir, run.images_seen)
        for name, loss in losses.items():
            run.track_loss(name, loss)

        if run.due(arguments.validate_every):
            with trainer.averaged():
                loss = validation_loss(accelerator, trainer.model, trainer.noise_scheduler, validation_batch)
                run.announce({"validation/loss": loss})
                run.log_image("samples", sample_grid(pipeline, arguments, captions))
            run.write_page(classes=train_split.classes)
        if best is not None and run.due(arguments.eval_every):
            with trainer.averaged():
                best.evaluate()
        if run.due(arguments.checkpoint_every):
            run.checkpoint()

    if accelerator.is_main_process:
        with trainer.ema.swapped_in():
            result.save(run.output_dir)
    accelerator.end_training()
    return run.output_dir if accelerator.is_main_process else None


# --- networks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Networks:
    """The networks of the pipeline, and what the middle of the UNet goes through in representation alignment."""

    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    projector: torch.nn.Module | None
    text_is_trained: bool
    forked_from: dict[str, Any] | None  # see `Fork.record`


def load_networks(arguments: TrainingArguments, texts: tuple[str, ...], device: torch.device) -> Networks:
    """Load or build the networks, those that stay frozen on `device`.

    Args:
        texts: training captions, for the tokenizer of a new text encoder.
    """
    if arguments.base is not None:
        check_prediction_type(arguments.base, arguments.prediction_type)
    torch.manual_seed(arguments.seed)
    vae = load_component(AutoencoderKL, arguments.vae, "vae").to(device).eval().requires_grad_(False)
    tokenizer, text_encoder = load_text_encoder(arguments.text_encoder, texts)
    text_is_new = arguments.text_encoder == "scratch"
    text_is_trained = text_is_new or arguments.train_text_encoder
    fork = read_fork(arguments.fork, with_text=text_is_new) if arguments.fork else None
    if fork and fork.text:
        missing = take_over(tokenizer, text_encoder, *fork.text)
        logger.info("%d of %d tokens are not in %s; they start at random", missing, len(tokenizer), fork.name)
    text_encoder.to(device).train(text_is_trained).requires_grad_(text_is_trained)
    latent_size = arguments.image_size // downsample_factor(vae)
    fit = (latent_size, vae.config.latent_channels, text_encoder.config.hidden_size)
    if fork:
        unet = fork.unet
        unet.register_to_config(sample_size=latent_size)  # its convolutions work at any
        check_unet(unet, f"--fork {fork.name}", *fit)
    else:
        unet = load_unet(arguments.unet, *fit, arguments.dropout)
    unet.train()
    forked_from = fork and fork.record()
    if arguments.lora_rank:
        add_lora(unet, arguments.lora_rank, arguments.base)
    use_attention(unet, arguments.attention, device)
    if arguments.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    projector = build_projector(unet.config.block_out_channels[-1]) if arguments.alignment_weight > 0 else None
    return Networks(vae, tokenizer, text_encoder, unet, projector, text_is_trained, forked_from)


def identity_of(
    arguments: TrainingArguments,
    splits: Sequence[PreparedSplit],
    networks: Networks,
    perceptual: PerceptualDistance | None,
) -> dict[str, Any]:
    """Digests of what the run is made of, see `Run`. Call it before training: the networks have their first weights.

    Args:
        splits: train and validation.
    """
    unet, tokenizer = networks.unet, networks.tokenizer
    new = arguments.unet in UNETS or arguments.unet.endswith(".json")
    new_text = arguments.text_encoder == "scratch" and not arguments.fork
    return {
        "data": splits[0].fingerprint,
        "data.captions": fingerprint(splits[0].captions, splits[0].labels),
        "data.validation": fingerprint(splits[1].fingerprint, splits[1].captions),
        "vae": encoder_digest(networks.vae),
        "vae.scaling_factor": networks.vae.config.scaling_factor,
        "text_encoder": "scratch" if new_text else weights_digest(networks.text_encoder),
        "text_encoder.tokenizer": fingerprint(tokenizer.backend_tokenizer.to_str(), tokenizer.model_max_length),
        "unet": network_digest(unet, weights=not new or arguments.fork is not None),
        "fork": networks.forked_from and fingerprint(networks.forked_from["digests"]),
        "squeezenet_weights": perceptual and perceptual.backbone_digest(),
    }


def trained_configs(networks: Networks) -> Configs:
    """For the checkpoints."""
    text_encoder = networks.text_encoder if networks.text_is_trained else None
    return Configs(networks.unet, networks.tokenizer, text_encoder)


def config_of_base(arguments: TrainingArguments) -> dict[str, Any]:
    """The config of the pipeline that the run starts from; empty if there is none."""
    if arguments.base is None:
        return {}
    try:
        config: Any = AnimalLDMPipeline.load_config(model_folder(arguments.base))
    except OSError:  # not a pipeline, but a run that is not finished, or a UNet on the Hub
        return {}
    return config


def known_classes(arguments: TrainingArguments, base: dict[str, Any]) -> list[str]:
    """Classes of the pipeline with this config, which the run starts from; a new text encoder forgets them."""
    return [] if arguments.text_encoder == "scratch" else list(base.get("classes") or ())


def build_pipeline(
    arguments: TrainingArguments,
    networks: Networks,
    train_split: PreparedSplit,
    classes: list[str],
    sampling_defaults: dict[str, Any] | None,
) -> AnimalLDMPipeline:
    """A pipeline over the networks in training: it always has their current weights."""
    noise_scheduler = build_noise_scheduler(arguments.num_ddpm_steps, arguments.prediction_type)
    pipeline = AnimalLDMPipeline(
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=networks.tokenizer,
        unet=networks.unet,
        scheduler=build_sampling_scheduler(arguments.scheduler, noise_scheduler),
        classes=classes,
        vocabulary=known_words(train_split.all_captions),
        sampling_defaults=sampling_defaults,
    )
    pipeline.set_progress_bar_config(disable=True)
    arguments.settings(pipeline)  # raises an `InputError` unless the UNet has the layers of --pag_applied_layers
    return pipeline


# --- data ------------------------------------------------------------------------------------------------------------


def encode_photos(
    cache: Cache,
    arguments: TrainingArguments,
    networks: Networks,
    perceptual: PerceptualDistance | None,
    train_split: PreparedSplit,
    validation_split: PreparedSplit,
) -> tuple[EncodedPhotos, EncodedPhotos]:
    """Training and validation photos as latents with captions; everything slow is computed once and cached."""
    vae, unet = networks.vae, networks.unet
    texts = (*train_split.all_captions, *validation_split.all_captions)
    captions = Captions(cache, texts, networks.tokenizer, networks.text_encoder, frozen=not networks.text_is_trained)
    process = DiffusionProcess(vae.config.scaling_factor, arguments.num_ddpm_steps)
    moments, validation_moments = (
        latent_moments(cache, split, vae, arguments.image_size, arguments.latents)
        for split in (train_split, validation_split)
    )
    features = None
    if perceptual is not None:
        side = moments.shape[-1] // 2 ** (len(unet.config.block_out_channels) - 1)  # of the UNet's middle
        features = classifier_features(cache, train_split, perceptual, side, arguments.latents)
    return (
        EncodedPhotos(train_split, moments, captions, process, features),
        EncodedPhotos(validation_split, validation_moments, captions, process),
    )


# --- optimisation ----------------------------------------------------------------------------------------------------


class Trainer:
    """The trained networks with optimizer and averaged weights, and one step of the run."""

    def __init__(
        self,
        accelerator: Accelerator,
        arguments: TrainingArguments,
        networks: Networks,
        total_steps: int,
        execution: Execution,
    ):
        self.accelerator, self.arguments = accelerator, arguments
        self.noise_scheduler = build_noise_scheduler(arguments.num_ddpm_steps, arguments.prediction_type)
        self.model = Denoiser(
            networks.unet, networks.text_encoder if networks.text_is_trained else None, networks.projector
        )
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained,
            lr=arguments.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=arguments.weight_decay,
            fused=execution.fused_adamw or None,
        )
        self.lr_scheduler = learning_rate_schedule(optimizer, arguments, total_steps)
        self.wrapped, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.ema = EMA(trained, arguments.ema_half_life)
        self.power_averages = None
        if arguments.ema_snapshots_every:
            self.power_averages = PowerAverages(
                (name, parameter)
                for name, parameter in self.model.named_parameters()
                if parameter.requires_grad and not name.startswith("projector.")
            )
        if execution.compiled:
            networks.unet.compile(dynamic=False)

    def parts(self) -> dict[str, Any]:
        """Everything that has a state."""
        parts = {"model": self.model, "optimizer": self.optimizer, "lr_scheduler": self.lr_scheduler, "ema": self.ema}
        return parts | ({"power_averages": self.power_averages} if self.power_averages is not None else {})

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the model has its averaged weights, no dropout, and is not compiled: each other shape
        than that of a step would be compiled anew."""
        with self.ema.swapped_in(), inference(self.model), torch.compiler.set_stance("force_eager"):
            yield

    def step(self, pieces: Sequence[Batch], aligned: bool = True) -> dict[str, torch.Tensor]:
        """One optimizer step on this process's rows of the batch, a piece for each accumulation step.

        Not `aligned`, the distance from the photos' features is only measured: with a weight of 0 every parameter
        still has a gradient, which several processes wait for.

        Returns its losses. Nothing here waits for the device (except the loss scaling of fp16): its work is queued,
        and what is returned stays there.
        """
        accelerator, parts = self.accelerator, self.arguments.gradient_accumulation_steps
        alignment_weight = self.arguments.alignment_weight if aligned else 0.0
        names = ["train/loss"] + ["train/misalignment"] * (pieces[0].features is not None)
        sums = {name: torch.zeros((), device=accelerator.device) for name in names}
        for _, piece in zip(accumulate(accelerator, self.wrapped, self.arguments), pieces, strict=True):
            with accelerator.autocast():
                losses = self.losses(piece.to(accelerator.device))
            loss = losses["train/loss"]
            if "train/misalignment" in losses:
                loss = loss + alignment_weight * losses["train/misalignment"]
            accelerator.backward(loss / parts)
            for name in names:
                sums[name] = sums[name] + losses[name].detach() / parts
        accelerator.clip_grad_norm_(self.wrapped.parameters(), self.arguments.max_grad_norm)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        return sums

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Weighted denoising loss of a piece of a batch, and with alignment the distance from the photos' features."""
        noisy_latents = self.noise_scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        prediction, projected = self.wrapped(noisy_latents, batch.timesteps, batch.captions, batch.texts)
        target = training_target(self.noise_scheduler, batch.latents, batch.noise, batch.timesteps)
        weights = loss_weights(self.noise_scheduler, batch.timesteps, self.arguments.snr_gamma)
        losses = {"train/loss": diffusion_loss(prediction, target, weights)}
        if batch.features is not None:
            losses["train/misalignment"] = alignment_loss(projected, batch.features)
        return losses


# --- result ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a run has made so far: a pipeline with its report.

    Args:
        pipeline: over the networks in training.
        splits: train and validation.
        autoencoder: from `autoencoder_record`.
    """

    run: Run
    pipeline: AnimalLDMPipeline
    splits: tuple[PreparedSplit, PreparedSplit]
    networks: Networks
    autoencoder: dict | None

    def save(self, folder: Path) -> None:
        """Write the pipeline with the weights it has now, and `training_report.json`."""
        arguments, networks, (train_split, validation_split) = self.run.arguments, self.networks, self.splits
        save_pipeline(self.pipeline, folder, arguments.save_dtype)
        saved = load_pipeline(str(folder), "cpu")
        self.run.write_report(
            folder,
            training_photos=len(train_split),
            classes=train_split.classes,
            captions=caption_record(train_split, validation_split, arguments.seed),
            architecture={
                "autoencoder": autoencoder_architecture(networks.vae),
                "text_encoder": text_encoder_architecture(networks.text_encoder),
                "unet": unet_architecture(networks.unet),
            },
            digests={"encoder": encoder_digest(saved.vae), "pipeline": pipeline_digest(saved)},
            digest_notes=DIGEST_NOTES,
            autoencoder=self.autoencoder,
            forked_from=networks.forked_from,
        )
