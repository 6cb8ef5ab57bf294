"""Text-to-image latent diffusion (Rombach et al. 2022, arXiv 2112.10752) for a model of a few known classes.

The pipeline is Stable Diffusion's with perturbed-attention guidance, a guidance interval, stricter checks and warnings
for a model of few words. A saved folder also loads as a `StableDiffusionPipeline` or `StableDiffusionPAGPipeline` and
generates the same pixels from the same settings. This file travels with the weights and imports only torch, diffusers
and transformers.
"""

# Components and configs are set dynamically by diffusers, and arguments are checked by `check_inputs`.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportOptionalCall=false, reportOptionalIterable=false, reportOptionalOperand=false

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput
from diffusers.models.attention_processor import Attention
from diffusers.pipelines import auto_pipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg, retrieve_timesteps
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import (
    USE_PEFT_BACKEND,
    BaseOutput,
    logging,
    replace_example_docstring,
    scale_lora_layers,
    unscale_lora_layers,
)
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

# A child of the library's logger, so that `diffusers.utils.logging.set_verbosity_error()` quiets this file too.
logger = logging.get_logger(f"diffusers.{__name__}")

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

# What `__call__` takes where neither an argument nor the model's `sampling_defaults` say otherwise.
SAMPLING_DEFAULTS = {
    "num_inference_steps": 25,
    "guidance_scale": 3.0,
    "guidance_rescale": 0.0,
    "guidance_interval": (0.0, 1.0),
    "pag_scale": 0.0,
    "pag_applied_layers": ("mid",),
}

