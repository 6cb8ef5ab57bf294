"""The door for models from outside: what is refused, with which words, and what still comes in."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from animal_ldm.errors import InputError
from animal_ldm.files import SUMS
from animal_ldm.loading import load_component, load_pipeline, seal
from animal_ldm.sampling import Sampling, sample_images
from tests.hostile_models import HOSTILE, WEIGHTS, code, filled, setting, tensors


@pytest.fixture
def folder(tiny_pipeline_folder, tmp_path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))


@pytest.fixture
def no_hang():
    def give_up(*_):
        raise TimeoutError("it hangs")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_broken_folder_is_refused_in_one_sentence(folder, name, no_hang):
    harm, words = HOSTILE[name]
    harm(folder)
    with pytest.raises(InputError, match=words) as refused:
        load_pipeline(str(folder), "cpu")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000
    assert not (folder / "ran").exists()


def test_sums_are_verified_and_a_readme_may_change(folder):
    seal(folder)
    (folder / "README.md").write_text("changed")
    load_pipeline(str(folder), "cpu")
    listed = (folder / SUMS).read_text()
    assert WEIGHTS["unet"] in listed and "tokenizer/tokenizer.json" in listed and "README" not in listed


def test_a_tokenizer_may_lie_beside_large_weights(folder):
    with (folder / "tokenizer" / "model.safetensors").open("wb") as file:
        file.truncate(65 << 20)
    load_component(CLIPTokenizer, str(folder), "tokenizer")
    (folder / "tokenizer" / "model.safetensors").rename(folder / "tokenizer" / "notes.txt")
    with pytest.raises(InputError, match=r"notes.txt has more than 64 MiB, which no tokenizer needs"):
        load_component(CLIPTokenizer, str(folder), "tokenizer")


def test_code_in_a_folder_is_not_run(folder):
    code("pipeline_animal_ldm.py")(folder)
    code("unet/unet.py")(folder)
    load_pipeline(str(folder), "cpu")
    assert not (folder / "ran").exists()


def test_names_of_earlier_versions_of_diffusers_come_in(folder):
    stored = load_file(folder / WEIGHTS["vae"])
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in stored.items():
        for present, old in former.items():
            name = name.replace(f".{present}.", f".{old}.")
        renamed[name] = tensor
    assert renamed.keys() != stored.keys()
    save_file(renamed, folder / WEIGHTS["vae"], metadata={"format": "pt"})
    vae = load_component(AutoencoderKL, str(folder), "vae")
    assert all(torch.equal(stored[name], tensor) for name, tensor in vae.state_dict().items())


def test_the_text_encoder_of_a_whole_clip_comes_in(folder):
    def whole(stored: dict) -> None:
        stored["text_model.embeddings.position_ids"] = torch.arange(24)[None]
        stored["vision_model.pre_layrnorm.weight"] = torch.ones(4)
        stored["logit_scale"] = torch.ones(())

    tensors("text_encoder", whole)(folder)
    assert load_component(CLIPTextModel, str(folder), "text_encoder").config.hidden_size == 8


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_images_that_are_not_finite_are_an_error(folder, part):
    name = {"unet": "conv_out.bias", "vae": "decoder.conv_out.bias"}[part]
    tensors(part, lambda stored: filled(stored, name, 3e38))(folder)
    setting("vae/config.json", scaling_factor=1e-30)(folder)
    pipeline = load_pipeline(str(folder), "cpu")
    pipeline.set_progress_bar_config(disable=True)
    if part == "vae":
        torch.nn.init.constant_(pipeline.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(InputError, match="values that are not finite, with 'a zebra'"):
        next(sample_images(pipeline, ["a zebra"], [0], Sampling(num_inference_steps=1)))
