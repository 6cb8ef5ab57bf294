"""Train a UNet against its own samples (direct discriminative optimisation, arXiv 2503.01103), on the CPU.

usage: python runs/against_samples.py sample PIPELINE PHOTOS SAMPLES -n 1600 [--plain] [--part 0]
       python runs/against_samples.py train PIPELINE PHOTOS OUT --samples SAMPLES... --minutes 27 --cache_dir CACHE

`sample` writes latents that the pipeline makes with its own settings (or, `--plain`, without guidance) for captions of
the training photos, to SAMPLES.0.pt; each other part has other noise and captions. `train` teaches the UNet to tell
photos from these latents by its likelihood relative to that of the UNet it starts from: the difference of their
squared errors, summed over the latent, times `--beta`, is the logit of "photo". What is seen in samples and not in
photos becomes less likely; where samples were guided, that is what guidance gets wrong. Text encoder and autoencoder
stay. The training report of OUT is that of PIPELINE, with a record of this training appended to `against_samples`.
"""

import argparse
import copy
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from animal_ldm.data.prepared import PreparedSplit, load_splits
from animal_ldm.digest import pipeline_digest
from animal_ldm.files import write_json
from animal_ldm.loading import load_pipeline, seal
from animal_ldm.training.cache import Cache
from animal_ldm.training.latents import latent_moments, sample_latents
from animal_ldm.training.objective import build_noise_scheduler, training_target

BATCH = 32  # photos in a step, and as many samples
WARM_UP = 20  # steps
CONSTANT = 0.4  # of the time, then the learning rate falls to nothing
MEMORY = 0.995  # of the averaged weights, per step
NOTED = 50  # steps
OF_OLD = ("README.md", "evaluation", "samples", "checkpoints", "logs")  # what holds for the old weights alone


