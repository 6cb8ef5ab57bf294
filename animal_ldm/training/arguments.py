"""Arguments of the two trainers, in the groups that `--help` shows, and their ranges.

The comment above a field is its help. Its type says what becomes of another value when a run is resumed, see `kinds`.
Nothing slow is imported here: `--help` reads this module.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tyro

from ..errors import InputError, check_fraction, check_minimum, check_positive
from ..released import is_pipeline_folder, model_folder
from ..sampling import SamplingOptions
from .kinds import Content, Free, Identity, Irrelevant

# --- shared by both trainers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Photos to train on, and folders."""

    # Prepared dataset, as `animal-ldm prepare` writes it. Also the URL of one in shards, such as hf://datasets/user/name
    # or https://…: photos are then read from there to be encoded, and not kept.
    data: Content[str]
    # Folder for the result with its report, for sample images, logs and checkpoints.
    output_dir: Irrelevant[str]
    # Read every photo first and compare it with the digest that `prepare` wrote. Otherwise a photo is compared when it
    # is read to be encoded, and one that was exchanged afterwards is neither used nor noticed.
    verify_photos: Irrelevant[bool] = False
    # Side of the images the model is trained on, in pixels.
    image_size: Identity[int] = 128
    # Folder that keeps computed arrays (pixels, latents, embeddings) between runs. Default: $ANIMAL_LDM_CACHE, else
    # a folder in the Hugging Face cache.
    cache_dir: Irrelevant[str | None] = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    # Local file with the SqueezeNet 1.1 backbone, in safetensors format. Default: download torchvision's weights.
    squeezenet_weights: Annotated[Content[str | None], tyro.conf.arg(aliases=["--perceptual_weights"])] = None


@dataclass(frozen=True, kw_only=True)
class OptimisationOptions:
    """Length of the run and optimizer (AdamW)."""

    # Length of the run, in passes over the training photos; fractions are allowed.
    num_epochs: Free[float] = 60
    # Length of the run in minutes instead of --num_epochs. The first steps are timed, and the number of steps and the
    # learning rates follow from that; both stay as they are with --resume.
    max_minutes: Irrelevant[float | None] = None
    # Correct the steps at every validation and with --resume, so that this start ends after --max_minutes.
    adjust_length: Irrelevant[bool] = False
    # Photos per optimizer step, summed over all processes and accumulation steps.
    batch_size: Identity[int] = 128
    # Backward passes per optimizer step in each process.
    gradient_accumulation_steps: Irrelevant[int] = 1
    # Peak learning rate.
    learning_rate: Free[float] = 1e-4
    # Optimizer steps of linear warm-up to the peak learning rate.
    num_warmup_steps: Free[int] = 500
    # Learning rate after the warm-up.
    lr_schedule: Free[Literal["constant", "cosine"]] = "constant"
    # Gradients are clipped to this norm.
    max_grad_norm: Free[float] = 1.0
    # Half-life of the averaged weights (EMA), in photos; shorter early in the run.
    ema_half_life: Free[float] = 50_000
    # Seed of all randomness: weights, data order, noise, timesteps and dropout.
    seed: Identity[int] = 423432


