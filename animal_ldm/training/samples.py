"""Latents that a trained pipeline samples for the photos' captions: what its decoder will be given."""

# diffusers annotates configs, outputs and tensors too narrowly for a type checker.
# pyright: reportAttributeAccessIssue=false

import dataclasses

import numpy as np
import torch

from ..data.prepared import PreparedSplit
from ..digest import pipeline_digest
from ..pipeline_animal_ldm import AnimalLDMPipeline
from ..sampling import SamplingOptions, quiet
from .cache import Cache, fingerprint
from .stream import ImageStream, step_seed


def sampled_latents(
    cache: Cache, pipeline: AnimalLDMPipeline, split: PreparedSplit, count: int, seed: int
) -> np.ndarray:
    """Samples with the pipeline's defaults, each for the caption of a photo; a photo comes again after all have come.

    Returns:
        float16 `(count, C, h, w)`, as `vae.decode` takes them. Cached under a fingerprint of pipeline, captions and
        seed.
    """
    accelerator = cache.accelerator
    pipeline.set_progress_bar_config(disable=True)
    captions = []
    for photo in ImageStream(split.labels, seed).indices(0, count):
        texts = split.captions[photo]
        captions.append(texts[len(captions) % len(texts)])

    @torch.no_grad()
    def sample(start: int, stop: int) -> np.ndarray:
        generators = [torch.Generator().manual_seed(step_seed(seed, number)) for number in range(start, stop)]
        with quiet(pipeline), accelerator.autocast():
            output = pipeline(captions[start:stop], generator=generators, output_type="latent")
        return (output.images.float() / pipeline.vae.config.scaling_factor).half().cpu().numpy()

    settings = dataclasses.asdict(SamplingOptions().settings(pipeline))
    key = fingerprint("samples", pipeline_digest(pipeline), settings, captions, seed, accelerator.mixed_precision)
    side = pipeline.unet.config.sample_size
    shape = (count, pipeline.unet.config.in_channels, side, side)
    return cache.array(key, shape, np.float16, sample, "sampling latents", chunk=32)