def drawn(split: PreparedSplit, number: int, generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Photos, classes by the root of their sizes, and a caption of each."""
    classes = np.unique(np.asarray(split.labels), return_inverse=True)[1]
    weights = np.bincount(classes)[classes] ** -0.5
    chosen = generator.choice(len(split), number, p=weights / weights.sum())
    return chosen, [split.captions[i][generator.integers(len(split.captions[i]))] for i in chosen]


@torch.no_grad()
def sample(options: argparse.Namespace) -> None:
    pipeline = load_pipeline(options.pipeline, "cpu")
    pipeline.set_progress_bar_config(disable=True)
    split, _ = load_splits(options.photos, False)
    _, captions = drawn(split, options.n, np.random.default_rng(1000 + options.part))
    generator = torch.Generator().manual_seed(7000 + options.part)
    settings = {"guidance_scale": 1.0, "pag_scale": 0.0} if options.plain else {}
    latents = []
    for start in range(0, options.n, BATCH):
        prompts = captions[start : start + BATCH]
        with torch.autocast("cpu", torch.bfloat16):
            made = pipeline(prompts, generator=generator, output_type="latent", **settings)
        latents.append(made.images.half())
        print(f"{start + len(prompts)} of {options.n}", flush=True)
    found = {"latents": torch.cat(latents), "captions": captions, "plain": options.plain}
    torch.save(found, f"{options.samples}.{options.part}.pt")


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(17)
    pipeline = load_pipeline(options.pipeline, "cpu")
    unet, fixed = copy.deepcopy(pipeline.unet).train(), pipeline.unet.requires_grad_(False)
    split, _ = load_splits(options.photos, False)
    cache, vae = Cache(Accelerator(cpu=True), options.cache_dir), pipeline.vae
    moments = latent_moments(cache, split, vae, len(split.image(0)))
    stored = [torch.load(file) for file in options.samples]
    samples = torch.cat([part["latents"] for part in stored]).float()
    of_samples = [caption for part in stored for caption in part["captions"]]
    scheduler = build_noise_scheduler(1000, pipeline.scheduler.config.prediction_type)
    texts = sorted({*split.all_captions, *of_samples})
    with torch.no_grad():
        embedded = torch.cat([pipeline.encode_prompt([text], "cpu", 1, False)[0] for text in texts])
    table = dict(zip(texts, embedded, strict=True))

    def errors(network, latents, noise, timesteps, captions):
        """Squared errors summed over the latent, (B,)."""
        with torch.autocast("cpu", torch.bfloat16):
            found = network(scheduler.add_noise(latents, noise, timesteps), timesteps, captions, return_dict=False)[0]
        target = training_target(scheduler, latents, noise, timesteps)
        return (found.float() - target).square().sum((1, 2, 3))

    optimizer = torch.optim.AdamW(unet.parameters(), options.learning_rate, (0.9, 0.99), weight_decay=0)
    averaged, step, begun, logits = copy.deepcopy(unet).requires_grad_(False), 0, time.monotonic(), []
    while (done := (time.monotonic() - begun) / 60 / options.minutes) < 1:
        factor = min((step + 1) / WARM_UP, 1.0 if done < CONSTANT else (1 - done) / (1 - CONSTANT))
        optimizer.param_groups[0]["lr"] = options.learning_rate * factor
        chosen, captions = drawn(split, BATCH, generator)
        flips, others = generator.integers(2, size=BATCH), generator.integers(len(samples), size=BATCH)
        shape = samples[others].shape
        photos = sample_latents(moments[chosen, flips], torch.randn(shape), vae.config.scaling_factor)
        latents = torch.cat([photos, samples[others]])
        texts = torch.stack([table[text] for text in (*captions, *(of_samples[i] for i in others))])
        noise, timesteps = torch.randn_like(latents), torch.randint(1000, (BATCH,)).repeat(2)
        with torch.no_grad():
            before = errors(fixed, latents, noise, timesteps, texts)
        logit = options.beta * (before - errors(unet, latents, noise, timesteps, texts))
        of_photos, of_others = logit.chunk(2)
        loss = -F.logsigmoid(of_photos).mean() - F.logsigmoid(-of_others).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        with torch.no_grad():
            for mean, weight in zip(averaged.parameters(), unet.parameters(), strict=True):
                mean.lerp_(weight, 1 - min(MEMORY, (step + 1) / (step + 10)))
        logits.append((of_photos.mean().item(), of_others.mean().item()))
        if step % NOTED == 0:
            of_photos, of_others = np.mean(logits[-NOTED:], axis=0)
            print(f"{step} steps: logits of photos {of_photos:+.3f}, of samples {of_others:+.3f}", flush=True)

    shutil.copytree(options.pipeline, options.out, ignore=shutil.ignore_patterns("unet", *OF_OLD))
    averaged.eval().half().save_pretrained(options.out / "unet", max_shard_size="30MB")
    seal(options.out)
    record = {
        "started_from": pipeline_digest(pipeline),
        "photos_seen": BATCH * step,
        "samples": len(samples),
        "samples_guided": [not part["plain"] for part in stored],
        "minutes": options.minutes,
        "learning_rate": options.learning_rate,
        "beta": options.beta,
    }
    file = options.out / "training_report.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    report["digests"]["pipeline"] = pipeline_digest(load_pipeline(str(options.out), "cpu"))
    report["against_samples"] = [*report.get("against_samples", []), record]
    write_json(file, report)


def main() -> None:
    parser = argparse.ArgumentParser(usage=(__doc__ or "").split("usage: ")[1].split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    sampling, training = commands.add_parser("sample"), commands.add_parser("train")
    for command, run in ((sampling, sample), (training, train)):
        command.set_defaults(run=run)
        command.add_argument("pipeline")
        command.add_argument("photos")
    sampling.add_argument("samples")
    sampling.add_argument("-n", type=int, default=1600)
    sampling.add_argument("--plain", action="store_true")
    sampling.add_argument("--part", type=int, default=0)
    training.add_argument("out", type=Path)
    training.add_argument("--samples", type=Path, nargs="+", required=True)
    training.add_argument("--minutes", type=float, required=True)
    training.add_argument("--learning_rate", type=float, default=3e-5)
    training.add_argument("--beta", type=float, default=0.1)
    training.add_argument("--cache_dir", type=Path)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
