"""What `animal-ldm doctor` looks at: device, speed, disk, network, versions, and what could be installed."""

# diffusers annotates its networks too narrowly for a type checker.
# pyright: reportArgumentType=false

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import HfApi, get_token

from ..environment import hardware, library_versions
from ..errors import InputError
from ..loading import choose_device
from ..training.execution import best_seconds
from ..training.models import UNETS, build_unet, parameters, use_attention
from .machine import Machine, look_at_machine

LIBRARIES = ("animal-ldm", "torch", "diffusers", "transformers", "accelerate", "datasets", "huggingface_hub", "tyro")
# Package, the extra of ours that installs it, and what it is for.
OPTIONAL = (("gradio", "demo", "the demo page"), ("peft", "lora", "`train --lora_rank` and loading a LoRA"))
# Of the networks that are timed: latents of 128 px images by the included autoencoder.
LATENTS, WIDTH, BATCH = (12, 16, 16), 128, 8
LEAST_DISK_GIB, LEAST_MEMORY_GIB = 5, 3


@dataclass(frozen=True)
class Finding:
    """A line of the answer, and what to do about it where something can be done."""

    name: str
    value: str
    advice: str = ""


def examine(folder: Path, speed: bool = True) -> Iterator[Finding]:
    """Look at this machine, one thing after the other.

    Args:
        folder: on the disk where results would go.
        speed: whether the networks are timed, which takes from seconds to a minute.
    """
    machine, found = look_at_machine(folder), hardware()
    yield from of_device(machine, found)
    if speed:
        yield from of_speed(machine)
    yield from of_network()
    yield from of_weights(machine)
    yield from of_software(machine)


def of_device(machine: Machine, found: dict) -> Iterator[Finding]:
    advice = "A GPU trains faster." if machine.kind == "cpu" else ""
    yield Finding("device", f"{machine.name} ({machine.kind.upper()})", advice)
    yield Finding("processor", f"cores: {found['cpu_cores']}; threads of PyTorch: {found['torch_threads']}")
    low = machine.memory_gib < LEAST_MEMORY_GIB
    yield Finding("free memory", f"{machine.memory_gib:.1f} GiB", "Close other programs: training needs 3 GiB." * low)
    low = machine.disk_gib < LEAST_DISK_GIB
    yield Finding("free disk", f"{machine.disk_gib:.0f} GiB", "Make room: checkpoints and latents need 5 GiB." * low)
    speedup = machine.bf16_speedup
    if speedup:
        yield Finding(
            "bf16", f"{speedup:.2g} times as fast as float32", "" if speedup > 1.2 else "Train with float32."
        )
    else:
        yield Finding("bf16", "does not run here", "Train with float32.")


def of_speed(machine: Machine) -> Iterator[Finding]:
    """Images per second of a training step of each UNet, in the faster number type."""
    device = choose_device()
    dtype = torch.bfloat16 if machine.bf16_speedup > 1.2 else torch.float32
    for name in UNETS:
        unet = build_unet(name, LATENTS[1], LATENTS[0], WIDTH, dropout=0.0).to(device)
        use_attention(unet, "sdpa", device)
        latents = torch.zeros(BATCH, *LATENTS, device=device)
        captions = torch.zeros(BATCH, 32, WIDTH, device=device)
        timesteps = torch.zeros(BATCH, dtype=torch.long, device=device)

        def step(unet=unet, latents=latents, captions=captions, timesteps=timesteps) -> None:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = unet(latents, timesteps, captions).sample.float().square().mean()
            loss.backward()
            unet.zero_grad()

        seconds = best_seconds(step, device, times=2)
        size = f"{parameters(unet) / 1e6:.0f} million parameters"
        speed = f"{BATCH / seconds:,.{0 if BATCH / seconds >= 10 else 1}f} images/s"
        yield Finding(f"unet {name}", f"{speed} in training, batches of {BATCH} ({size})")


def of_network() -> Iterator[Finding]:
    """Whether the Hub can be reached, and with whose token."""
    token = get_token()
    try:
        user = HfApi().whoami(token=token)["name"] if token else None
        HfApi().model_info("stabilityai/sd-vae-ft-mse", timeout=5)
    except Exception as error:  # the many ways in which a network fails are all the same here
        yield Finding(
            "Hugging Face Hub",
            f"not reached ({type(error).__name__})",
            "Nothing needs it: `run` works offline, and so does `train` with your own parts.",
        )
        yield Finding("token", "found" if token else "none", "" if token else "To publish: hf auth login")
        return
    yield Finding("Hugging Face Hub", "reached")
    yield Finding("token", f"of {user}" if user else "none", "" if user else "To publish: hf auth login")


def of_weights(machine: Machine) -> Iterator[Finding]:
    here = "downloaded"
    yield Finding(
        "Inception's weights",
        here if machine.has_inception else "not here",
        "" if machine.has_inception else "FID needs them; `animal-ldm evaluate` downloads them once (90 MB).",
    )
    yield Finding(
        "SqueezeNet's weights",
        here if machine.has_squeezenet else "not here",
        "" if machine.has_squeezenet else "LPIPS and alignment need them; the trainers download them once (5 MB).",
    )


def of_software(machine: Machine) -> Iterator[Finding]:
    versions = library_versions(*LIBRARIES)
    yield Finding("versions", ", ".join(f"{name} {number}" for name, number in versions.items()))
    yield xformers_kernels(machine)
    for package, extra, use in OPTIONAL:
        if importlib.util.find_spec(package) is None:
            yield Finding(package, "not installed", f"For {use}: pip install 'animal-ldm[{extra}]'")
    if sys.platform == "win32":
        yield Finding("system", "Windows", "Not tested there; use WSL.")


def xformers_kernels(machine: Machine) -> Finding:
    """Whether the attention kernels of xformers run on this device."""
    if importlib.util.find_spec("xformers") is None:
        advice = "Optional: pip install 'animal-ldm[xformers]'" if machine.kind == "gpu" else ""
        return Finding("xformers", "not installed", advice)
    try:
        use_attention(build_unet("tiny", LATENTS[1], LATENTS[0], WIDTH, 0.0), "xformers", choose_device())
    except InputError:
        return Finding("xformers", "installed, but has no kernels for this device", "Leave --attention at sdpa.")
    return Finding("xformers", "kernels run here")
