"""Which settings follow from photos, machine and minutes."""

import dataclasses
from pathlib import Path

import pytest

from animal_ldm.released import RELEASED_MODEL
from animal_ldm.workflow.machine import Machine
from animal_ldm.workflow.presets import MODELS, Wishes, choose, settings_of, table
from animal_ldm.workflow.settings import SHARES, RunSettings
from animal_ldm.workflow.survey import Survey

LAPTOP = Machine("cpu", "a laptop", 8.0, 50.0, 0.8, has_inception=False, has_squeezenet=False)
SERVER = Machine("gpu", "a GPU", 70.0, 500.0, 2.0, has_inception=True, has_squeezenet=True)
MANY = Survey(30_000, {"cat": 20_000, "dog": 10_000}, captioned=0, short_side=256, fingerprint="f")
FEW = Survey(20, {"cat": 20}, captioned=0, short_side=200, fingerprint="f")


def chosen(photos: Survey, machine: Machine, minutes: float, **wishes) -> RunSettings:
    settings = settings_of(choose(photos, machine, minutes, Wishes(**wishes)), "photos", minutes)
    settings.check()
    return settings


@pytest.mark.parametrize("photos", [MANY, FEW])
def test_little_time_starts_from_the_included_model_and_downloads_nothing(photos):
    settings = chosen(photos, LAPTOP, 30)
    assert settings.start_from == settings.autoencoder == RELEASED_MODEL
    assert (settings.text_encoder, settings.squeezenet_weights, settings.extractor) == ("scratch", "", "vae")
    assert settings.autoencoder_training == "keep"  # without LPIPS, tuning would blur
    assert settings.mixed_precision == "no"


def test_much_time_and_many_photos_train_a_new_network():
    assert chosen(MANY, LAPTOP, 600).start_from == ""
    assert chosen(FEW, LAPTOP, 600).start_from == RELEASED_MODEL
    settings = chosen(MANY, SERVER, 600)
    assert (settings.start_from, settings.unet, settings.mixed_precision) == ("", "large", "bf16")
    assert (settings.extractor, settings.autoencoder_training, settings.balance_classes) == ("inception", "tune", 1.0)


def test_few_photos_get_small_batches_and_more_of_them_are_kept_to_measure_with():
    settings = chosen(FEW, LAPTOP, 30)
    assert settings.batch_size <= 10
    assert settings.val_fraction > chosen(MANY, LAPTOP, 30).val_fraction
    assert not settings.balance_classes


def test_small_photos_get_small_images_and_a_network_for_them():
    settings = chosen(dataclasses.replace(MANY, short_side=50), LAPTOP, 30)
    assert (settings.image_size, settings.start_from, settings.unet) == (32, "", "tiny")
    assert chosen(MANY, LAPTOP, 30, image_size=64).image_size == 64


def test_the_hub_is_used_when_asked_for():
    settings = chosen(MANY, LAPTOP, 30, hub=True)
    assert settings.autoencoder.startswith("stabilityai/") and settings.text_encoder.startswith("openai/")
    assert (settings.start_from, settings.squeezenet_weights, settings.extractor) == ("", "download", "inception")


@pytest.mark.parametrize("training", ["keep", "tune", "new"])
def test_the_autoencoder_is_trained_as_asked_and_the_model_fits_it(training):
    settings = chosen(MANY, SERVER, 10, autoencoder_training=training)
    assert settings.autoencoder_training == training
    assert settings.start_from == ("" if training == "new" else RELEASED_MODEL)
    [row] = [row for row in choose(MANY, LAPTOP, 10, Wishes(autoencoder_training=training)) if "training" in row.name]
    assert ("blurred" in row.reason) == (training != "keep")  # no LPIPS there


def test_little_memory_means_small_batches():
    assert chosen(MANY, dataclasses.replace(LAPTOP, memory_gib=2.0), 30).batch_size == 16


def test_every_choice_is_shown_with_its_reason_and_a_changed_one_says_so():
    choices = choose(MANY, LAPTOP, 30, Wishes())
    settings = settings_of(choices, "photos", 30)
    shown = table(settings.changed(batch_size=3), choices)
    for choice in choices:
        assert choice.name in shown
        assert (choice.reason in shown) == (choice.name != "batch_size")
    assert sum(SHARES.values()) == 100
    rows = table(settings, choices).splitlines()
    assert len(rows) == len(dataclasses.fields(settings)) and not [row for row in rows if len(row.split()) < 3]
    assert {field.name for field in dataclasses.fields(settings)} == {choice.name for choice in choices} | {
        "photos",
        "minutes",
    }


def test_the_readme_shows_the_table():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in readme.split("| device | from minutes |")[1].split("\n\n")[0].splitlines()[2:]
    ]
    starts = {"included": "included model", "new": "new network"}
    assert [[row[0].split()[0], *row[1:]] for row in rows] == [
        [
            preset.device.upper(),
            f"{preset.minutes:g}",
            f"{preset.photos:,}",
            starts[preset.start],
            preset.unet,
            f"{preset.batch_size}",
            f"{preset.learning_rate:g}",
        ]
        for preset in MODELS
    ]