# A class is recognised by its name, or by its name with one of these endings replaced: (singular, plural).
PLURAL_ENDINGS = (
    ("", ""),
    ("", "s"),
    ("", "es"),
    ("y", "ies"),
    ("f", "ves"),
    ("ouse", "ice"),
    ("oose", "eese"),
    ("ox", "oxen"),
)

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import torch
        >>> from animal_ldm import AnimalLDMPipeline

        >>> pipe = AnimalLDMPipeline.from_pretrained("models/animal-ldm-128")
        >>> image = pipe("a zebra", generator=torch.Generator().manual_seed(1)).images[0]
        >>> image.save("zebra.png")
        ```
"""


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case, in order, without punctuation."""
    return re.findall(r"\w+", text.lower())


def names_class(prompt: str, class_name: str) -> bool:
    """Whether `prompt` contains `class_name` or its plural as whole words, in upper or lower case."""
    name = class_name.lower()
    forms = (name.removesuffix(one) + many for one, many in PLURAL_ENDINGS if name.endswith(one))
    patterns = (r"[\s_-]+".join(map(re.escape, form.split())) for form in forms)
    return re.search(rf"\b(?:{'|'.join(patterns)})\b", prompt.lower()) is not None


@dataclass
class AnimalLDMPipelineOutput(BaseOutput):
    """
    Output of [`AnimalLDMPipeline`].

    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`):
            B = prompts x `num_images_per_prompt` images, those of a prompt next to each other: PIL images for
            `output_type="pil"`, an array `(B, height, width, 3)` in [0, 1] for `"np"`, a tensor
            `(B, 3, height, width)` in [0, 1] for `"pt"`, the denoised latents `(B, C, height / f, width / f)`, at the
            scale the UNet works in, for `"latent"`.
    """

    images: PipelineImageInput


class AnimalLDMPipeline(StableDiffusionPipeline):
    r"""
    Pipeline for text-to-image generation with a latent diffusion model that was trained on a few classes.

    Inherited from [`StableDiffusionPipeline`]: loading, saving, devices and offloading; LoRA
    ([`~loaders.StableDiffusionLoraLoaderMixin.load_lora_weights`]), textual inversion, IP-Adapters and single files;
    FreeU and fused projections. `pipe.vae.enable_slicing()` and `pipe.vae.enable_tiling()` save memory in decoding.
    `StableDiffusionImg2ImgPipeline.from_pipe(pipe)` and the like share its components.

    Args:
        vae ([`AutoencoderKL`]):
            Decodes latents, divided by its `scaling_factor`, into images.
        text_encoder ([`~transformers.CLIPTextModel`]):
            Its last hidden state conditions the UNet; the unconditional embedding is that of `""`.
        tokenizer ([`~transformers.CLIPTokenizer`]):
            Prompts are padded or truncated to its `model_max_length`.
        unet ([`UNet2DConditionModel`]):
            Denoises the latents. One with `time_cond_proj_dim` (distilled as by LCM, arXiv 2310.04378) receives the
            guidance scale as an input instead of being evaluated twice.
        scheduler ([`SchedulerMixin`]):
            Any of `KarrasDiffusionSchedulers`, with the `prediction_type` the UNet was trained for. A scheduler made
            from another's config takes over its `algorithm_type`. [`DEISMultistepScheduler`] and [`SASolverScheduler`]
            have others than [`DPMSolverMultistepScheduler`], so name theirs:
            `DEISMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="deis")`,
            `SASolverScheduler.from_config(pipe.scheduler.config, algorithm_type="data_prediction")`.
        safety_checker, feature_extractor, image_encoder (*optional*):
            Those of Stable Diffusion; an IP-Adapter needs the last two, and loads `image_encoder` itself.
        classes (`list[str]`, *optional*):
            The classes the model was trained on. A prompt that names none of them gets a warning. The config holds
            them as `{name: index}`, because loading from the Hub takes every list in `model_index.json` for a
            component; [`AnimalLDMPipeline.classes`] gives the list.
        vocabulary (`str`, *optional*):
            The most frequent words of the training captions, separated by spaces. A prompt with other words gets a
            warning that names them; one that names no class gets none if all of its words are known.
        sampling_defaults (`dict`, *optional*):
            Defaults of this model for the arguments of [`~AnimalLDMPipeline.__call__`] in `SAMPLING_DEFAULTS`, such as
            `{"guidance_scale": 2.0}`. `StableDiffusionPipeline` ignores them.
        requires_safety_checker (`bool`, defaults to `False`):
            Written to the config so that `StableDiffusionPipeline` does not expect a safety checker.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        safety_checker: StableDiffusionSafetyChecker | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        classes: list[str] | dict[str, int] | None = None,
        requires_safety_checker: bool = False,
        vocabulary: str | None = None,
        sampling_defaults: dict[str, Any] | None = None,
    ):
        super().__init__(
            vae,
            text_encoder,
            tokenizer,
            unet,
            scheduler,
            safety_checker,
            feature_extractor,
            image_encoder,
            requires_safety_checker,
        )
        self.register_to_config(
            classes={name: index for index, name in enumerate(sorted(classes))} if classes else None,
            vocabulary=vocabulary,
            sampling_defaults=check_sampling_defaults(sampling_defaults) if sampling_defaults else None,
        )

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs):
        """As in [`DiffusionPipeline`]. What another class ignored, such as `classes`, is read from its folder."""
        folder = pipeline.config.get("_name_or_path")
        if folder and not {"classes", "_classes"} & {*pipeline.config, *kwargs}:
            with contextlib.suppress(OSError):  # not a folder, or one that is gone
                config = cls.load_config(folder, local_files_only=True)
                own = ("classes", "vocabulary", "sampling_defaults")
                kwargs |= {name: config.get(name) for name in own if name not in kwargs}
        return super().from_pipe(pipeline, **kwargs)

    def to_json_string(self) -> str:
        """`model_index.json`. It names a class that every diffusers has: the folder loads without this file."""
        index = json.loads(super().to_json_string()) | {"_class_name": StableDiffusionPipeline.__name__}
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    @property
    def classes(self) -> list[str]:
        """The classes the model was trained on, sorted; empty if they are not known."""
        return list(self.config.classes or ())

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of `prompt` that belong neither to the vocabulary nor to a class; empty without a vocabulary."""
        known = set((self.config.vocabulary or "").split())
        class_words = {word for name in self.classes for word in words_of(name)}
        return [
            word
            for word in dict.fromkeys(words_of(prompt))
            if known and word not in known and not any(names_class(word, name) for name in class_words)
        ]

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """What [`~AnimalLDMPipeline.__call__`] takes for each argument in `SAMPLING_DEFAULTS` that is None."""
        defaults = {**SAMPLING_DEFAULTS, **(self.config.sampling_defaults or {})}
        # JSON has no tuples
        return {name: tuple(value) if isinstance(value, list) else value for name, value in defaults.items()}

    def check_inputs(
        self,
        prompt,
        height,
        width,
        num_inference_steps=25,
        guidance_interval=(0.0, 1.0),
        negative_prompt=None,
        num_images_per_prompt=1,
        prompt_embeds=None,
        negative_prompt_embeds=None,
        output_type="pil",
        callback_on_step_end_tensor_inputs=None,
        ip_adapter_image=None,
        ip_adapter_image_embeds=None,
        pag_scale=0.0,
    ):
        """Raise a `ValueError` that names the first invalid argument of [`~AnimalLDMPipeline.__call__`]."""
        if height % self.vae_scale_factor or width % self.vae_scale_factor or min(height, width) <= 0:
            raise ValueError(
                f"`height` and `width` must be positive multiples of {self.vae_scale_factor}, the autoencoder's"
                f" downsampling factor, but are {height} and {width}."
            )
        if num_images_per_prompt < 1 or (num_inference_steps is not None and num_inference_steps < 1):
            raise ValueError(
                "`num_inference_steps` and `num_images_per_prompt` must be at least 1 but are"
                f" {num_inference_steps} and {num_images_per_prompt}."
            )
        if len(guidance_interval) != 2 or not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1:
            raise ValueError(
                "`guidance_interval` must be (start, stop) with 0 <= start <= stop <= 1, as fractions of the steps,"
                f" but is {guidance_interval!r}."
            )
        if tuple(guidance_interval) != (0, 1) and self.unet.config.time_cond_proj_dim is not None:
            raise ValueError(
                "`guidance_interval` must be (0.0, 1.0), because the UNet receives the guidance scale as an input"
                f" (`time_cond_proj_dim`), but is {guidance_interval!r}."
            )
        if not 0 <= pag_scale < float("inf"):
            raise ValueError(f"`pag_scale` must be a finite number of at least 0 but is {pag_scale}.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES} but is {output_type!r}.")
        unknown = set(callback_on_step_end_tensor_inputs or ()) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` may only hold {self._callback_tensor_inputs} but also holds"
                f" {sorted(unknown)}."
            )

        if (prompt is None) == (prompt_embeds is None):
            found = "neither" if prompt is None else "both"
            raise ValueError(f"Pass exactly one of `prompt` and `prompt_embeds`; found {found}.")
        if prompt is not None:
            check_texts("prompt", prompt)
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise ValueError("Pass at most one of `negative_prompt` and `negative_prompt_embeds`; found both.")
        if negative_prompt is not None:
            check_texts("negative_prompt", negative_prompt)
            batch_size = self._batch_size(prompt, prompt_embeds)
            if isinstance(negative_prompt, list) and len(negative_prompt) != batch_size:
                raise ValueError(
                    f"`negative_prompt` must be one text for all prompts or one for each of the {batch_size}, but"
                    f" {len(negative_prompt)} were passed."
                )
        if ip_adapter_image is not None and ip_adapter_image_embeds is not None:
            raise ValueError("Pass at most one of `ip_adapter_image` and `ip_adapter_image_embeds`; found both.")
        if ip_adapter_image_embeds is not None and not isinstance(ip_adapter_image_embeds, list):
            raise ValueError("`ip_adapter_image_embeds` must be a list with one tensor for each IP-Adapter.")
        found = ip_adapter_image is not None or ip_adapter_image_embeds is not None
        if found != (self.unet.config.encoder_hid_dim_type == "ip_image_proj"):
            raise ValueError(
                "`ip_adapter_image` or `ip_adapter_image_embeds` was passed, but no IP-Adapter is loaded; call"
                " `load_ip_adapter` first."
                if found
                else "An IP-Adapter is loaded: pass `ip_adapter_image` or `ip_adapter_image_embeds`, or call"
                " `unload_ip_adapter`."
            )
        both_embeds = prompt_embeds is not None and negative_prompt_embeds is not None
        if both_embeds and negative_prompt_embeds.shape != prompt_embeds.shape:
            raise ValueError(
                f"`negative_prompt_embeds` must have the shape of `prompt_embeds`, {tuple(prompt_embeds.shape)}, but"
                f" has {tuple(negative_prompt_embeds.shape)}."
            )

    @staticmethod
    def _batch_size(prompt, prompt_embeds) -> int:
        if isinstance(prompt, str):
            return 1
        return len(prompt) if prompt is not None else prompt_embeds.shape[0]

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Encode B prompts and their negative prompts, each repeated `num_images_per_prompt` times.

        Warns about prompts longer than the text encoder accepts, and about prompts with words that the model does not
        know or, if its vocabulary is not known, without a class of the model.

        Args:
            prompt (`str` or `list[str]`, *optional*): B texts; None with `prompt_embeds`.
            device (`torch.device`, *optional*): Device of the result, by default that of the pipeline.
            num_images_per_prompt (`int`): Copies of each embedding, next to each other.
            do_classifier_free_guidance (`bool`): Whether to encode negative prompts.
            negative_prompt (`str` or `list[str]`, *optional*): One text for all, or B texts; `""` by default.
            prompt_embeds (`torch.Tensor`, *optional*): `(B, tokens, hidden size)` instead of `prompt`.
            negative_prompt_embeds (`torch.Tensor`, *optional*): The same instead of `negative_prompt`.
            lora_scale (`float`, *optional*): Factor on the text encoder's LoRA layers.
            clip_skip (`int`, *optional*): Layers to skip at the end of the text encoder, for `prompt` alone.

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: both `(B * num_images_per_prompt, tokens, hidden size)`; the
            second is None without guidance.
        """
        device = device or self._execution_device
        batch_size = self._batch_size(prompt, prompt_embeds)
        scales_lora = lora_scale is not None and USE_PEFT_BACKEND and self.text_encoder is not None
        if scales_lora:
            self._lora_scale = lora_scale  # of adapters loaded from now on
            scale_lora_layers(self.text_encoder, lora_scale)
        if prompt_embeds is None:
            self._warn_about_unknown_prompts(prompt)
            prompt_embeds = self._embed(prompt, self.tokenizer.model_max_length, device, clip_skip)
        if do_classifier_free_guidance and negative_prompt_embeds is None:
            if not isinstance(negative_prompt, list):
                negative_prompt = [negative_prompt or ""] * batch_size
            negative_prompt_embeds = self._embed(negative_prompt, prompt_embeds.shape[1], device)
        if scales_lora:
            unscale_lora_layers(self.text_encoder, lora_scale)

        # number type, device and copies
        prompt_embeds, negative_prompt_embeds = super().encode_prompt(
            None,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        return prompt_embeds, negative_prompt_embeds

    def _embed(self, texts: str | list[str], length: int, device, clip_skip: int | None = None) -> torch.Tensor:
        """Last hidden states `(B, length, hidden size)`, or those `clip_skip` layers earlier, normalised too."""
        texts = [texts] if isinstance(texts, str) else texts
        if any(token in text for token in self.tokenizer.get_added_vocab() for text in texts):
            texts = self.maybe_convert_prompt(texts, self.tokenizer)  # of textual inversion
        whole = self.tokenizer(texts, verbose=False).input_ids
        for text, ids in dict(zip(texts, whole, strict=True)).items():
            if len(ids) > length:
                cut = self.tokenizer.decode(ids[length - 1 : -1])
                logger.warning(
                    f"The prompt {text!r} has {len(ids)} tokens, but the text encoder accepts {length}; this part is"
                    f" cut off: {cut!r}."
                )
        padded = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        encoded = self.text_encoder(padded.input_ids.to(device), output_hidden_states=clip_skip is not None)
        if clip_skip is None:
            return encoded[0]
        # transformers before version 5 has the layer one level deeper
        layers = getattr(self.text_encoder, "text_model", self.text_encoder)
        return layers.final_layer_norm(encoded.hidden_states[-(clip_skip + 1)])

    def _warn_about_unknown_prompts(self, prompts: str | list[str]) -> None:
        learned = self.tokenizer.get_added_vocab()  # by textual inversion
        for prompt in dict.fromkeys([prompts] if isinstance(prompts, str) else prompts):
            unknown = self.unknown_words(prompt)
            if unknown:
                logger.warning(
                    f"The prompt {prompt!r} has words that are rare in the captions the model was trained on, or"
                    f" missing there: {', '.join(unknown)}."
                )
            # "" asks for an image of no particular class, which the model has learned for guidance.
            named = not prompt or any(token in prompt for token in learned)
            named = named or not self.classes or any(names_class(prompt, name) for name in self.classes)
            if not named and (unknown or not self.config.vocabulary):
                logger.warning(
                    f"The prompt {prompt!r} names none of the classes the model was trained on:"
                    f" {', '.join(self.classes)}."
                )

    def prepare_latents(self, batch_size, num_channels_latents, height, width, dtype, device, generator, latents=None):
        """Noise `(batch_size, C, height / f, width / f)`, or `latents`, times the scheduler's first sigma."""
        shape = (
            batch_size,
            num_channels_latents,
            height // self.vae_scale_factor,
            width // self.vae_scale_factor,
        )
        if latents is not None and latents.shape != shape:
            raise ValueError(f"`latents` must have the shape {shape} but has {tuple(latents.shape)}.")
        latents = None if latents is None else latents.to(dtype=dtype)
        return super().prepare_latents(
            batch_size, num_channels_latents, height, width, dtype, device, generator, latents
        )

    @property
    def guidance_interval(self):
        return self._guidance_interval

    @property
    def pag_scale(self):
        return self._pag_scale

    @property
    def do_perturbed_attention_guidance(self):
        return self._pag_scale > 0

    def _guides_step(self, i: int) -> bool:
        start, stop = self._guidance_interval
        return start <= i / self._num_timesteps < stop

    def self_attention_layers(self, names: str | Sequence[str]) -> list[Attention]:
        """
        Self-attention layers of the UNet, for `pag_applied_layers`.

        Args:
            names (`str` or `list[str]`): Parts of the layers' names, or regular expressions, such as `"mid"`.

        Raises:
            `ValueError`: one of `names` matches no layer, or there is none.
        """
        layers = {
            name: module
            for name, module in self.unet.named_modules()
            if name.endswith(".attn1") and isinstance(module, Attention) and not module.is_cross_attention
        }
        names = [names] if isinstance(names, str) else names
        missing = [name for name in names if not any(re.search(name, layer) for layer in layers)]
        if missing or not names:
            raise ValueError(
                f"`pag_applied_layers` must match self-attention layers of the UNet, {[*layers]}, but is {[*names]}"
                + (f", of which {missing} match none." if missing else ".")
            )
        return [module for layer, module in layers.items() if any(re.search(name, layer) for name in names)]

    def _rows_of_step(self, embeds: torch.Tensor, guided: bool) -> torch.Tensor:
        """Of `embeds`, under guidance (2 B, ...) with the negative ones first, else (B, ...): those the UNet needs.

        Without guidance the positive ones; else the negative ones for classifier-free guidance, the positive ones, and
        these once more for perturbed attention.
        """
        parts = embeds.chunk(2) if self.do_classifier_free_guidance else (embeds,)
        if not guided:
            return parts[-1]
        return torch.cat((*parts, parts[-1])) if self.do_perturbed_attention_guidance else embeds

    def _guide(self, noise_pred: torch.Tensor) -> torch.Tensor:
        """The guided prediction `(B, C, height / f, width / f)`, of the predictions for [`_rows_of_step`]."""
        parts = [*noise_pred.chunk(1 + self.do_classifier_free_guidance + self.do_perturbed_attention_guidance)]
        perturbed = parts.pop() if self.do_perturbed_attention_guidance else None
        guided = text = parts[-1]
        if self.do_classifier_free_guidance:
            guided = parts[0] + self.guidance_scale * (text - parts[0])
        if perturbed is not None:
            guided = guided + self.pag_scale * (text - perturbed)
        if self.do_classifier_free_guidance and self.guidance_rescale > 0:
            guided = rescale_noise_cfg(guided, text, self.guidance_rescale)
        return guided

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        pag_scale: float | None = None,
        pag_applied_layers: str | Sequence[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[[DiffusionPipeline, int, int, dict], dict]
        | PipelineCallback
        | MultiPipelineCallbacks
        | None = None,
        callback_on_step_end_tensor_inputs: Iterable[str] = ("latents",),
    ) -> AnimalLDMPipelineOutput | tuple:
        r"""
        Generate images.

        The defaults of `num_inference_steps`, `guidance_scale`, `guidance_rescale`, `guidance_interval`, `pag_scale`
        and `pag_applied_layers` are those of the model, [`AnimalLDMPipeline.sampling_defaults`]; below are the ones of
        a model that sets none.

        Args:
            prompt (`str` or `list[str]`, *optional*):
                What to generate; `""` leaves the choice to the model. Pass either this or `prompt_embeds`.
            height (`int`, *optional*):
                In pixels, a multiple of the autoencoder's downsampling factor; the UNet's training size by default.
            width (`int`, *optional*):
                As `height`.
            num_inference_steps (`int`, defaults to 25):
                Denoising steps. More steps take longer and improve the images, up to a point.
            timesteps (`list[int]`, *optional*):
                The training timesteps to visit, descending, instead of `num_inference_steps`; not every scheduler
                supports it.
            sigmas (`list[float]`, *optional*):
                The noise levels to visit, descending, instead of `num_inference_steps`; not every scheduler supports
                it.
            guidance_scale (`float`, defaults to 3.0):
                Weight of classifier-free guidance (arXiv 2207.12598). Above 1, images follow the prompt more closely
                and vary less; at 1 or below there is no guidance and a step costs half.
            guidance_rescale (`float`, defaults to 0.0):
                How far, from 0 to 1, the guided prediction is rescaled to the conditional one's standard deviation
                (arXiv 2305.08891, section 3.4); reduces overexposure.
            guidance_interval (`tuple[float, float]`, defaults to `(0.0, 1.0)`):
                The part `[start, stop)` of the sampling steps that is guided (arXiv 2404.07724), in both ways: step i
                of n, counted from 0, the noisiest, is guided if `start <= i / n < stop`. The other steps use the
                conditional prediction alone and cost one evaluation. Equal ends turn guidance off.
            pag_scale (`float`, defaults to 0.0):
                Weight of perturbed-attention guidance (arXiv 2403.17377): away from the prediction of the same UNet
                with every position in `pag_applied_layers` attending to itself alone. It gives images more coherent
                structure, with or without classifier-free guidance, and adds one evaluation of the UNet to every
                guided step; 0 turns it off.
            pag_applied_layers (`str` or `list[str]`, defaults to `("mid",)`):
                The self-attention layers to perturb, as parts of their names in the UNet or regular expressions.
            negative_prompt (`str` or `list[str]`, *optional*):
                What to guide away from, `""` by default; one text for all prompts, or one for each.
            num_images_per_prompt (`int`, defaults to 1):
                Images per prompt.
            eta (`float`, defaults to 0.0):
                η of DDIM (arXiv 2010.02502), in [0, 1]; other schedulers ignore it.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Source of all noise: one for the batch, or one for each image, which makes an image independent of the
                rest of its batch.
            latents (`torch.Tensor`, *optional*):
                The initial noise, standard normal, `(B, C, height / f, width / f)`.
            prompt_embeds (`torch.Tensor`, *optional*):
                `(prompts, tokens, hidden size)` instead of `prompt`; see [`~AnimalLDMPipeline.encode_prompt`].
            negative_prompt_embeds (`torch.Tensor`, *optional*):
                The same instead of `negative_prompt`.
            ip_adapter_image (`PipelineImageInput`, *optional*):
                Image prompt for a loaded IP-Adapter (arXiv 2308.06721), or a list with one for each.
            ip_adapter_image_embeds (`list[torch.Tensor]`, *optional*):
                For each IP-Adapter `(1, images, size)`, or under guidance `(2, images, size)` with the negative
                first, instead of `ip_adapter_image`.
            output_type (`str`, defaults to `"pil"`):
                `"pil"`, `"np"`, `"pt"` or `"latent"`; see [`AnimalLDMPipelineOutput`].
            return_dict (`bool`, defaults to `True`):
                Whether to return [`AnimalLDMPipelineOutput`] or the tuple `(images,)`.
            cross_attention_kwargs (`dict`, *optional*):
                Passed to the UNet's attention processors. `{"scale": …}` is the weight of loaded LoRAs, from 0 to 1,
                in the UNet and in the text encoder.
            clip_skip (`int`, *optional*):
                Condition on the text encoder's hidden state this many layers before the last.
            callback_on_step_end (`Callable`, `PipelineCallback` or `MultiPipelineCallbacks`, *optional*):
                Called after each step as `callback(pipe, step, timestep, tensors)`; what it returns replaces the
                tensors. Setting `pipe._interrupt = True` in it ends the denoising early.
            callback_on_step_end_tensor_inputs (`list[str]`, defaults to `["latents"]`):
                Which of `latents`, `prompt_embeds` (under guidance preceded by the negative ones, along the batch)
                and `negative_prompt_embeds` the callback receives.

        Examples:

        Returns:
            [`AnimalLDMPipelineOutput`] or `tuple`: the images.

        Raises:
            `ValueError`: an argument is invalid, or does not fit the model or another argument.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs

        defaults = self.sampling_defaults
        num_inference_steps = defaults["num_inference_steps"] if num_inference_steps is None else num_inference_steps
        guidance_scale = defaults["guidance_scale"] if guidance_scale is None else guidance_scale
        guidance_rescale = defaults["guidance_rescale"] if guidance_rescale is None else guidance_rescale
        guidance_interval = defaults["guidance_interval"] if guidance_interval is None else guidance_interval
        pag_scale = defaults["pag_scale"] if pag_scale is None else pag_scale
        pag_applied_layers = defaults["pag_applied_layers"] if pag_applied_layers is None else pag_applied_layers
        sample_size = self.unet.config.sample_size
        rows, columns = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
        height = height or rows * self.vae_scale_factor
        width = width or columns * self.vae_scale_factor

        # 1. Check the inputs
        self.check_inputs(
            prompt,
            height,
            width,
            num_inference_steps,
            guidance_interval,
            negative_prompt,
            num_images_per_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            output_type,
            callback_on_step_end_tensor_inputs,
            ip_adapter_image,
            ip_adapter_image_embeds,
            pag_scale,
        )
        perturbed_layers = self.self_attention_layers(pag_applied_layers) if pag_scale > 0 else []

        self._guidance_scale = guidance_scale
        self._guidance_rescale = guidance_rescale
        self._guidance_interval = guidance_interval
        self._pag_scale = pag_scale
        self._cross_attention_kwargs = cross_attention_kwargs
        self._clip_skip = clip_skip
        self._interrupt = False
        device = self._execution_device
        batch_size = self._batch_size(prompt, prompt_embeds) * num_images_per_prompt

        # 2. Encode the prompt
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompt,
            device,
            num_images_per_prompt,
            self.do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            lora_scale=(cross_attention_kwargs or {}).get("scale"),
            clip_skip=clip_skip,
        )
        if self.do_classifier_free_guidance:
            prompt_embeds = torch.cat([negative_prompt_embeds, prompt_embeds])  # (2 B, tokens, hidden size)

        image_embeds = []
        if ip_adapter_image is not None or ip_adapter_image_embeds is not None:
            image_embeds = self.prepare_ip_adapter_image_embeds(
                ip_adapter_image, ip_adapter_image_embeds, device, batch_size, self.do_classifier_free_guidance
            )

        # 3. Prepare timesteps and latents
        timesteps, _ = retrieve_timesteps(self.scheduler, num_inference_steps, device, timesteps, sigmas)
        self._num_timesteps = len(timesteps)
        latents = self.prepare_latents(
            batch_size,
            self.unet.config.in_channels,
            height,
            width,
            prompt_embeds.dtype,
            device,
            generator,
            latents,
        )
        extra_step_kwargs = self.prepare_extra_step_kwargs(generator, eta)
        timestep_cond = None
        if self.unet.config.time_cond_proj_dim is not None:
            weights = torch.tensor(self.guidance_scale - 1).repeat(batch_size)
            timestep_cond = self.get_guidance_scale_embedding(weights, self.unet.config.time_cond_proj_dim)
            timestep_cond = timestep_cond.to(device=device, dtype=latents.dtype)

        # 4. Denoise
        for i, t in enumerate(self.progress_bar(timesteps)):
            if self.interrupt:
                continue
            guided = self._guides_step(i)
            step_embeds = self._rows_of_step(prompt_embeds, guided)
            images = [self._rows_of_step(embeds, guided) for embeds in image_embeds]
            copies = len(step_embeds) // batch_size  # n, from 1 to 3: (n B, C, H / f, W / f)
            with perturbed_attention(perturbed_layers if guided else [], batch_size):
                noise_pred = self.unet(
                    self.scheduler.scale_model_input(torch.cat([latents] * copies), t),
                    t,
                    encoder_hidden_states=step_embeds,
                    timestep_cond=None if timestep_cond is None else timestep_cond.repeat(copies, 1),
                    cross_attention_kwargs=self.cross_attention_kwargs,
                    added_cond_kwargs={"image_embeds": images} if images else None,
                    return_dict=False,
                )[0]
            if guided:
                noise_pred = self._guide(noise_pred)
            latents = self.scheduler.step(noise_pred, t, latents, **extra_step_kwargs, return_dict=False)[0]

            if callback_on_step_end is not None:
                callback_kwargs = {}
                for name in callback_on_step_end_tensor_inputs:
                    callback_kwargs[name] = locals()[name]
                callback_outputs = callback_on_step_end(self, i, t, callback_kwargs)
                latents = callback_outputs.pop("latents", latents)
                prompt_embeds = callback_outputs.pop("prompt_embeds", prompt_embeds)
                negative_prompt_embeds = callback_outputs.pop("negative_prompt_embeds", negative_prompt_embeds)

        # 5. Decode
        image, unsafe = latents, None
        if output_type != "latent":
            latents = latents / self.vae.config.scaling_factor
            image = self.vae.decode(latents, return_dict=False, generator=generator)[0]
            image, unsafe = self.run_safety_checker(image, device, prompt_embeds.dtype)
        # the safety checker has already blackened what it found
        denormalize = None if unsafe is None else [not found for found in unsafe]
        image = self.image_processor.postprocess(image, output_type=output_type, do_denormalize=denormalize)
        self.maybe_free_model_hooks()

        return AnimalLDMPipelineOutput(images=image) if return_dict else (image,)


class PerturbedSelfAttention:
    """Attention processor: in the last `rows` of the batch, every position attends to itself alone.

    The other rows go through `processor`, the layer's own. The perturbation of arXiv 2403.17377.
    """

    def __init__(self, processor: Any, rows: int):
        self.processor, self.rows = processor, rows

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states=None, attention_mask=None):
        own = self.processor(attn, hidden_states[: -self.rows], encoder_hidden_states, attention_mask)
        perturbed = attn.to_v(hidden_states[-self.rows :])
        for layer in attn.to_out:
            perturbed = layer(perturbed)
        return torch.cat([own, perturbed])


@contextlib.contextmanager
def perturbed_attention(layers: Sequence[Attention], rows: int) -> Iterator[None]:
    """Perturb the last `rows` of the batch in `layers`."""
    own = [layer.processor for layer in layers]
    try:
        for layer in layers:
            layer.set_processor(PerturbedSelfAttention(layer.processor, rows))
        yield
    finally:
        for layer, processor in zip(layers, own, strict=True):
            layer.set_processor(processor)


def check_texts(name: str, texts: Any) -> None:
    """Raise a `ValueError` unless `texts` is a text or a list of at least one."""
    if not isinstance(texts, str) and not (
        isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
    ):
        raise ValueError(f"`{name}` must be a text or a list of at least one text but is {texts!r}.")


def check_sampling_defaults(defaults: dict[str, Any]) -> dict[str, Any]:
    """`defaults`; a `ValueError` if it holds an unknown name, or a value out of range."""
    unknown = sorted(set(defaults) - set(SAMPLING_DEFAULTS))
    if unknown:
        raise ValueError(f"`sampling_defaults` may only hold {[*SAMPLING_DEFAULTS]} but also holds {unknown}.")
    steps, scale, rescale, interval, pag_scale, layers = (
        {**SAMPLING_DEFAULTS, **defaults}[name] for name in SAMPLING_DEFAULTS
    )
    if not (
        isinstance(steps, int)
        and steps >= 1
        and isinstance(interval, list | tuple)
        and len(interval) == 2
        and all(isinstance(number, int | float) for number in (scale, rescale, *interval, pag_scale))
        and abs(scale) < float("inf")
        and 0 <= rescale <= 1
        and 0 <= interval[0] <= interval[1] <= 1
        and 0 <= pag_scale < float("inf")
        and isinstance(layers, list | tuple)
        and layers
        and all(isinstance(layer, str) for layer in layers)
    ):
        raise ValueError(
            "`sampling_defaults` must hold whole `num_inference_steps` of at least 1, a finite `guidance_scale`, a"
            " `guidance_rescale` from 0 to 1, a `guidance_interval` of two ascending fractions, a finite `pag_scale`"
            f" of at least 0 and `pag_applied_layers` of one or more texts, but is {defaults}."
        )
    return defaults


# AutoPipeline finds the pipeline of a task by class name, in these tables.
auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING["animal-ldm"] = AnimalLDMPipeline
auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING["animal-ldm"] = StableDiffusionImg2ImgPipeline
auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING["animal-ldm"] = StableDiffusionInpaintPipeline
