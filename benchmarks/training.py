"""What a training step costs on a device, side by side: `python benchmarks/training.py`.

(a) our loop, from cached latents; (b) the bare step of the same UNet on one fixed batch: forward, backward, clipping,
AdamW; (c) the bare step preceded by a VAE of the size of Stable Diffusion's and a CLIP-B text encoder on every batch,
as in the example scripts of diffusers; (d) the bare step with weights in the layout `channels_last`. All compute in
the number type that a training chooses for the device. The weights are random: only the time matters.
"""

import contextlib
import copy
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from side_by_side import describe_machine, seconds_in_turn, timed
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from animal_ldm.commands.parsing import parse
from animal_ldm.data.prepared import load_splits
from animal_ldm.training.arguments import TrainingArguments
from animal_ldm.training.batches import Batches, prepared_along
from animal_ldm.training.cache import Cache
from animal_ldm.training.execution import Execution, begin_on
from animal_ldm.training.models import build_autoencoder, build_unet, use_attention
from animal_ldm.training.objective import build_noise_scheduler, diffusion_loss, loss_weights, training_target
from animal_ldm.training.run import rows_of, start_accelerator
from animal_ldm.training.stream import ImageStream
from animal_ldm.training.text import build_tokenizer
from animal_ldm.training.text_to_image import Trainer, encode_photos, load_networks, train

SIZE = 128  # pixels


@dataclass(frozen=True)
class BenchmarkArguments:
    """Compare our training loop with the bare step and with encoding at every step, and say where the time goes."""

    # Preset of the UNet.
    unet: str = "small"
    # Photos per step.
    batch_size: int = 32
    # Timed steps of (a), (b) and (d).
    steps: int = 20
    # Timed steps of (c); 0 leaves it out.
    encoding_steps: int = 1
    # Number of rounds. Medians are reported.
    rounds: int = 3
    # Device to run on.
    device: Literal["cuda", "cpu"] = "cuda" if torch.cuda.is_available() else "cpu"
    # Number type of the forward pass, as in `animal-ldm train`.
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    # Compile the UNet.
    compile: bool = False
    # Write a trace of a few steps of our loop to this file, for https://ui.perfetto.dev.
    profile: str | None = None


class BareStep:
    """A step of a UNet on latents `(B, 4, 16, 16)`, and nothing else."""

    def __init__(self, unet: torch.nn.Module, execution: Execution):
        self.unet, self.execution = unet, execution
        self.scheduler = build_noise_scheduler(1000, "v_prediction")
        fused = execution.fused_adamw or None
        self.optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, fused=fused)

    def __call__(self, latents: torch.Tensor, embeddings: torch.Tensor) -> None:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (len(latents),), device=latents.device)
        with autocast(self.execution):
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
            prediction = self.unet(noisy, timesteps, embeddings).sample
            target = training_target(self.scheduler, latents, noise, timesteps)
            loss = diffusion_loss(prediction, target, loss_weights(self.scheduler, timesteps, 5.0))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def autocast(execution: Execution) -> contextlib.AbstractContextManager:
    if execution.mixed_precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(execution.device, torch.bfloat16 if execution.mixed_precision == "bf16" else torch.float16)


def main() -> None:
    arguments = parse(BenchmarkArguments, None, prog="benchmarks/training.py")
    if arguments.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    device = torch.device(arguments.device)
    execution = begin_on(device, arguments.mixed_precision)
    texts = ["a zebra", "a photo of a lion"] * (arguments.batch_size // 2)
    tokenizer = build_tokenizer(texts)
    # hidden size, layers and heads of openai/clip-vit-base-patch32
    text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=32)).to(device)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder, "data"), texts)
        build_autoencoder("tiny", SIZE, 8, 4).save_pretrained(Path(folder, "vae"))
        text_encoder.save_pretrained(Path(folder, "text", "text_encoder"))
        tokenizer.save_pretrained(Path(folder, "text", "tokenizer"))
        ours = partial(training, arguments, folder)
        seconds = seconds_per_step(
            arguments, execution, ours, baselines(arguments, execution, text_encoder, tokenizer)
        )
        print(f"\n{describe_machine()}\nUNet {arguments.unet}, batch {arguments.batch_size}. {execution}")
        print(f"(a) our loop {arguments.batch_size / seconds['a']:9.1f} images/s")
        for name in sorted(seconds.keys() - {"a"}):
            rate, share = arguments.batch_size / seconds[name], seconds[name] / seconds["a"]
            print(f"({name}) {NAMES[name]:<40} {rate:9.1f} images/s   a / {name} = {share:.2f}")
        for line in details(ours(1), seconds["a"], arguments):
            print(line)


