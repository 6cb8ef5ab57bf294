"""The demo as a Space: its files and its card."""

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from huggingface_hub import SpaceCardData

from ..errors import InputError
from ..files import write_text
from ..markdown import Markdown, render
from .card import requirements
from .checks import check_files
from .rules import check_card

DEMO = Path(__file__).parents[1] / "demo.py"
TEMPLATE = Path(__file__).with_name("space_card_template.md")
LIBRARIES = ("accelerate", "diffusers", "torch", "transformers")
PYTHON = "3.12"  # the Hub's default is older than this package supports


def stage_space(model: str, license: str, out: Path) -> None:
    """Write the repository of a Space, in which the demo runs with `model` of the Hub, into the empty folder `out`.

    Raises:
        InputError: gradio, whose version the Space states, is not installed.
    """
    shutil.copyfile(DEMO, out / "app.py")
    write_text(out / "requirements.txt", "".join(f"{line}\n" for line in requirements(LIBRARIES)))
    card = space_card(model, license, gradio_version())
    write_text(out / "README.md", card)
    check_card(card, "space", out)
    check_files(out)


def gradio_version() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError as error:
        raise InputError(
            "A Space runs the version of gradio that is installed here, but gradio is not installed. Install it with"
            " pip install 'animal-ldm[demo]'."
        ) from error


def space_card(model: str, license: str, gradio: str) -> str:
    """README.md of a Space, whose `models` tell the demo which model to load.

    Args:
        model: id on the Hub.
        gradio: its version.
    """
    name = model.split("/")[1]
    data = SpaceCardData(
        title=name,
        emoji="🦓",
        colorFrom="yellow",
        colorTo="gray",
        sdk="gradio",
        sdk_version=gradio,
        python_version=PYTHON,
        app_file="app.py",
        pinned=False,
        license=license,
        models=[model],
        short_description="Generates images of animals from a few words",
    )
    return render(
        TEMPLATE.read_text(encoding="utf-8"),
        card_data=Markdown(data.to_yaml()),
        name=Markdown(name),
        model=Markdown(model),
    )
