"""Sampling: images from prompts and seeds, one function for every command that needs it.

Image `i` is a function of the pipeline, the settings, its prompt and its seed alone: neither the batch size nor the
other images change it. Noise comes from the CPU's generator, so all devices start from the same noise.
"""

import contextlib
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from .pipeline_animal_ldm import AnimalLDMPipeline


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of the sampling process; recorded with every number that is measured on its images."""

    # Denoising steps. More steps take longer and improve the images, up to a point.
    num_inference_steps: Annotated[int, tyro.conf.arg(aliases=["--steps"])] = 25
    # Guidance scale. Above 1, images follow the prompt more closely and vary less; 1 turns guidance off.
    guidance_scale: Annotated[float, tyro.conf.arg(aliases=["--guidance"])] = 3.0
    # Guidance rescale, from 0 to 1: how far guided predictions are rescaled to the contrast of unguided ones.
    guidance_rescale: float = 0.0
    # Part of the steps that is guided, as fractions: 0 is the first step, 1 the end of the last.
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    # Scale of perturbed-attention guidance. Above 0, structure is more coherent, and guided steps take longer.
    pag_scale: float = 0.0
    # Self-attention layers of the UNet to perturb, as parts of their names.
    pag_applied_layers: tuple[str, ...] = ("mid",)

    def check(self) -> None:
        """Raise an `InputError` that names the first setting out of range."""
        if self.num_inference_steps < 1:
            raise InputError(f"--num_inference_steps must be at least 1, but is {self.num_inference_steps}.")
        if not math.isfinite(self.guidance_scale):
            raise InputError(f"--guidance_scale must be a finite number, but is {self.guidance_scale}.")
        if not 0 <= self.guidance_rescale <= 1:
            raise InputError(f"--guidance_rescale must be from 0 to 1, but is {self.guidance_rescale:g}.")
        start, stop = self.guidance_interval
        if not 0 <= start <= stop <= 1:
            raise InputError(
                "--guidance_interval must be two fractions of the steps, 0 <= START <= STOP <= 1, but is "
                f"{start:g} {stop:g}."
            )
        if not 0 <= self.pag_scale < math.inf:
            raise InputError(f"--pag_scale must be a finite number of at least 0, but is {self.pag_scale:g}.")
        if not self.pag_applied_layers:
            raise InputError("--pag_applied_layers must name at least one layer, such as mid, but is empty.")

    def settings(self) -> "Sampling":
        """The sampling settings alone, of arguments that hold more."""
        return settings_of(self)


def settings_of(holder: Any) -> Sampling:
    """The sampling settings among the attributes of `holder`."""
    return Sampling(**{option.name: getattr(holder, option.name) for option in fields(Sampling)})


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The options of commands that sample a finished pipeline: what is not given is the pipeline's own default."""

    # Denoising steps. More steps take longer and improve the images, up to a point. Default: the model's own, else 25.
    num_inference_steps: Annotated[int | None, tyro.conf.arg(aliases=["--steps"])] = None
    # Guidance scale. Above 1, images follow the prompt more closely and vary less; 1 turns guidance off. Default: the
    # model's own, else 3.
    guidance_scale: Annotated[float | None, tyro.conf.arg(aliases=["--guidance"])] = None
    # Guidance rescale, from 0 to 1: how far guided predictions are rescaled to the contrast of unguided ones. Default:
    # the model's own, else 0.
    guidance_rescale: float | None = None
    # Part of the steps that is guided, as fractions: 0 is the first step, 1 the end of the last. Default: the model's
    # own, else 0 1.
    guidance_interval: tuple[float, float] | None = None
    # Scale of perturbed-attention guidance. Above 0, structure is more coherent, and guided steps take longer.
    # Default: the model's own, else 0.
    pag_scale: float | None = None
    # Self-attention layers of the UNet to perturb, as parts of their names. Default: the model's own, else mid.
    pag_applied_layers: tuple[str, ...] | None = None

    def check(self) -> None:
        """Raise an `InputError` that names the first option out of range."""
        self.settings().check()

    def settings(self, pipeline: "AnimalLDMPipeline | None" = None) -> Sampling:
        """The options given, then `pipeline`'s own defaults, then those of `Sampling`."""
        options = {option.name: getattr(self, option.name) for option in fields(Sampling)}
        given = {name: value for name, value in options.items() if value is not None}
        sampling = Sampling(**{**(pipeline.sampling_defaults if pipeline else {}), **given})
        if pipeline:
            check_layers(sampling, pipeline)
        return sampling


