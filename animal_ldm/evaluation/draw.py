"""Draw a model's samples: picture `i` is a function of the model, the settings and `i` alone.

Neither the batch size, nor the number of processes, nor an interruption changes a picture, so that a run which was
stopped goes on, and a longer one continues a shorter one.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline
from tqdm import tqdm

from ..data.captions import with_article
from ..digest import weights_digest
from .images import Images, save_whole


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn; stored beside every number that is measured on them."""

    # Guidance scale: 1 is no guidance.
    guidance_scale: float = 3.0
    # Denoising steps.
    num_inference_steps: int = 25
    # Share, from 0 to 1, in which guided predictions take the contrast of unguided ones.
    guidance_rescale: float = 0.0
    # Part of the steps that is guided, as fractions.
    guidance_interval: tuple[float, float] = (0.0, 1.0)


def classes_of_samples(counts: Mapping[str, int], n: int) -> list[str]:
    """Class names for n samples in proportion to `counts`; every prefix has the proportions too, within a picture."""
    return list(islice(_classes(counts), n))


def _classes(counts: Mapping[str, int]):
    total, drawn = sum(counts.values()), dict.fromkeys(counts, 0)
    for n in count(1):
        name = max(drawn, key=lambda name: (n * counts[name] / total - drawn[name], name))
        drawn[name] += 1
        yield name


def prompt_of(label: str) -> str:
    return with_article(label)


def model_digest(pipeline: DiffusionPipeline) -> str:
    """SHA-256 over all weights and the scheduler's settings."""
    weights = weights_digest(pipeline.vae, pipeline.text_encoder, pipeline.unet)
    scheduler = json.dumps(dict(pipeline.scheduler.config), sort_keys=True, default=str)
    return hashlib.sha256(f"{weights} {type(pipeline.scheduler).__name__} {scheduler}".encode()).hexdigest()


def draw(
    pipeline: DiffusionPipeline,
    labels: list[str],
    sampling: Sampling,
    seed: int,
    cache: Path,
    batch_size: int = 32,
    state: PartialState | None = None,
) -> Images:
    """Samples of "a zebra" for each label "zebra", as PNG files in a folder of `cache`; those already there are kept.

    Args:
        labels: class of each sample.
        seed: sample i starts from the noise of seed + i.
        state: accelerate's state, when every process makes this call and the samples shall be shared among them.
    """
    settings = {
        "model": model_digest(pipeline),
        "dtype": str(pipeline.unet.dtype),
        "seed": seed,
        "sampling": dataclasses.asdict(sampling),
    }
    identity = json.dumps(settings, sort_keys=True)
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    # The class is part of the name: another mix of classes keeps what the two have in common.
    files = tuple(folder / f"{i:06d}_{label.replace(' ', '_')}.png" for i, label in enumerate(labels))
    rank, processes = (state.process_index, state.num_processes) if state else (0, 1)
    missing = [i for i, file in enumerate(files) if not file.is_file()][rank::processes]
    if state:
        state.wait_for_everyone()  # before anyone draws: all must find the same pictures missing
    with torch.no_grad():
        embeds = {
            label: pipeline.encode_prompt(prompt_of(label), do_classifier_free_guidance=sampling.guidance_scale > 1)
            for label in dict.fromkeys(labels)
        }
    pipeline.set_progress_bar_config(disable=True)
    with tqdm(total=len(missing), desc="samples", unit="picture", disable=rank > 0, leave=False) as progress:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            prompt_embeds, negative_prompt_embeds = (
                torch.cat(parts) if parts[0] is not None else None
                for parts in zip(*(embeds[labels[i]] for i in batch), strict=True)
            )
            pictures = pipeline(
                prompt_embeds=prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds,
                generator=[torch.Generator().manual_seed(seed + i) for i in batch],
                **dataclasses.asdict(sampling),
            ).images
            for i, picture in zip(batch, pictures, strict=True):
                save_whole(picture, files[i])
            progress.update(len(batch))
    if state:
        state.wait_for_everyone()
    return Images(files, tuple(labels))
