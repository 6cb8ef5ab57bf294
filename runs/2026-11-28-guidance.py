"""Samples of the released model, guided by a weaker model or by perturbed attention as well as by the text.

    python runs/2026-11-28-guidance.py PHOTOS samples --pag_scale 3 --within 0.1 0.8
    animal-ldm evaluate samples --data PHOTOS -n 330 --extractor squeezenet,runs/candidate/proxy_classifier

Classes, prompts, seeds and noise are those of `animal-ldm evaluate MODEL --prompts classes`. With --weaker, the folder
of an earlier release is `git archive 7f60f79 models/animal-ldm-128`.
"""

import argparse
import copy
from collections import Counter
from pathlib import Path

import torch

from animal_ldm import AnimalLDMPipeline
from animal_ldm.evaluation.images import images_of_dataset
from animal_ldm.evaluation.samples import classes_of_samples, prompt_of

SEED = 423432


class Identity:
    """Self-attention in which every place attends to itself alone (arXiv 2403.17377)."""

    def __call__(self, attn, hidden_states, *_, **__):
        values = attn.to_out[1](attn.to_out[0](attn.to_v(hidden_states)))
        return values / attn.rescale_output_factor


def perturbed(unet, layers: list[str]):
    unet = copy.deepcopy(unet)
    for name, module in unet.named_modules():
        if name.endswith("attn1") and name.startswith(tuple(layers)):
            module.set_processor(Identity())
    return unet


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="prepared dataset, for the proportions of its classes")
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=330)
    parser.add_argument("--model", default="models/animal-ldm-128")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0, help="from 0.1 to 0.8 of the steps")
    parser.add_argument("--weaker", help="folder of the weaker model")
    parser.add_argument("--weaker_scale", type=float, default=1.5, help="w of arXiv 2406.02507")
    parser.add_argument("--pag_scale", type=float, default=0.0)
    parser.add_argument("--pag_layers", nargs="+", default=["mid_block", "up_blocks.0"])
    parser.add_argument("--within", type=float, nargs=2, default=(0.0, 1.0), help="part of the steps of the two above")
    options = parser.parse_args()

    pipeline = AnimalLDMPipeline.from_pretrained(options.model)
    weaker = AnimalLDMPipeline.from_pretrained(options.weaker) if options.weaker else None
    perturbed_unet = perturbed(pipeline.unet, options.pag_layers) if options.pag_scale else None
    scheduler = pipeline.scheduler
    labels = classes_of_samples(Counter(images_of_dataset(options.photos)["train"].labels), options.n)
    for start in range(0, options.n, 16):
        batch = labels[start : start + 16]
        prompts = [prompt_of(label) for label in batch]
        text, empty = pipeline.encode_prompt(prompts, do_classifier_free_guidance=True, negative_prompt="")
        of_weaker = weaker.encode_prompt(prompts, do_classifier_free_guidance=False)[0] if weaker else None
        generators = [torch.Generator().manual_seed(SEED + start + place) for place in range(len(batch))]
        latents = pipeline.prepare_latents(len(batch), 12, 128, 128, torch.float32, pipeline.device, generators)
        scheduler.set_timesteps(options.steps)
        for step, t in enumerate(scheduler.timesteps):
            share = step / options.steps
            found = told = pipeline.unet(latents, t, encoder_hidden_states=text).sample
            if options.guidance > 1 and 0.1 <= share < 0.8:
                untold = pipeline.unet(latents, t, encoder_hidden_states=empty).sample
                found = untold + options.guidance * (told - untold)
            if options.within[0] <= share < options.within[1]:
                if weaker:
                    weak = weaker.unet(latents, t, encoder_hidden_states=of_weaker).sample
                    found = found + (options.weaker_scale - 1) * (told - weak)
                if perturbed_unet:
                    found = found + options.pag_scale * (
                        told - perturbed_unet(latents, t, encoder_hidden_states=text).sample
                    )
            latents = scheduler.step(found, t, latents, generator=generators, return_dict=False)[0]
        images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
        for place, image in enumerate(pipeline.image_processor.postprocess(images, output_type="pil")):
            file = options.out / batch[place] / f"{start + place:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)


if __name__ == "__main__":
    main()
