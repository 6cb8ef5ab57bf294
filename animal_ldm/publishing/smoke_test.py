"""Run `smoke.py` on a staged model, in a process of its own, and compare what it generates."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from ..sampling import Sampling
from .card import Sample


@dataclass(frozen=True)
class SmokeTest:
    """An image that a staged model must generate.

    Attributes:
        file: the image, in the staged folder.
        size: its side in pixels.
        variant: None or "fp16", whose weights must load too.
    """

    file: str
    prompt: str
    seed: int
    size: int
    sampling: Sampling
    variant: str | None

    @classmethod
    def of(cls, sample: Sample, size: int, variant: str | None) -> "SmokeTest":
        return cls(sample.file, sample.prompt, sample.seed, size, sample.sampling, variant)


def smoke_test(out: Path, test: SmokeTest) -> None:
    """Load the staged model in a fresh process in every way that needs diffusers alone, and compare the pixels.

    The model's own pipeline must generate the image of the card. Diffusers' classes, which lack some of its settings,
    must generate the same image as it does without them.

    Raises:
        InputError: the model does not load in one of the ways, or generates another image.
    """
    specification = json.dumps(asdict(test) | {"folder": str(out.resolve())})
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": elsewhere}
        command = [sys.executable, "-P", str(Path(__file__).with_name("smoke.py")), specification]
        tried = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    if tried.returncode:
        raise InputError(f"The staged model does not load in a fresh process. Nothing was published.\n{tried.stderr}")
    with Image.open(out / test.file) as image:
        expected = hashlib.sha256(np.asarray(image).tobytes()).hexdigest()
    generated = json.loads(tried.stdout.splitlines()[-1])
    if generated["own"] != expected:
        raise InputError("The staged model generates another image than on its card. Nothing was published.")
    for way, digest in generated["plain"].items():
        if digest != generated["plain"]["custom_pipeline"]:
            raise InputError(
                f"Loaded with {way}, the staged model generates another image than with its own pipeline. Nothing was"
                " published."
            )
