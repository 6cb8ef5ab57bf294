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
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from animal_ldm.data.prepared import load_splits
from animal_ldm.digest import pipeline_digest
from animal_ldm.files import write_json
from animal_ldm.loading import load_pipeline
from animal_ldm.training.batches import DiffusionProcess, EncodedPhotos
from animal_ldm.training.cache import Cache
from animal_ldm.training.ema import EMA
from animal_ldm.training.latents import latent_moments
from animal_ldm.training.objective import build_noise_scheduler, training_target
from animal_ldm.training.stream import ImageStream, image_noise, step_generator
from animal_ldm.training.text import Captions
from animal_ldm.training.validation import save_pipeline

BATCH = 32  # photos in a step, and as many samples
BALANCE = 0.5  # classes by the root of their sizes
WARM_UP = 20  # steps
CONSTANT = 0.4  # of the time, then the learning rate falls to nothing
HALF_LIFE, RAMP_UP = 4400, 0.077  # of the averaged weights, see `EMA`
NOTED = 50  # steps
SEED = 17


@torch.no_grad()
def sample(options: argparse.Namespace) -> None:
    pipeline = load_pipeline(options.pipeline, "cpu")
    pipeline.set_progress_bar_config(disable=True)
    split, _ = load_splits(options.photos, False)
    chosen = ImageStream(split.labels, options.part, BALANCE).indices(0, options.n)
    choice = np.random.default_rng(options.part)
    captions = [split.captions[i][choice.integers(len(split.captions[i]))] for i in chosen]
    generator = torch.Generator().manual_seed(options.part)
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
    pipeline = load_pipeline(options.pipeline, "cpu")
    started_from = pipeline_digest(pipeline)
    fixed, vae = pipeline.unet.requires_grad_(False), pipeline.vae
    unet = copy.deepcopy(fixed).train().requires_grad_(True)
    config = pipeline.scheduler.config
    scheduler = build_noise_scheduler(config.num_train_timesteps, config.prediction_type)

    split, _ = load_splits(options.photos, False)
    cache = Cache(Accelerator(cpu=True), options.cache_dir)
    captions = Captions(cache, split.all_captions, pipeline.tokenizer, pipeline.text_encoder, frozen=True)
    moments = latent_moments(cache, split, vae, len(split.image(0)))
    process = DiffusionProcess(vae.config.scaling_factor, config.num_train_timesteps)
    photos, stream = EncodedPhotos(split, moments, captions, process), ImageStream(split.labels, SEED, BALANCE)
    stored = [torch.load(file) for file in options.samples]
    samples = torch.cat([part["latents"] for part in stored]).float()
    of_samples = captions.numbers([caption for part in stored for caption in part["captions"]])

    def errors(network, latents, noise, timesteps, texts):
        """Squared errors summed over the latent, (B,)."""
        with torch.autocast("cpu", torch.bfloat16):
            found = network(scheduler.add_noise(latents, noise, timesteps), timesteps, texts, return_dict=False)[0]
        target = training_target(scheduler, latents, noise, timesteps)
        return (found.float() - target).square().sum((1, 2, 3))

    optimizer = torch.optim.AdamW(unet.parameters(), options.learning_rate, (0.9, 0.99), weight_decay=0)
    ema, step, begun, logits = EMA(unet.parameters(), HALF_LIFE, RAMP_UP), 0, time.monotonic(), []
    while (done := (time.monotonic() - begun) / 60 / options.minutes) < 1:
        factor = min((step + 1) / WARM_UP, 1.0 if done < CONSTANT else (1 - done) / (1 - CONSTANT))
        optimizer.param_groups[0]["lr"] = options.learning_rate * factor
        seen = BATCH * step
        generator = step_generator(SEED, seen)
        noise = image_noise(SEED, seen + np.arange(BATCH), (2, *samples.shape[1:]))
        batch = photos.batch(stream.indices(seen, BATCH), generator, 0.0, noise)
        others = torch.randint(len(samples), (BATCH,), generator=generator)
        latents = torch.cat([batch.latents, samples[others]])
        noise = torch.cat([batch.noise, torch.randn(batch.noise.shape, generator=generator)])
        texts = torch.cat([batch.captions, torch.from_numpy(captions.table[of_samples[others]])])
        inputs = (latents, noise, batch.timesteps.repeat(2), texts)
        with torch.no_grad():
            before = errors(fixed, *inputs)
        of_photos, of_others = (options.beta * (before - errors(unet, *inputs))).chunk(2)
        loss = -F.logsigmoid(of_photos).mean() - F.logsigmoid(-of_others).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        ema.update(BATCH * step, BATCH)
        logits.append((of_photos.mean().item(), of_others.mean().item()))
        if step % NOTED == 0:
            recent = np.mean(logits[-NOTED:], axis=0)
            print(f"{step} steps: logits of photos {recent[0]:+.3f}, of samples {recent[1]:+.3f}", flush=True)

    pipeline.unet = unet.eval()
    with ema.swapped_in():
        save_pipeline(pipeline, options.out, "float16")
    record = {
        "started_from": started_from,
        "photos_seen": BATCH * step,
        "samples": len(samples),
        "samples_guided": [not part["plain"] for part in stored],
        "minutes": options.minutes,
        "learning_rate": options.learning_rate,
        "beta": options.beta,
    }
    report = json.loads(Path(options.pipeline, "training_report.json").read_text(encoding="utf-8"))
    report["digests"]["pipeline"] = pipeline_digest(load_pipeline(str(options.out), "cpu"))
    report["against_samples"] = [*report.get("against_samples", []), record]
    write_json(options.out / "training_report.json", report)


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