def beyond_defaults(sampling: Sampling) -> dict[str, Any]:
    """The settings that are not the defaults of `Sampling`, in types of JSON."""
    plain = asdict(Sampling())
    return {
        name: [*value] if isinstance(value, tuple) else value
        for name, value in asdict(sampling).items()
        if value != plain[name]
    }


def check_layers(sampling: Sampling, pipeline: "AnimalLDMPipeline") -> None:
    """Raise an `InputError` if perturbed-attention guidance names layers that the pipeline's UNet does not have."""
    if sampling.pag_scale > 0:
        try:
            pipeline.self_attention_layers(sampling.pag_applied_layers)
        except (ValueError, re.error) as error:
            raise InputError(f"--pag_applied_layers: {error}") from error


def describe_guidance(sampling: Sampling) -> str:
    """How the steps are guided, in a few words: "guidance 3 from 0.1 to 0.8 of the steps, PAG 6 (mid)"."""
    start, stop = sampling.guidance_interval
    return (
        f"guidance {sampling.guidance_scale:g}"
        + ("" if (start, stop) == (0, 1) else f" from {start:g} to {stop:g} of the steps")
        + (f", rescale {sampling.guidance_rescale:g}" if sampling.guidance_rescale else "")
        + (f", PAG {sampling.pag_scale:g} ({', '.join(sampling.pag_applied_layers)})" if sampling.pag_scale else "")
    )


@contextlib.contextmanager
def quiet(pipeline: "AnimalLDMPipeline") -> Iterator[None]:
    """Without the pipeline's warnings about prompts, for those that come from a dataset by the thousand."""
    logger = logging.getLogger(f"diffusers.{type(pipeline).__module__}")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def sample_images(
    pipeline: "AnimalLDMPipeline",
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    batch_size: int = 8,
    negative_prompt: str = "",
) -> Iterator["Image.Image"]:
    """Yield a PIL image for each pair of `prompts` and `seeds`, in order.

    Every distinct prompt is encoded once. Progress bars of the pipeline are left as they are.

    Args:
        batch_size: images sampled at a time.
        negative_prompt: what to guide away from, in all images.

    Raises:
        InputError: the model generates NaN.
    """
    # not at the top: `--help` of every command needs `Sampling`, and importing torch takes seconds
    import numpy as np
    import torch

    with torch.no_grad():
        embeds = {
            prompt: pipeline.encode_prompt(
                prompt,
                do_classifier_free_guidance=sampling.guidance_scale > 1,
                negative_prompt=negative_prompt,
            )
            for prompt in dict.fromkeys(prompts)
        }
    for start in range(0, len(prompts), batch_size):
        batch = slice(start, start + batch_size)
        prompt_embeds, negative_prompt_embeds = (
            torch.cat(parts) if parts[0] is not None else None
            for parts in zip(*(embeds[prompt] for prompt in prompts[batch]), strict=True)
        )
        output: Any = pipeline(
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[batch]],
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            guidance_rescale=sampling.guidance_rescale,
            guidance_interval=sampling.guidance_interval,
            pag_scale=sampling.pag_scale,
            pag_applied_layers=sampling.pag_applied_layers,
            output_type="np",
        )
        if not np.isfinite(output.images).all():
            raise InputError(
                f"The model generated values that are not finite, with {prompts[batch][0]!r} among the prompts. Its"
                " weights may be damaged, or --dtype float16 too narrow for them: try float32."
            )
        yield from pipeline.image_processor.numpy_to_pil(output.images)
