"""The model in models/animal-ldm-128, as it is shipped."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from animal_ldm import AnimalLDMPipeline
from animal_ldm.commands.generate import main as generate
from animal_ldm.released import RELEASED_MODEL

FOLDER = Path(__file__).parent.parent / RELEASED_MODEL


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return ModelCard.load(FOLDER / "README.md")


def test_it_is_small_and_every_weight_is_finite():
    sizes = [file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(sizes) <= 64e6 and max(sizes) <= 32e6
    weights = list(FOLDER.rglob("*.safetensors"))
    assert {file.parent.name for file in weights} == {"text_encoder", "unet", "vae"}
    for file in weights:
        assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values())


def test_every_file_that_its_card_names_is_there(card):
    linked = re.findall(r"!?\[[^\]]*\]\(([^):#\s]+)\)", card.text)
    shown = [entry["output"]["url"] for entry in card.data.widget]
    assert shown and linked
    assert [path for path in (*linked, *shown) if not (FOLDER / path).is_file()] == []


def test_it_generates_the_sample_of_its_card_from_the_recorded_seed(card):
    """Other processors round differently: pixels may differ by 2 of 255 on average."""
    shown = card.data.widget[0]
    settings = dict(shown["parameters"])
    assert re.findall(r"num_inference_steps=(\d+)", card.text) == [str(settings["num_inference_steps"])]
    assert re.findall(r"guidance_scale=([\d.]+)", card.text) == [str(settings["guidance_scale"])]
    assert re.findall(r"manual_seed\((\d+)\)", card.text) == [str(settings["seed"])]
    generator = torch.Generator().manual_seed(settings.pop("seed"))
    image = AnimalLDMPipeline.from_pretrained(FOLDER)(shown["text"], generator=generator, **settings).images[0]
    with Image.open(FOLDER / shown["output"]["url"]) as sample:
        difference = np.abs(np.asarray(image, float) - np.asarray(sample.convert("RGB"), float)).mean()
    assert image.size == (128, 128)
    assert difference < 2


def test_it_is_found_from_anywhere_without_being_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    generate(["a zebra", "--steps", "2", "--out", "zebra.png"])
    with Image.open(tmp_path / "zebra.png") as image:
        assert image.size == (128, 128) and image.text["prompt"] == "a zebra"
