"""`run.yaml`: written to be read by people, edited, and read again."""

import dataclasses

import pytest
import yaml

from animal_ldm.errors import InputError
from animal_ldm.workflow.settings import FILE, SHARES, RunSettings, field_comments

SETTINGS = RunSettings(
    photos="photos", minutes=30.0, shares=dict(SHARES), image_size=128, num_classes=2, val_fraction=0.1, describe=True,
    autoencoder="vae", autoencoder_training="keep", text_encoder="scratch", start_from="", unet="tiny", batch_size=8,
    learning_rate=5e-4, balance_classes=0.0, squeezenet_weights="", mixed_precision="no", extractor="vae",
    tune_guidance=False, samples=100, country="", push="", seed=1,
)  # fmt: skip


def test_settings_survive_the_file(tmp_path):
    SETTINGS.write(tmp_path)
    assert RunSettings.read(tmp_path) == SETTINGS
    text = (tmp_path / FILE).read_text()
    assert yaml.safe_load(text) == dataclasses.asdict(SETTINGS)
    assert "# Minutes in all." in text and len(field_comments()) > 10


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_values_that_yaml_reads_otherwise_are_understood(tmp_path, mixed_precision):
    SETTINGS.write(tmp_path)
    lines = [
        line for line in (tmp_path / FILE).read_text().splitlines() if "_rate" not in line and "mixed" not in line
    ]
    lines += ["learning_rate: 1e-3", f"mixed_precision: {mixed_precision}", ""]
    (tmp_path / FILE).write_text("\n".join(lines).replace("minutes: 30.0", "minutes: 45"))
    read = RunSettings.read(tmp_path)
    assert (read.learning_rate, read.mixed_precision, read.minutes) == (1e-3, mixed_precision, 45.0)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("batch_size: 8", "batch_size: many", "batch_size must be of type int, but is 'many'"),
        ("batch_size: 8", "batch_sise: 8", "batch_sise, batch_size"),
        ("autoencoder_training: keep", "autoencoder_training: bake", "one of keep, tune, new, but is 'bake'"),
        ("seed: 1", "seed: [", "is not YAML"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, old, new, message):
    SETTINGS.write(tmp_path)
    file = tmp_path / FILE
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        RunSettings.read(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"minutes": 0.0}, "minutes must be greater than 0"),
        ({"shares": {"evaluation": 1.0}}, "shares must give a number"),
        ({"shares": SHARES | {"text_to_image": 0.0}}, "some time for text_to_image"),
        ({"push": "model"}, "such as user/name"),
        ({"autoencoder_training": "new", "start_from": "model"}, "start_from must be empty, but is model"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SETTINGS, **changes).check()
