"""Runs that start from a finished pipeline: LoRA, and its text encoder trained with it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from animal_ldm import AnimalLDMPipeline
from animal_ldm.digest import pipeline_digest
from animal_ldm.errors import InputError
from animal_ldm.loading import LORA_FILE, load_pipeline
from animal_ldm.training.arguments import TrainingArguments
from animal_ldm.training.text import load_text_encoder
from animal_ldm.training.text_to_image import train
from tests.conftest import TINY_CLASSES
from tests.test_pipeline_animal_ldm import generate
from tests.training.conftest import assert_same_weights, weights_of, write_split


@pytest.fixture(scope="session")
def new_class(tmp_path_factory) -> str:
    """A prepared dataset with a class that the tiny pipeline does not know."""
    folder = tmp_path_factory.mktemp("okapis")
    for name, per_class in (("train", 4), ("validation", 1)):
        write_split(folder / name, per_class, seed=1)
        lines = (folder / name / "metadata.jsonl").read_text().replace("zebra", "okapi").splitlines()
        (folder / name / "zebra").rename(folder / name / "okapi")
        (folder / name / "metadata.jsonl").write_text("".join(line + "\n" for line in lines))
    return str(folder)


@pytest.fixture
def arguments(new_class, tiny_pipeline_folder, tmp_path) -> TrainingArguments:
    """Three steps; everything but the photos is that of the pipeline."""
    return TrainingArguments(
        data=new_class,
        output_dir=str(tmp_path / "model"),
        fork=tiny_pipeline_folder,
        prediction_type="epsilon",
        image_size=16,
        num_epochs=2,
        batch_size=8,
        learning_rate=1e-2,
        num_warmup_steps=0,
        samples_per_class=1,
        num_inference_steps=2,
        report_to="none",
        cache_dir=str(tmp_path / "cache"),
    )


CLASSES = sorted({*TINY_CLASSES, "okapi"})


def test_networks_are_those_of_the_pipeline_by_default(tiny_pipeline_folder):
    options = {"data": "data", "output_dir": "out"}
    for start in ({"fork": tiny_pipeline_folder}, {"unet": tiny_pipeline_folder}):
        arguments = TrainingArguments(**options, **start)
        assert (arguments.vae, arguments.text_encoder) == (tiny_pipeline_folder, tiny_pipeline_folder)
    arguments = TrainingArguments(**options, fork=tiny_pipeline_folder, text_encoder="scratch")
    assert arguments.text_encoder == "scratch"
    assert TrainingArguments(**options).vae == "stabilityai/sd-vae-ft-mse"


def test_tokenizer_of_a_pipeline_folder(tiny_pipeline_folder):
    tokenizer, text_encoder = load_text_encoder(tiny_pipeline_folder, ())
    assert len(tokenizer) == text_encoder.config.vocab_size > 2


def test_fine_tuning_with_a_frozen_text_encoder(arguments, tiny_pipeline_folder):
    folder = train(arguments)
    for component in ("text_encoder", "vae"):
        assert_same_weights(folder, tiny_pipeline_folder, component)
    assert AnimalLDMPipeline.from_pretrained(folder).classes == CLASSES


def test_text_encoder_is_trained_too(arguments, tiny_pipeline_folder):
    folder = train(dataclasses.replace(arguments, train_text_encoder=True))
    assert_same_weights(folder, tiny_pipeline_folder, "vae")
    for component in ("text_encoder", "unet"):
        mine, before = weights_of(folder, component), weights_of(tiny_pipeline_folder, component)
        assert mine.keys() == before.keys() and any(not torch.equal(mine[name], before[name]) for name in mine)
    pipeline = AnimalLDMPipeline.from_pretrained(folder)
    assert pipeline.classes == CLASSES
    assert pipeline.tokenizer.get_vocab() == load_text_encoder(tiny_pipeline_folder, ())[0].get_vocab()


def test_lora_loads_into_its_pipeline(arguments, tiny_pipeline_folder):
    pytest.importorskip("peft")
    folder = train(dataclasses.replace(arguments, lora_rank=2))
    assert Path(folder, LORA_FILE).is_file() and not Path(folder, "unet").exists()
    pipeline = AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder)
    before = generate(pipeline, prompt="an okapi")
    pipeline.load_lora_weights(folder)
    pictures = generate(pipeline, prompt="an okapi")
    assert not torch.allclose(pictures, before, atol=1e-3)
    torch.testing.assert_close(
        generate(pipeline, prompt="an okapi", cross_attention_kwargs={"scale": 0.0}), before, atol=1e-5, rtol=0
    )

    merged = load_pipeline(str(folder), "cpu")
    torch.testing.assert_close(generate(merged, prompt="an okapi"), pictures, atol=1e-4, rtol=0)
    assert merged.classes == CLASSES
    report = json.loads(Path(folder, "training_report.json").read_text())
    assert report["digests"]["pipeline"] == pipeline_digest(merged)
    assert report["arguments"]["lora_rank"] == 2
    assert report["arguments"]["vae"] == report["arguments"]["fork"] == tiny_pipeline_folder


def test_lora_resumes_to_the_same_bits(arguments, tmp_path):
    pytest.importorskip("peft")
    arguments = dataclasses.replace(arguments, lora_rank=2, checkpoint_every=8)
    whole = train(arguments)
    stopped = dataclasses.replace(arguments, output_dir=str(tmp_path / "stopped"))
    train(dataclasses.replace(stopped, num_epochs=1))
    resumed = train(dataclasses.replace(stopped, resume=True))
    mine, expected = load_file(resumed / LORA_FILE), load_file(whole / LORA_FILE)
    assert mine.keys() == expected.keys() and all(torch.equal(mine[name], expected[name]) for name in mine)
    with pytest.raises(InputError, match="lora_rank"):
        train(dataclasses.replace(stopped, resume=True, lora_rank=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": -1}, "at least 0"),
        ({"lora_rank": 4, "train_text_encoder": True}, "cannot be combined"),
        ({"lora_rank": 4, "fork": None}, "Pass the folder of its pipeline with --unet"),
        ({"prediction_type": "v_prediction"}, "Pass --prediction_type epsilon"),
    ],
)
def test_errors(arguments, changes, message):
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(arguments, **changes))


def test_lora_of_an_unknown_pipeline(arguments, tmp_path):
    peft = pytest.importorskip("peft")
    unet = AnimalLDMPipeline.from_pretrained(arguments.fork).unet
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    AnimalLDMPipeline.save_lora_weights(tmp_path, unet_lora_layers=peft.get_peft_model_state_dict(unet))
    with pytest.raises(InputError, match="does not say which model"):
        load_pipeline(str(tmp_path), "cpu")
