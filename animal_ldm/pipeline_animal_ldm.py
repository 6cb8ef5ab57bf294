"""Text-to-image latent diffusion (Rombach et al. 2022, arXiv 2112.10752) for a model of a few known classes.

The components are those of Stable Diffusion, so a saved folder also loads as a plain `StableDiffusionPipeline` and
generates the same pixels. This file travels with the weights and imports only torch, diffusers and transformers.
"""

# Components and configs are set dynamically by diffusers, and arguments are checked by `check_inputs`.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg, retrieve_timesteps
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import BaseOutput, logging, replace_example_docstring
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPTextModel, CLIPTokenizer

# A child of the library's logger, so that `diffusers.utils.logging.set_verbosity_error()` quiets this file too.
logger = logging.get_logger(f"diffusers.{__name__}")

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

# What `__call__` takes where neither an argument nor the model's `sampling_defaults` say otherwise.
SAMPLING_DEFAULTS = {
    "num_inference_steps": 25,
    "guidance_scale": 3.0,
    "guidance_rescale": 0.0,
    "guidance_interval": (0.0, 1.0),
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


class AnimalLDMPipeline(DiffusionPipeline, StableDiffusionMixin):
    r"""
    Pipeline for text-to-image generation with a latent diffusion model that was trained on a few classes.

    Loading, saving, devices and offloading are inherited from [`DiffusionPipeline`], FreeU and fused projections from
    [`StableDiffusionMixin`]. `pipe.vae.enable_slicing()` and `pipe.vae.enable_tiling()` save memory in decoding.

    Args:
        vae ([`AutoencoderKL`]):
            Decodes latents, divided by its `scaling_factor`, into images.
        text_encoder ([`~transformers.CLIPTextModel`]):
            Its last hidden state conditions the UNet; the unconditional embedding is that of `""`.
        tokenizer ([`~transformers.CLIPTokenizer`]):
            Prompts are padded or truncated to its `model_max_length`.
        unet ([`UNet2DConditionModel`]):
            Denoises the latents.
        scheduler ([`SchedulerMixin`]):
            Any of `KarrasDiffusionSchedulers`, with the `prediction_type` the UNet was trained for.
            `StableDiffusionPipeline` loads it unchanged if `steps_offset` is 1 and `clip_sample` is False.
        classes (`list[str]`, *optional*):
            The classes the model was trained on. A prompt that names none of them gets a warning. The config holds
            them as `{name: index}`, because loading from the Hub takes every list in `model_index.json` for a
            component; [`AnimalLDMPipeline.classes`] gives the list.
        sampling_defaults (`dict`, *optional*):
            Defaults of this model for the arguments of [`~AnimalLDMPipeline.__call__`] in `SAMPLING_DEFAULTS`, such as
            `{"guidance_scale": 2.0}`. `StableDiffusionPipeline` ignores them.
        requires_safety_checker (`bool`, defaults to `False`):
            Not used here; written to the config so that `StableDiffusionPipeline` does not expect a safety checker.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        classes: list[str] | dict[str, int] | None = None,
        requires_safety_checker: bool = False,
        sampling_defaults: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.register_to_config(
            classes={name: index for index, name in enumerate(sorted(classes))} if classes else None,
            requires_safety_checker=requires_safety_checker,
            sampling_defaults=check_sampling_defaults(sampling_defaults) if sampling_defaults else None,
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1) if getattr(self, "vae", None) else 8
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @property
    def classes(self) -> list[str]:
        """The classes the model was trained on, sorted; empty if they are not known."""
        return list(self.config.classes or ())

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """What [`~AnimalLDMPipeline.__call__`] takes for each argument in `SAMPLING_DEFAULTS` that is None."""
        defaults = {**SAMPLING_DEFAULTS, **(self.config.sampling_defaults or {})}
        return {**defaults, "guidance_interval": tuple(defaults["guidance_interval"])}  # JSON has no tuples

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
    ):
        """Raise a `ValueError` that names the first invalid argument of [`~AnimalLDMPipeline.__call__`]."""
        if height % self.vae_scale_factor or width % self.vae_scale_factor or min(height, width) <= 0:
            raise ValueError(
                f"`height` and `width` must be positive multiples of {self.vae_scale_factor}, the autoencoder's"
                f" downsampling factor, but are {height} and {width}."
            )
        if num_inference_steps < 1 or num_images_per_prompt < 1:
            raise ValueError(
                "`num_inference_steps` and `num_images_per_prompt` must be at least 1 but are"
                f" {num_inference_steps} and {num_images_per_prompt}."
            )
        if len(guidance_interval) != 2 or not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1:
            raise ValueError(
                "`guidance_interval` must be (start, stop) with 0 <= start <= stop <= 1, as fractions of the steps,"
                f" but is {guidance_interval!r}."
            )
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
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Encode B prompts and their negative prompts, each repeated `num_images_per_prompt` times.

        Warns about prompts longer than the text encoder accepts, and about prompts that name no class of the model.

        Args:
            prompt (`str` or `list[str]`, *optional*): B texts; None with `prompt_embeds`.
            device (`torch.device`, *optional*): Device of the result, by default that of the pipeline.
            num_images_per_prompt (`int`): Copies of each embedding, next to each other.
            do_classifier_free_guidance (`bool`): Whether to encode negative prompts.
            negative_prompt (`str` or `list[str]`, *optional*): One text for all, or B texts; `""` by default.
            prompt_embeds (`torch.Tensor`, *optional*): `(B, tokens, hidden size)` instead of `prompt`.
            negative_prompt_embeds (`torch.Tensor`, *optional*): The same instead of `negative_prompt`.

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: both `(B * num_images_per_prompt, tokens, hidden size)`; the
            second is None without guidance.
        """
        device = device or self._execution_device
        batch_size = self._batch_size(prompt, prompt_embeds)
        if prompt_embeds is None:
            self._warn_about_unknown_classes(prompt)
            prompt_embeds = self._embed(prompt, self.tokenizer.model_max_length, device)
        if do_classifier_free_guidance and negative_prompt_embeds is None:
            if not isinstance(negative_prompt, list):
                negative_prompt = [negative_prompt or ""] * batch_size
            negative_prompt_embeds = self._embed(negative_prompt, prompt_embeds.shape[1], device)

        dtype = self.unet.dtype if self.text_encoder is None else self.text_encoder.dtype

        def repeat(embeds):
            return embeds.to(device=device, dtype=dtype).repeat_interleave(num_images_per_prompt, dim=0)

        return repeat(prompt_embeds), repeat(negative_prompt_embeds) if do_classifier_free_guidance else None

    def _embed(self, texts: str | list[str], length: int, device) -> torch.Tensor:
        """Last hidden states `(B, length, hidden size)`."""
        texts = [texts] if isinstance(texts, str) else texts
        whole = self.tokenizer(texts, verbose=False).input_ids
        for text, ids in dict(zip(texts, whole, strict=True)).items():
            if len(ids) > length:
                cut = self.tokenizer.decode(ids[length - 1 : -1])
                logger.warning(
                    f"The prompt {text!r} has {len(ids)} tokens, but the text encoder accepts {length}; this part is"
                    f" cut off: {cut!r}."
                )
        padded = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return self.text_encoder(padded.input_ids.to(device))[0]

    def _warn_about_unknown_classes(self, prompts: str | list[str]) -> None:
        if not self.classes:
            return
        for prompt in dict.fromkeys([prompts] if isinstance(prompts, str) else prompts):
            # "" asks for an image of no particular class, which the model has learned for guidance.
            if prompt and not any(names_class(prompt, class_name) for class_name in self.classes):
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
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(
                f"`generator` must be one generator or a list with one for each of the {batch_size} images, but holds"
                f" {len(generator)}."
            )
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        elif latents.shape != shape:
            raise ValueError(f"`latents` must have the shape {shape} but has {tuple(latents.shape)}.")
        return latents.to(device=device, dtype=dtype) * self.scheduler.init_noise_sigma

    def prepare_extra_step_kwargs(self, generator, eta):
        """The ones among `eta` and `generator` that the scheduler's `step` accepts."""
        taken = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in taken}

    @property
    def guidance_scale(self):
        return self._guidance_scale

    @property
    def guidance_rescale(self):
        return self._guidance_rescale

    @property
    def guidance_interval(self):
        return self._guidance_interval

    # `guidance_scale` is the weight of eq. (2) of Imagen (arXiv 2205.11487): 1 means no guidance.
    @property
    def do_classifier_free_guidance(self):
        return self._guidance_scale > 1

    @property
    def cross_attention_kwargs(self):
        return self._cross_attention_kwargs

    @property
    def num_timesteps(self):
        return self._num_timesteps

    @property
    def interrupt(self):
        return self._interrupt

    def _guides_step(self, i: int) -> bool:
        start, stop = self._guidance_interval
        return self.do_classifier_free_guidance and start <= i / self._num_timesteps < stop

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
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[[DiffusionPipeline, int, int, dict], dict]
        | PipelineCallback
        | MultiPipelineCallbacks
        | None = None,
        callback_on_step_end_tensor_inputs: Iterable[str] = ("latents",),
    ) -> AnimalLDMPipelineOutput | tuple:
        r"""
        Generate images.

        The defaults of `num_inference_steps`, `guidance_scale`, `guidance_rescale` and `guidance_interval` are those
        of the model, [`AnimalLDMPipeline.sampling_defaults`]; below are the ones of a model that sets none.

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
                The part `[start, stop)` of the sampling steps that is guided (arXiv 2404.07724): step i of n, counted
                from 0, the noisiest, is guided if `start <= i / n < stop`. The other steps use the conditional
                prediction alone and cost half. Equal ends turn guidance off.
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
            output_type (`str`, defaults to `"pil"`):
                `"pil"`, `"np"`, `"pt"` or `"latent"`; see [`AnimalLDMPipelineOutput`].
            return_dict (`bool`, defaults to `True`):
                Whether to return [`AnimalLDMPipelineOutput`] or the tuple `(images,)`.
            cross_attention_kwargs (`dict`, *optional*):
                Passed to the UNet's attention processors.
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
        )

        self._guidance_scale = guidance_scale
        self._guidance_rescale = guidance_rescale
        self._guidance_interval = guidance_interval
        self._cross_attention_kwargs = cross_attention_kwargs
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
        )
        if self.do_classifier_free_guidance:
            prompt_embeds = torch.cat([negative_prompt_embeds, prompt_embeds])  # (2 B, tokens, hidden size)

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

        # 4. Denoise
        for i, t in enumerate(self.progress_bar(timesteps)):
            if self.interrupt:
                continue
            guided = self._guides_step(i)
            latent_model_input = torch.cat([latents] * 2) if guided else latents  # (2 B or B, C, H / f, W / f)
            noise_pred = self.unet(
                self.scheduler.scale_model_input(latent_model_input, t),
                t,
                encoder_hidden_states=prompt_embeds if guided else prompt_embeds[-batch_size:],
                cross_attention_kwargs=self.cross_attention_kwargs,
                return_dict=False,
            )[0]
            if guided:
                noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
                noise_pred = noise_pred_uncond + self.guidance_scale * (noise_pred_text - noise_pred_uncond)
                if self.guidance_rescale > 0:
                    noise_pred = rescale_noise_cfg(noise_pred, noise_pred_text, self.guidance_rescale)
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
        image = latents
        if output_type != "latent":
            image = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        image = self.image_processor.postprocess(image, output_type=output_type)
        self.maybe_free_model_hooks()

        return AnimalLDMPipelineOutput(images=image) if return_dict else (image,)


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
    steps, scale, rescale, interval = ({**SAMPLING_DEFAULTS, **defaults}[name] for name in SAMPLING_DEFAULTS)
    if not (
        isinstance(steps, int)
        and steps >= 1
        and isinstance(interval, list | tuple)
        and len(interval) == 2
        and all(isinstance(number, int | float) for number in (scale, rescale, *interval))
        and abs(scale) < float("inf")
        and 0 <= rescale <= 1
        and 0 <= interval[0] <= interval[1] <= 1
    ):
        raise ValueError(
            "`sampling_defaults` must hold whole `num_inference_steps` of at least 1, a finite `guidance_scale`, a"
            f" `guidance_rescale` from 0 to 1 and a `guidance_interval` of two ascending fractions, but is {defaults}."
        )
    return defaults
