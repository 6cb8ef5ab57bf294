"""`animal-ldm generate`, on a tiny pipeline folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from animal_ldm import cli
from animal_ldm.commands.generate import grid, grid_columns, main
from animal_ldm.errors import InputError


@pytest.fixture
def generate(tiny_pipeline_folder, tmp_path, monkeypatch):
    """Run `animal-ldm generate` in an empty folder, in two steps; returns that folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> Path:
        main(["a zebra", "--model", tiny_pipeline_folder, "--device", "cpu", "--steps", "2", *argv])
        return tmp_path

    return run


@pytest.fixture
def broken(tiny_pipeline_folder, tmp_path):
    """A copy of the pipeline folder without one of its files, or with that file cut short."""

    def copy(name: str, keep: int | None = None) -> str:
        folder = tmp_path / "broken"
        shutil.copytree(tiny_pipeline_folder, folder)
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        if keep is not None:
            (folder / name).write_bytes(content[:keep])
        return str(folder)

    return copy


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_grid(generate, capsys):
    out = generate("-n", "8", "--out", "zebras/grid.png") / "zebras" / "grid.png"
    assert Image.open(out).size == (4 * 16, 2 * 16)
    assert capsys.readouterr().out == "zebras/grid.png\n"


def test_separate_images_are_the_cells_of_the_grid(generate):
    folder = generate("-n", "3", "--seed", "5", "--out", "zebra.png")
    generate("-n", "3", "--seed", "5", "--out", "zebra.png", "--separate")
    names = ["zebra-000.png", "zebra-001.png", "zebra-002.png"]
    assert sorted(path.name for path in folder.glob("zebra-*.png")) == names
    row = np.concatenate([pixels(folder / name) for name in names], axis=1)
    assert np.array_equal(row, pixels(folder / "zebra.png"))


def test_an_image_depends_on_its_seed_alone(generate):
    """Not on the number of images, the batch size or its place; to one level of rounding."""
    generate("-n", "5", "--seed", "7", "--out", "a.png", "--separate", "--batch_size", "2")
    folder = generate("-n", "2", "--seed", "9", "--out", "b.png", "--separate")
    assert abs(pixels(folder / "a-002.png") - pixels(folder / "b-000.png")).max() <= 1
    assert abs(pixels(folder / "a-003.png") - pixels(folder / "b-001.png")).max() <= 1
    assert abs(pixels(folder / "a-002.png") - pixels(folder / "a-003.png")).max() > 10


def test_existing_file_is_overwritten(generate, tmp_path):
    (tmp_path / "zebra.png").write_bytes(b"something else")
    assert Image.open(generate("--out", "zebra.png") / "zebra.png").size == (16, 16)


def test_png_text_holds_the_settings(generate, tiny_pipeline_folder):
    folder = generate(
        "-n", "2", "--seed", "3", "--guidance", "2.5", "--negative_prompt", "a löwe 🦁", "--out", "x.png", "--separate"
    )
    text = Image.open(folder / "x-001.png").text
    assert text == {
        "prompt": "a zebra",
        "negative_prompt": "a löwe 🦁",
        "model": tiny_pipeline_folder,
        "dtype": "float32",
        "num_inference_steps": "2",
        "guidance_scale": "2.5",
        "guidance_rescale": "0.0",
        "guidance_interval": "(0.0, 1.0)",
        "pag_scale": "0.0",
        "pag_applied_layers": "('mid',)",
        "seed": "4",
    }
    assert Image.open(generate("-n", "2", "--seed", "3") / "images.png").text["seed"] == "3 to 4"


@pytest.mark.parametrize(
    "option",
    [
        ["--guidance", "9"],
        ["--guidance_rescale", "1"],
        ["--guidance_interval", "0", "0.5"],
        ["--pag_scale", "2"],
        ["--pag_scale", "2", "--pag_applied_layers", "mid", "up_blocks.0"],
        ["--negative_prompt", "a polar bear at night"],
        ["--steps", "3"],
        ["--dtype", "bfloat16"],
        ["--seed", "1"],
    ],
    ids=" ".join,
)
def test_every_option_reaches_the_pipeline(generate, option):
    plain = pixels(generate() / "images.png")
    assert not np.array_equal(pixels(generate(*option) / "images.png"), plain)


def test_class_warning_comes_once(generate, tiny_pipeline_folder, library_warnings):
    main(
        ["a pony", "--model", tiny_pipeline_folder, "--steps", "1", "-n", "3", "--batch_size", "1", "--device", "cpu"]
    )
    assert ["names none" in message for message in library_warnings()] == [True]


@pytest.mark.parametrize(
    ("count", "columns", "rows"),
    [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 2, 2), (5, 3, 2), (8, 4, 2), (11, 4, 3), (64, 8, 8)],
)
def test_grid_is_near_square(count, columns, rows):
    assert grid_columns(count) == columns
    assert grid([Image.new("RGB", (3, 2))] * count).size == (3 * columns, 2 * rows)


def test_empty_cells_are_white():
    cells = np.asarray(grid([Image.new("RGB", (1, 1))] * 5))[..., 0]
    assert cells.tolist() == [[0, 0, 0], [0, 0, 255]]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["-n", "0"], "--number must be at least 1, but is 0"),
        (["--steps", "0"], "--num_inference_steps must be at least 1"),
        (["--batch_size", "-1"], "--batch_size must be at least 1"),
        (["--guidance_interval", "0.8", "0.2"], "but is 0.8 0.2"),
        (["--pag_scale", "-1"], "--pag_scale must be a finite number of at least 0, but is -1"),
        (["--pag_scale", "1", "--pag_applied_layers", "moon"], r"--pag_applied_layers: .*\['moon'\] match none"),
        (["--pag_scale", "1", "--pag_applied_layers", "(mid"], "--pag_applied_layers: missing \\)"),
        (["--out", "zebra.jpg"], "zebra.jpg"),
        (["--model", "./nowhere"], "there is no folder ./nowhere"),
        (["--model", "nobody/nothing"], "nobody/nothing is not a local folder, and the Hub could not be reached"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(generate, option, message):
    with pytest.raises(InputError, match=message):
        generate(*option)


def test_without_the_released_model_the_message_says_what_to_do(generate, monkeypatch):
    monkeypatch.setattr("animal_ldm.loading.RELEASED_MODEL", "models/not-shipped")
    with pytest.raises(InputError, match="Train one with `animal-ldm train`"):
        generate("--model", "models/not-shipped")


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "tokenizer/tokenizer.json",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ],
)
def test_folder_that_lacks_a_file(generate, broken, name):
    with pytest.raises(InputError, match=Path(name).stem):
        generate("--model", broken(name))


@pytest.mark.parametrize("name", ["model_index.json", "unet/diffusion_pytorch_model.safetensors"])
def test_file_cut_short(generate, broken, name):
    with pytest.raises(InputError, match="copy the folder again"):
        generate("--model", broken(name, keep=50))


def test_command_line_prints_one_sentence(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["generate", "a zebra", "--model", "./nowhere"])
    assert exit.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_is_quick():
    """It explains every argument without importing torch."""
    code = """
import sys
from animal_ldm.cli import main
try:
    main(["generate", "--help"])
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Number of images." in done.stdout
    assert "-n INT, --number INT" in done.stdout