@dataclass(frozen=True, kw_only=True)
class LoggingOptions:
    """Validation, checkpoints and logs."""

    # Photos between two validations.
    validate_every: Irrelevant[int] = 50_000
    # Photos between two checkpoints.
    checkpoint_every: Irrelevant[int] = 50_000
    # Number of checkpoints to keep.
    checkpoints_total_limit: Irrelevant[int] = 2
    # Resume from the newest checkpoint in OUTPUT_DIR.
    resume: Irrelevant[bool] = False
    # Trackers, separated by commas (tensorboard, wandb, …), or none.
    report_to: Irrelevant[str] = "tensorboard"
    # Country of the machine: ISO code with three letters, such as FRA or USA. Without it, energy use and CO2
    # emissions are not measured.
    country: Irrelevant[str | None] = None


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Speed and memory."""

    # Number type of the forward pass. auto: bf16 on a CUDA GPU that computes with it, else no, which is float32. The
    # report has what was chosen.
    mixed_precision: Free[Literal["auto", "no", "bf16", "fp16"]] = "auto"
    # Compile the network with torch.compile. auto: on a CUDA GPU, in runs of 2,000 steps or 20 minutes (--max_minutes)
    # or more. The report has what was chosen.
    compile: Irrelevant[Literal["auto", "yes", "no"]] = "auto"


# Dataclasses order their fields from the last base to the first, so the groups are listed backwards.
@dataclass(frozen=True, kw_only=True)
class RunArguments(MachineOptions, LoggingOptions, OptimisationOptions, ObjectiveOptions, DataOptions):
    """The arguments both trainers have."""

    # {title in `--help`: dataclass with the options}
    GROUPS: ClassVar[dict[str, type]]

    def record(self) -> dict[str, Any]:
        """All arguments as JSON values, in the order of `--help`."""
        return {field.name: getattr(self, field.name) for group in self.GROUPS.values() for field in fields(group)}

    def check(self) -> None:
        """Raise an `InputError` that names the first argument out of range."""
        check_minimum(self, 1, "image_size", "batch_size", "gradient_accumulation_steps")
        check_minimum(self, 1, "validate_every", "checkpoint_every", "checkpoints_total_limit")
        check_minimum(self, 0, "learning_rate", "num_warmup_steps", "ema_half_life", "seed")
        check_positive(self, "num_epochs", "max_grad_norm")
        if self.max_minutes is not None:
            check_positive(self, "max_minutes")
        if self.country is not None and not (len(self.country) == 3 and self.country.isalpha()):
            raise InputError(f"--country must be an ISO code with three letters, such as FRA, but is {self.country}.")


# --- animal-ldm train ------------------------------------------------------------------------------------------------

# Where the frozen networks come from by default.
HUB_VAE = "stabilityai/sd-vae-ft-mse"
HUB_TEXT_ENCODER = "openai/clip-vit-large-patch14"


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """Networks of the pipeline."""

    # Autoencoder: Hub id or folder. It stays frozen. Default: that of the pipeline the run starts from (--fork, or a
    # pipeline folder as --unet), else stabilityai/sd-vae-ft-mse.
    vae: Content[str] = ""
    # Text encoder with its tokenizer: Hub id or folder, used frozen; or "scratch" for a small one that is trained
    # jointly with the UNet. Default: that of the pipeline the run starts from, else openai/clip-vit-large-patch14.
    text_encoder: Content[str] = ""
    # Train the text encoder of a folder or the Hub too, so that it learns words it does not know.
    train_text_encoder: Identity[bool] = False
    # UNet: a new one of size tiny, small, medium or large (4, 11, 42 or 75 million parameters) or of a config.json; or
    # trained weights to start from (Hub id or folder).
    unet: Content[str] = "medium"
    # Start a new run from the weights of another one: its OUTPUT_DIR, finished or not, a pipeline folder or a Hub id.
    # This run takes its UNet in place of --unet, and with --text_encoder scratch also the weights of its text encoder;
    # words that it does not know start at random.
    fork: Content[str | None] = None
    # Fine-tune trained weights (--fork or --unet) by a LoRA of this rank (arXiv 2106.09685), which OUTPUT_DIR then
    # holds instead of a pipeline; 8 to 32 suit a few photos. 0 trains the UNet itself. Needs animal-ldm[lora].
    lora_rank: Identity[int] = 0
    # Dropout in the residual blocks of a new UNet of one of the four sizes.
    dropout: Identity[float] = 0.0
    # Scheduler of the saved pipeline, also used for sample grids. To change it in a finished run, pass another one
    # with --resume.
    scheduler: Free[Literal["ddim", "euler_ancestral", "sde_dpm"]] = "ddim"
    # Number type of the saved UNet and autoencoder. They load as float32 by default either way.
    save_dtype: Free[Literal["float32", "float16"]] = "float32"


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions(ObjectiveOptions):
    """What the UNet learns."""

    # Timesteps of the diffusion process.
    num_ddpm_steps: Identity[int] = 1000
    # What the UNet predicts.
    prediction_type: Identity[Literal["epsilon", "v_prediction"]] = "v_prediction"
    # Gamma of min-SNR loss weighting. None gives all timesteps the same weight.
    snr_gamma: Identity[float | None] = 5.0
    # Weight of representation alignment (REPA): the middle of the UNet learns to predict SqueezeNet's features of the
    # photo. 0 turns it off; 0.5 works well.
    alignment_weight: Identity[float] = 0.0
    # Fraction of the run after which alignment ends: it helps early in a run and may bind the UNet later (HASTE, arXiv
    # 2505.16792).
    alignment_end: Free[float] = 1.0
    # Fraction of captions replaced by the empty caption, for classifier-free guidance.
    caption_dropout: Identity[float] = 0.1
    # How far to balance the classes: one of n photos is shown in proportion to n^(1 - balance_classes). 0 shows every
    # photo equally often, 1 every class; 0.5 goes by the square root of the sizes.
    balance_classes: Identity[float] = 0.0


@dataclass(frozen=True, kw_only=True)
class DiffusionOptimisationOptions(OptimisationOptions):
    """Length of the run and optimizer (AdamW)."""

    # Weight decay.
    weight_decay: Free[float] = 0.01


@dataclass(frozen=True, kw_only=True)
class DiffusionLoggingOptions(LoggingOptions, SamplingOptions):
    """Validation, sample images, evaluation, checkpoints and logs. The sampling options apply to the images made
    during training; "the model's own" are those of the pipeline that the run starts from, and it keeps them."""

    # Images per class in the sample grid that each validation writes. Of more than 40 classes, 40 are shown.
    samples_per_class: Irrelevant[int] = 4
    # Text file with prompts of your own, one per line: a row each in the sample grid, below the classes and, where the
    # captions say more than the class, a few captions of the validation split.
    validation_prompts: Irrelevant[str | None] = None
    # Photos between two evaluations of the averaged weights: KID of samples against the validation photos. The best
    # weights go to OUTPUT_DIR/best. 0 turns evaluation off.
    eval_every: Irrelevant[int] = 0
    # Samples per evaluation.
    eval_images: Free[int] = 1024
    # Photos between two snapshots of power-function averages (post-hoc EMA), from which `animal-ldm ema` computes the
    # averaged weights of any length afterwards. Each takes as much space as the UNet in float32. 0 turns them off.
    ema_snapshots_every: Irrelevant[int] = 0
    # Feature extractor of the evaluation, as in `animal-ldm evaluate`.
    eval_extractor: Free[str] = "inception"
    # File or folder with the extractor's weights, as in `animal-ldm evaluate`.
    extractor_weights: Annotated[Free[str | None], tyro.conf.arg(aliases=["--eval_weights"])] = None


@dataclass(frozen=True, kw_only=True)
class DiffusionMachineOptions(MachineOptions):
    """Speed and memory."""

    # Where latents (and with --alignment_weight features) of the photos are. disk: encoded once, in --cache_dir, and
    # memory-mapped. memory: read from there into the memory of every process. none: encoded whenever a photo is used,
    # for photos that are used once or twice; the results may differ in rounding.
    latents: Free[Literal["disk", "memory", "none"]] = "disk"
    # Attention kernels: PyTorch's own, or those of xformers (install animal-ldm[xformers]; needs a supported GPU).
    attention: Irrelevant[Literal["sdpa", "xformers"]] = "sdpa"
    # Recompute activations in the backward pass: saves memory, takes longer.
    gradient_checkpointing: Irrelevant[bool] = False


@dataclass(frozen=True, kw_only=True)
class TrainingArguments(
    DiffusionMachineOptions,
    DiffusionLoggingOptions,
    DiffusionOptimisationOptions,
    DiffusionOptions,
    PipelineOptions,
    RunArguments,
):
    """Train a text-to-image latent diffusion model on prepared photos, or fine-tune one (--fork).

    Writes a pipeline (EMA weights) and training_report.json into OUTPUT_DIR, together with sample grids, logs and
    checkpoints. With several processes: `accelerate launch -m animal_ldm train …`.
    """

    GROUPS: ClassVar = {
        "data": DataOptions,
        "model": PipelineOptions,
        "objective": DiffusionOptions,
        "optimisation": DiffusionOptimisationOptions,
        "logging": DiffusionLoggingOptions,
        "machine": DiffusionMachineOptions,
    }

    def __post_init__(self) -> None:
        for name, default in (("vae", HUB_VAE), ("text_encoder", HUB_TEXT_ENCODER)):
            object.__setattr__(self, name, getattr(self, name) or self.base or default)

    @property
    def base(self) -> str | None:
        """Pipeline the run starts from, if any."""
        return self.fork or (self.unet if is_pipeline_folder(model_folder(self.unet)) else None)

    def check(self) -> None:
        RunArguments.check(self)
        check_minimum(self, 0, "lora_rank")
        if self.lora_rank and self.train_text_encoder:
            raise InputError(
                "--lora_rank trains the UNet alone and cannot be combined with --train_text_encoder. Remove one of"
                " them."
            )
        if self.lora_rank and self.base is None:
            raise InputError(
                "--lora_rank fine-tunes a trained model. Pass the folder of its pipeline with --unet, or its folder or"
                " Hub id with --fork."
            )
        SamplingOptions.check(self)
        check_minimum(self, 1, "num_ddpm_steps", "samples_per_class")
        check_minimum(self, 0, "alignment_weight", "weight_decay", "eval_every", "ema_snapshots_every")
        check_minimum(self, 2, "eval_images")
        check_fraction(self, "alignment_end", "caption_dropout", "dropout", "balance_classes")
        if self.snr_gamma is not None:
            check_positive(self, "snr_gamma")
        if self.fork is not None and Path(self.fork).resolve() == Path(self.output_dir).resolve():
            raise InputError("--fork and --output_dir are the same folder. Choose another, or --resume the old run.")
        steps = self.settings().num_inference_steps
        if steps > self.num_ddpm_steps:
            raise InputError(
                f"--num_inference_steps must be at most --num_ddpm_steps, {self.num_ddpm_steps}, but is {steps}."
            )


# --- animal-ldm train-autoencoder ------------------------------------------------------------------------------------

# Defaults of options that apply to some runs only: to a new autoencoder, and where the encoder is trained.
NEW_AUTOENCODER = {"preset": "small", "downsample_factor": 8, "latent_channels": 4}
KL_WEIGHT = 1e-6


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """The network: a new one, or a trained one to start from."""

    # Size of a new autoencoder: 3, 11, 21 or 84 million parameters with a downsampling factor of 8. Default: small.
    preset: Identity[Literal["tiny", "small", "medium", "large"] | None] = None
    # Pixels per latent along each side of a new autoencoder: 2, 4 or 8. Default: 8.
    downsample_factor: Identity[int | None] = None
    # Latent channels of a new autoencoder, usually 4 to 16. Default: 4.
    latent_channels: Identity[int | None] = None
    # Trained autoencoder to start from instead: Hub id or folder.
    pretrained: Content[str | None] = None
    # Train only the decoder of --pretrained. Its latents stay the same, so diffusion models that were trained on them
    # stay valid.
    decoder_only: Identity[bool] = False


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions(ObjectiveOptions):
    """Weights of the loss, relative to the L1 distance between photo and reconstruction."""

    # Weight of LPIPS. 0 turns it off.
    perceptual_weight: Identity[float] = 1.0
    # Weight of the L1 distance between images downsampled to the size of the latent. Without it, colours are learned
    # very late.
    coarse_weight: Identity[float] = 1.0
    # Weight of the KL divergence, summed over the latent and divided by the number of pixel values. Default: 1e-6. It
    # has no effect with --decoder_only.
    kl_weight: Identity[float | None] = None
    # Input of the discriminator: patches of pixels, or LPIPS features of a random window (projected GAN), which learns
    # faster and takes less time.
    discriminator: Identity[Literal["patches", "features"]] = "patches"
    # Weight of the adversarial loss. 0 turns it off.
    discriminator_weight: Identity[float] = 0.5
    # Fraction of the run after which the adversarial loss starts.
    discriminator_start: Free[float] = 0.6
    # Fraction of batches whose latents are scaled and rotated, to be decoded into photos scaled and rotated the same
    # way (EQ-VAE). This makes the latents easier to learn for a diffusion model.
    equivariance: Identity[float] = 0.0


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptimisationOptions(OptimisationOptions):
    """Length of the run and optimizers (AdamW)."""

    # Photos per optimizer step, summed over all processes and accumulation steps.
    batch_size: Identity[int] = 16
    # Peak learning rate.
    learning_rate: Free[float] = 4e-4
    # Optimizer steps of linear warm-up to the peak learning rate.
    num_warmup_steps: Free[int] = 200
    # Learning rate after the warm-up.
    lr_schedule: Free[Literal["constant", "cosine"]] = "cosine"
    # Learning rate of the discriminator. It is constant.
    discriminator_learning_rate: Free[float] = 1e-4
    # Half-life of the averaged weights (EMA), in photos; shorter early in the run.
    ema_half_life: Free[float] = 10_000


@dataclass(frozen=True, kw_only=True)
class AutoencoderLoggingOptions(LoggingOptions):
    """Validation, checkpoints and logs."""

    # Photos between two validations.
    validate_every: Irrelevant[int] = 10_000
    # Photos used for each validation. The last validation uses all of the validation split.
    validation_images: Free[int] = 256
    # Photos between two checkpoints.
    checkpoint_every: Irrelevant[int] = 10_000


@dataclass(frozen=True, kw_only=True)
class AutoencoderArguments(
    AutoencoderLoggingOptions,
    AutoencoderOptimisationOptions,
    ReconstructionOptions,
    AutoencoderOptions,
    RunArguments,
):
    """Train an AutoencoderKL on prepared photos.

    The photos may be larger than --image_size: training uses random crops of that size. Writes OUTPUT_DIR/vae (EMA
    weights, latents with zero mean and unit variance per channel), training_report.json with PSNR and LPIPS on the
    validation split, sample reconstructions and checkpoints. With several processes:
    `accelerate launch -m animal_ldm train-autoencoder …`.
    """

    GROUPS: ClassVar = {
        "data": DataOptions,
        "model": AutoencoderOptions,
        "objective": ReconstructionOptions,
        "optimisation": AutoencoderOptimisationOptions,
        "logging": AutoencoderLoggingOptions,
        "machine": MachineOptions,
    }

    def check(self) -> None:
        super().check()
        self._check_starting_point()
        check_minimum(self, 0, "perceptual_weight", "coarse_weight", "discriminator_weight")
        check_minimum(self, 0, "discriminator_learning_rate")
        check_minimum(self, 1, "validation_images")
        check_fraction(self, "discriminator_start", "equivariance")
        if self.kl_weight is not None:
            check_minimum(self, 0, "kl_weight")
        if self.latent_channels is not None:
            check_minimum(self, 1, "latent_channels")
        if self.downsample_factor not in (None, 2, 4, 8):
            raise InputError(f"--downsample_factor must be 2, 4 or 8, but is {self.downsample_factor}.")
        if self.discriminator == "features" and not self.perceptual_weight:
            raise InputError(
                "--discriminator features works on the features of LPIPS. Pass a --perceptual_weight above 0."
            )

    def _check_starting_point(self) -> None:
        """Refuse options that would have no effect: the report must not list what is not true of the network."""
        if self.decoder_only and self.pretrained is None:
            raise InputError(
                "--decoder_only trains the decoder of an existing autoencoder. Pass its folder or Hub id with"
                " --pretrained."
            )
        given = [f"--{name}" for name in NEW_AUTOENCODER if getattr(self, name) is not None]
        if self.pretrained is not None and given:
            raise InputError(
                f"{', '.join(given)} cannot be combined with --pretrained: these options describe a new autoencoder,"
                f" and {self.pretrained} already has its size. Remove them, or remove --pretrained."
            )
        if self.decoder_only and self.kl_weight is not None:
            raise InputError(
                "--kl_weight has no effect with --decoder_only, because the encoder is not trained. Remove one of"
                " them."
            )

    def resolved(self) -> Self:
        """With the defaults filled in that apply to this run; those that do not apply stay None."""
        changes: dict[str, Any] = {}
        if self.pretrained is None:
            changes |= {name: value for name, value in NEW_AUTOENCODER.items() if getattr(self, name) is None}
        if not self.decoder_only and self.kl_weight is None:
            changes["kl_weight"] = KL_WEIGHT
        return replace(self, **changes)
