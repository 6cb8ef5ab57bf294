"""Load a staged model as a stranger would and generate an image: `python -P smoke.py SPEC`, in its own process.

The process has diffusers but not this package: what works here needs nothing but what is in the folder. Prints JSON
with SHA-256 digests of the image's pixels: `own`, sampled as SPEC says by the model's own pipeline, and `plain`, by
each way to load the model, with what all of them can do: guidance by the text alone, at every step.

SPEC is JSON: folder, prompt, seed, size, sampling (arguments of the model's own pipeline), variant (None or "fp16").
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

# what turns off the settings that the model's own pipeline adds
PLAIN = {"guidance_rescale": 0.0, "guidance_interval": (0.0, 1.0), "pag_scale": 0.0}


def generate(pipeline: Any, spec: dict, changes: dict) -> np.ndarray:
    """One image, float32 (H, W, 3) in [0, 1], with those settings of the sampling that the pipeline takes."""
    pipeline.set_progress_bar_config(disable=True)
    taken = inspect.signature(pipeline.__call__).parameters
    return pipeline(
        spec["prompt"],
        height=spec["size"],
        width=spec["size"],
        generator=torch.Generator().manual_seed(spec["seed"]),
        output_type="np",
        **{name: value for name, value in (spec["sampling"] | changes).items() if name in taken},
    ).images[0]


def pixels_digest(image: np.ndarray) -> str:
    return hashlib.sha256((image * 255).round().astype(np.uint8).tobytes()).hexdigest()


def main() -> None:
    sys.modules["animal_ldm"] = None  # type: ignore[assignment]  # importing it fails, even where it is installed
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    spec = json.loads(sys.argv[1])
    pipelines = {name: cls.from_pretrained(spec["folder"], **arguments) for name, (cls, arguments) in ROUTES.items()}
    own = pixels_digest(generate(pipelines["custom_pipeline"], spec, {}))
    plain = {name: pixels_digest(generate(pipeline, spec, PLAIN)) for name, pipeline in pipelines.items()}
    if spec["variant"]:
        half = DiffusionPipeline.from_pretrained(spec["folder"], variant=spec["variant"], dtype=torch.float16)
        if not np.isfinite(generate(half, spec, PLAIN)).all():
            sys.exit(f"the weights of variant {spec['variant']} generate values that are not finite")
    print(json.dumps({"own": own, "plain": plain}))


if __name__ == "__main__":
    main()