NAMES = {"b": "bare step", "c": "encoding at every step", "d": "bare step, channels_last"}


def training(arguments: BenchmarkArguments, folder: str, steps: int) -> TrainingArguments:
    """Of so many steps: the dataset is one batch."""
    return TrainingArguments(
        data=f"{folder}/data",
        output_dir=tempfile.mkdtemp(dir=folder),
        vae=f"{folder}/vae",
        text_encoder=f"{folder}/text",
        unet=arguments.unet,
        num_epochs=steps,
        batch_size=arguments.batch_size,
        samples_per_class=1,
        num_inference_steps=1,
        report_to="none",
        cache_dir=f"{folder}/cache",
        mixed_precision=arguments.mixed_precision,
        compile="yes" if arguments.compile else "no",
    )


def baselines(
    arguments: BenchmarkArguments, execution: Execution, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> dict[str, Callable[[], None]]:
    """The steps (b), (c) and (d), once each."""
    device, size = text_encoder.device, arguments.batch_size
    unet = build_unet(arguments.unet, 16, 4, text_encoder.config.hidden_size, 0.0).to(device)
    use_attention(unet, "sdpa", device)
    # to, of diffusers, takes no memory format
    other = torch.nn.Module.to(copy.deepcopy(unet), memory_format=torch.channels_last)  # pyright: ignore
    if arguments.compile:
        unet.compile(dynamic=False)
        other.compile(dynamic=False)
    bare, channels_last = BareStep(unet, execution), BareStep(other, execution)
    stable_diffusion_vae = build_autoencoder("large", SIZE, 8, 4).to(device) if arguments.encoding_steps else None
    images = torch.rand(size, 3, SIZE, SIZE, device=device) * 2 - 1
    ids = tokenizer(["a zebra"] * size, padding="max_length", return_tensors="pt").input_ids.to(device)
    latents = torch.randn(size, 4, 16, 16, device=device)
    with torch.no_grad():
        embeddings = text_encoder(ids)[0]

    def encoding() -> None:
        assert stable_diffusion_vae is not None
        with torch.no_grad(), autocast(execution):
            encoded: Any = stable_diffusion_vae.encode(images)
            latents, embeddings = encoded.latent_dist.sample().float(), text_encoder(ids)[0].float()
        bare(latents, embeddings)

    steps = {"b": lambda: bare(latents, embeddings), "d": lambda: channels_last(latents, embeddings)}
    return steps | ({"c": encoding} if arguments.encoding_steps else {})


def seconds_per_step(
    arguments: BenchmarkArguments,
    execution: Execution,
    ours: Callable[[int], TrainingArguments],
    steps: dict[str, Callable[[], None]],
) -> dict[str, float]:
    """Medians over the rounds, taken in turn."""

    def repeated(step: Callable[[], None], times: int) -> None:
        for _ in range(times):
            step()

    times = {name: arguments.encoding_steps if name == "c" else arguments.steps for name in steps}
    contestants = {name: partial(repeated, step, times[name]) for name, step in steps.items()}
    # The start and the end of a run (loading, validating, saving) cancel out between a short and a long one.
    few, many = 2, 2 + arguments.steps
    train(ours(1))
    found: dict[str, list[float]] = {name: [] for name in ("a", *steps)}
    for _ in range(arguments.rounds):
        difference = timed(lambda: train(ours(many))) - timed(lambda: train(ours(few)))
        found["a"].append(difference / arguments.steps)
        for name, seconds in seconds_in_turn(contestants, 1).items():
            found[name].append(seconds / times[name])
    return {name: float(np.median(seconds)) for name, seconds in found.items()}


def details(ours: TrainingArguments, step_seconds: float, arguments: BenchmarkArguments) -> list[str]:
    """Where the time of our loop goes, and what it uses."""
    accelerator, execution = start_accelerator(ours)
    device, size = accelerator.device, ours.batch_size
    train_split, validation_split = load_splits(ours.data, verify=False)
    networks = load_networks(ours, train_split.all_captions, device)
    cache = Cache(accelerator, ours.cache_dir)
    photos, _ = encode_photos(cache, ours, networks, None, train_split, validation_split)
    trainer = Trainer(accelerator, ours, networks, 10**6, execution)
    stream = ImageStream(train_split.labels, ours.seed)
    batches = Batches(photos, stream, size, ours.caption_dropout, rows_of(accelerator, ours), execution)

    def loop(steps: int) -> None:
        for images_seen, pieces in prepared_along(range(0, steps * size, size), batches.at, size, execution):
            trainer.step(pieces)
            trainer.ema.update(images_seen + size, size)

    loop(3)
    preparing = float(np.median([timed(lambda i=i: batches.at(i * size)) for i in range(10)]))
    pieces = batches.at(0)
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        trainer.step(pieces)
    flops, rate = counter.get_total_flops(), matrix_rate(device, execution)
    hidden = ", during the step before" if execution.prepares_ahead else ""
    lines = [
        f"host: {1e3 * preparing:.1f} ms to prepare a batch{hidden}; step {1e3 * step_seconds:.1f} ms",
        f"{flops / 1e9:,.1f} GFLOP per step, {flops / step_seconds / 1e9:,.0f} GFLOP/s: "
        f"{flops / step_seconds / rate:.0%} of the matrix products' {rate / 1e9:,.0f} GFLOP/s",
        f"peak memory: {peak_memory(device) / 2**30:.2f} GiB" + (" of the process" if device.type == "cpu" else ""),
    ]
    if device.type == "cuda":
        start = time.perf_counter()
        trainer.step(pieces)
        lines.append(f"host: {1e3 * (time.perf_counter() - start):.1f} ms to queue a step")
        torch.cuda.synchronize()
    if device.type == "cuda" or arguments.profile:
        lines += profiled(loop, device, arguments.profile)
    return lines


def matrix_rate(device: torch.device, execution: Execution) -> float:
    """Operations per second of a large matrix product, in the number type of the training."""
    side = 8192 if device.type == "cuda" else 1024
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[execution.mixed_precision]
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: torch.mm(first, second)) for _ in range(10))


def peak_memory(device: torch.device) -> float:
    """Bytes: of tensors on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def profiled(loop: Callable[[int], None], device: torch.device, file: str | None, steps: int = 5) -> list[str]:
    """The share of the time in which a GPU computes nothing; the trace of the steps goes to `file`."""
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, kinds.CUDA] if device.type == "cuda" else [kinds.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        wall = timed(lambda: loop(steps))
    if file:
        profiler.export_chrome_trace(file)
    if device.type != "cuda":
        return [f"trace of {steps} steps: {file}"]
    busy = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
    return [f"GPU idle: {max(0.0, 1 - busy / wall):.0%} of the time, profiler included"]


def write_dataset(folder: Path, texts: list[str]) -> None:
    """A prepared dataset of noise: one batch to train on, two photos to validate on."""
    random = np.random.default_rng(0)
    for split, captions in (("train", texts), ("validation", texts[:2])):
        lines = []
        for i, text in enumerate(captions):
            path = folder / split / "animal" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)
            lines.append(json.dumps({"file_name": f"animal/{i}.png", "text": text, "label": "animal"}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
