"""Load a staged model as a stranger would and generate an image: `python -P smoke.py SPEC`, in its own process.

The process has diffusers but not this package: what works here needs nothing but what is in the folder. Prints JSON:
the SHA-256 of the image's pixels by each way to load the model.

SPEC is JSON: folder, prompt, seed, size, num_inference_steps, guidance_scale, variant (None or "fp16").
"""

import hashlib
import inspect
import json
import sys
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.utils import logging

# name -> (class, arguments of from_pretrained)
ROUTES = {
    "DiffusionPipeline": (DiffusionPipeline, {}),
    "StableDiffusionPipeline": (StableDiffusionPipeline, {}),
    "custom_pipeline": (
        DiffusionPipeline,
        {"custom_pipeline": "pipeline_animal_ldm", "trust_remote_code": True},
    ),
}


def generate(pipeline: Any, spec: dict) -> np.ndarray:
    """One image, float32 (H, W, 3) in [0, 1]; without the model's own defaults: diffusers' class ignores them."""
    pipeline.set_progress_bar_config(disable=True)
    plain = {"guidance_rescale": 0.0, "guidance_interval": (0.0, 1.0), "pag_scale": 0.0}
    taken = inspect.signature(pipeline.__call__).parameters
    return pipeline(
        spec["prompt"],
        height=spec["size"],
        width=spec["size"],
        num_inference_steps=spec["num_inference_steps"],
        guidance_scale=spec["guidance_scale"],
        generator=torch.Generator().manual_seed(spec["seed"]),
        output_type="np",
        **{name: value for name, value in plain.items() if name in taken},
    ).images[0]


def pixels_digest(image: np.ndarray) -> str:
    return hashlib.sha256((image * 255).round().astype(np.uint8).tobytes()).hexdigest()


def main() -> None:
    sys.modules["animal_ldm"] = None  # type: ignore[assignment]  # importing it fails, even where it is installed
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    spec = json.loads(sys.argv[1])
    digests = {
        name: pixels_digest(generate(cls.from_pretrained(spec["folder"], **arguments), spec))
        for name, (cls, arguments) in ROUTES.items()
    }
    if spec["variant"]:
        half = DiffusionPipeline.from_pretrained(spec["folder"], variant=spec["variant"], dtype=torch.float16)
        if not np.isfinite(generate(half, spec)).all():
            sys.exit(f"the weights of variant {spec['variant']} generate values that are not finite")
    print(json.dumps(digests))


if __name__ == "__main__":
    main()
