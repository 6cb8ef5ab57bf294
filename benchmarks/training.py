"""Images per second of training, side by side: `python benchmarks/training.py`.

(a) our loop, from cached latents; (b) the bare step of the same UNet on one fixed batch: forward, backward, clipping,
AdamW; (c) the bare step preceded by a VAE of the size of Stable Diffusion's and a CLIP-B text encoder on every batch,
as in the example scripts of diffusers. The weights are random: only the time matters.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from side_by_side import describe_machine, seconds_in_turn, timed
from transformers import CLIPTextConfig, CLIPTextModel

from animal_ldm.commands.parsing import parse
from animal_ldm.training.arguments import TrainingArguments
from animal_ldm.training.models import build_autoencoder, build_unet
from animal_ldm.training.objective import build_noise_scheduler, diffusion_loss, loss_weights, training_target
from animal_ldm.training.text import build_tokenizer
from animal_ldm.training.text_to_image import train


@dataclass(frozen=True)
class BenchmarkArguments:
    """Compare our training loop with the bare step and with encoding at every step."""

    # Preset of the UNet.
    unet: str = "small"
    # Photos per step.
    batch_size: int = 32
    # Timed steps of (a) and (b).
    steps: int = 20
    # Timed steps of (c).
    encoding_steps: int = 1
    # Number of rounds. Medians are reported.
    rounds: int = 3
    # Device to run on.
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    arguments = parse(BenchmarkArguments, None, prog="benchmarks/training.py")
    device, size = torch.device(arguments.device), 128
    texts = ["a zebra", "a photo of a lion"] * (arguments.batch_size // 2)
    tokenizer = build_tokenizer(texts)
    # hidden size, layers and heads of openai/clip-vit-base-patch32
    text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=32)).to(device)
    width = text_encoder.config.hidden_size
    stable_diffusion_vae = build_autoencoder("large", size, 8, 4).to(device)
    unet = build_unet(arguments.unet, 16, 4, width, 0.0).to(device)
    scheduler = build_noise_scheduler(1000, "v_prediction")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)

    images = torch.rand(arguments.batch_size, 3, size, size, device=device) * 2 - 1
    ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.to(device)
    with torch.no_grad():
        embeddings = text_encoder(ids)[0]
    latents = torch.randn(arguments.batch_size, 4, 16, 16, device=device)

    def step(latents: torch.Tensor, embeddings: torch.Tensor) -> None:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (len(latents),), device=device)
        prediction = unet(scheduler.add_noise(latents, noise, timesteps), timesteps, embeddings).sample
        target = training_target(scheduler, latents, noise, timesteps)
        diffusion_loss(prediction, target, loss_weights(scheduler, timesteps, 5.0)).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def bare() -> None:
        for _ in range(arguments.steps):
            step(latents, embeddings)

    def encoding() -> None:
        for _ in range(arguments.encoding_steps):
            with torch.no_grad():
                encoded = stable_diffusion_vae.encode(images).latent_dist.sample()
                embedded = text_encoder(ids)[0]
            step(encoded, embedded)

    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder, "data"), texts, size)
        build_autoencoder("tiny", size, 8, 4).save_pretrained(Path(folder, "vae"))
        text_encoder.save_pretrained(Path(folder, "text"))
        tokenizer.save_pretrained(Path(folder, "text"))

        def ours(steps: int):
            return lambda: train(
                TrainingArguments(
                    data=f"{folder}/data",
                    output_dir=tempfile.mkdtemp(dir=folder),
                    vae=f"{folder}/vae",
                    text_encoder=f"{folder}/text",
                    unet=arguments.unet,
                    num_epochs=steps,  # the dataset is one batch
                    batch_size=arguments.batch_size,
                    samples_per_class=1,
                    num_inference_steps=1,
                    report_to="none",
                    cache_dir=f"{folder}/cache",
                )
            )

        # The start and the end of a run (loading, validating, saving) cancel out between a short and a long one.
        ours(1)()
        differences, few, many = [], 2, 2 + arguments.steps
        rows: dict[str, list[float]] = {"bare": [], "encoding": []}
        for _ in range(arguments.rounds):
            differences.append(timed(ours(many)) - timed(ours(few)))
            for name, seconds in seconds_in_turn({"bare": bare, "encoding": encoding}, 1).items():
                rows[name].append(seconds)

    rates = {
        "a": arguments.batch_size * arguments.steps / float(np.median(differences)),
        "b": arguments.batch_size * arguments.steps / float(np.median(rows["bare"])),
        "c": arguments.batch_size * arguments.encoding_steps / float(np.median(rows["encoding"])),
    }
    print(f"\n{describe_machine()}\nUNet {arguments.unet}, batch {arguments.batch_size}, {arguments.device}")
    print(f"(a) our loop               {rates['a']:9.1f} images/s")
    print(f"(b) bare step              {rates['b']:9.1f} images/s   a / b = {rates['a'] / rates['b']:.2f}")
    print(f"(c) encoding at every step {rates['c']:9.1f} images/s   a / c = {rates['a'] / rates['c']:.1f}")


def write_dataset(folder: Path, texts: list[str], size: int) -> None:
    """A prepared dataset of noise: one batch to train on, two photos to validate on."""
    random = np.random.default_rng(0)
    for split, captions in (("train", texts), ("validation", texts[:2])):
        lines = []
        for i, text in enumerate(captions):
            path = folder / split / "animal" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
            lines.append(json.dumps({"file_name": f"animal/{i}.png", "text": text, "label": "animal"}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
