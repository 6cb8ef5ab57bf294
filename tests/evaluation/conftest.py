"""Stand-ins for networks whose weights the tests cannot have, and a dataset of coloured squares."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

CLASSES = {"lion": (200, 150, 60), "polar bear": (230, 230, 240), "zebra": (90, 90, 90)}


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory):
    """A separate cache, so that the tests neither read nor fill that of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HOME", raising=False)
        patch.delenv("ANIMAL_LDM_CACHE", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_resnet(tmp_path_factory):
    """A folder with a transformers image model that takes 32 px and gives 12 numbers, with random weights."""
    folder = tmp_path_factory.mktemp("extractors") / "tiny-resnet"
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ResNetModel(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder)
    return folder


class Layers(torch.nn.Module):
    """Sees 299 x 299 pixels in [-1, 1), gives 2048 numbers, like the layers of NVIDIA's Inception."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 32, 13, stride=13)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.convolution(images))
        return torch.nn.functional.adaptive_avg_pool2d(maps, (8, 8)).flatten(1)


class StandIn(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = Layers()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


@pytest.fixture(scope="session")
def inception_stand_in(tmp_path_factory):
    """A TorchScript file with the interface, the name and nothing else of Inception's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scripted = torch.jit.script(StandIn().eval())
    path = tmp_path_factory.mktemp("inception") / "inception-2015-12-05.pt"
    scripted.save(str(path))
    return path


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A prepared dataset of 16 px squares: every class has its colour, every photo its noise."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    for split, sizes in (("train", (30, 20, 10)), ("validation", (12, 9, 6))):
        lines = []
        for (label, colour), size in zip(CLASSES.items(), sizes, strict=True):
            (folder / split / label.replace(" ", "_")).mkdir(parents=True)
            for i in range(size):
                photo = np.clip(rng.normal(colour, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
                name = f"{label.replace(' ', '_')}/{i:03d}.png"
                Image.fromarray(photo).save(folder / split / name)
                lines.append(json.dumps({"file_name": name, "text": f"a {label}", "label": label}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def image_folders(tmp_path):
    """Two folders of noise, of unlike sizes, as clean-fid reads them."""
    rng = np.random.default_rng(0)
    for name, level in (("real", 100), ("fake", 140)):
        (tmp_path / name).mkdir()
        for i in range(12):
            size = (24, 24) if i % 2 else (40, 30)
            noise = np.clip(rng.normal(level, 60, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{i:02d}.png")
    return tmp_path / "real", tmp_path / "fake"
