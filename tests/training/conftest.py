"""A prepared dataset of 16 x 16 images, and components small enough to train in seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import tiny_components

CLASSES = {"lion": (230, 160, 60), "zebra": (120, 120, 120)}


def write_split(folder: Path, per_class: int, seed: int, size: int = 16) -> None:
    """Noisy squares in the class's colour, `lion`s twice as common as `zebra`s."""
    random = np.random.default_rng(seed)
    lines = []
    for name, colour in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class * (2 if name == "lion" else 1)):
            pixels = np.clip(np.array(colour) + random.normal(0, 30, (size, size, 3)), 0, 255).astype(np.uint8)
            file_name = f"{name}/{number:03d}.png"
            Image.fromarray(pixels).save(folder / file_name)
            lines.append({"file_name": file_name, "text": [f"a {name}", name][number % 2], "label": name})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def random_pixels(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> str:
    """24 training and 6 validation images of two classes."""
    folder = tmp_path_factory.mktemp("prepared")
    write_split(folder / "train", 8, seed=1)
    write_split(folder / "validation", 2, seed=2)
    return str(folder)


def write_parts(folder: Path) -> dict[str, str]:
    """Folders of a VAE, a text encoder with its tokenizer and UNet configs for either kind of text encoder."""
    folder.mkdir(exist_ok=True)
    components = tiny_components()
    components["vae"].save_pretrained(folder / "vae")
    components["text_encoder"].save_pretrained(folder / "text")
    components["tokenizer"].save_pretrained(folder / "text")
    config = {**components["unet"].config, "sample_size": 8}
    (folder / "unet.json").write_text(json.dumps(config))
    (folder / "unet-scratch.json").write_text(json.dumps({**config, "cross_attention_dim": 128}))
    return {
        "vae": str(folder / "vae"),
        "text_encoder": str(folder / "text"),
        "unet": str(folder / "unet.json"),
        "unet_scratch": str(folder / "unet-scratch.json"),
    }


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> dict[str, str]:
    return write_parts(tmp_path_factory.mktemp("parts"))


def weights_of(folder: str | Path, component: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = Path(folder, component).glob("*.safetensors")
    return load_file(file)


def assert_same_weights(first: str | Path, second: str | Path, component: str) -> None:
    mine, other = weights_of(first, component), weights_of(second, component)
    assert mine.keys() == other.keys()
    for name in mine:
        assert torch.equal(mine[name], other[name]), name
