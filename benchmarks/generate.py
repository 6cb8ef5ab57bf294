"""Overhead of generation beyond the networks: `python benchmarks/generate.py`.

Compares our pipeline with bare UNet calls and decoding for the same steps, side by side, and measures the time from
the shell to the first image. Weights are random unless a model is given: only the time matters.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from side_by_side import describe_machine, seconds_in_turn, timed

from animal_ldm import AnimalLDMPipeline
from animal_ldm.commands.parsing import parse
from animal_ldm.training.models import build_autoencoder, build_unet
from animal_ldm.training.objective import build_noise_scheduler
from animal_ldm.training.text import build_text_encoder, build_tokenizer


@dataclass(frozen=True)
class BenchmarkArguments:
    """Measure our pipeline's overhead and the time to the first image."""

    # Pipeline folder; by default one with random weights is built.
    model: str | None = None
    # Preset of the UNet that is built.
    unet: str = "small"
    # Images per call.
    batch_size: int = 8
    # Denoising steps.
    steps: int = 25
    # Rounds; medians are reported.
    rounds: int = 5
    # Device to run on.
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def build_pipeline(unet: str) -> AnimalLDMPipeline:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a zebra"])
    text_encoder = build_text_encoder(tokenizer)
    return AnimalLDMPipeline(
        vae=build_autoencoder("tiny", 128, 8, 4),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=build_unet(unet, 16, 4, text_encoder.config.hidden_size, 0.0),
        scheduler=DDIMScheduler.from_config(build_noise_scheduler(1000, "v_prediction").config),
        classes=["zebra"],
    )


def main() -> None:
    arguments = parse(BenchmarkArguments, None, prog="benchmarks/generate.py")
    pipeline = (
        AnimalLDMPipeline.from_pretrained(arguments.model) if arguments.model else build_pipeline(arguments.unet)
    )
    pipeline.to(arguments.device)
    pipeline.set_progress_bar_config(disable=True)
    prompts, guidance_scale = ["a zebra"] * arguments.batch_size, 3.0
    embeddings = torch.cat(
        pipeline.encode_prompt(prompts, arguments.device, 1, do_classifier_free_guidance=True)[::-1]
    )
    size = pipeline.unet.config.sample_size
    latents = torch.randn(arguments.batch_size, pipeline.unet.config.in_channels, size, size, device=arguments.device)

    def ours() -> None:
        pipeline(prompts, num_inference_steps=arguments.steps, guidance_scale=guidance_scale, latents=latents)

    @torch.no_grad()
    def bare() -> None:
        for timestep in torch.linspace(999, 0, arguments.steps, device=arguments.device):
            pipeline.unet(torch.cat([latents, latents]), timestep, embeddings, return_dict=False)
        pipeline.vae.decode(latents, return_dict=False)

    seconds = seconds_in_turn({"ours": ours, "bare": bare}, arguments.rounds)
    print(f"{describe_machine()}\n{arguments.batch_size} images, {arguments.steps} steps, {arguments.device}")
    print(f"pipeline                     {seconds['ours']:.2f} s")
    print(
        f"bare UNet calls and decoding {seconds['bare']:.2f} s, overhead {seconds['ours'] / seconds['bare'] - 1:+.1%}"
    )

    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(f"{folder}/model")
        command = [sys.executable, "-m", "animal_ldm", "generate", "a zebra", "--model", f"{folder}/model"]
        command += ["--steps", str(arguments.steps), "--out", f"{folder}/zebra.png"]

        def from_the_shell() -> None:
            subprocess.run(command, check=True, capture_output=True)

        from_the_shell()
        print(f"shell to first image         {timed(from_the_shell):.1f} s (one image, second start)")


if __name__ == "__main__":
    main()
