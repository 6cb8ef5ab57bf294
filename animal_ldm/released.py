"""Where the model that is included in the package lies."""

from pathlib import Path

RELEASED_MODEL = "models/animal-ldm-128"


def model_folder(model: str) -> str:
    """`model` itself; for `RELEASED_MODEL` outside a checkout, the copy that was installed with the package."""
    if model == RELEASED_MODEL and not Path(model).is_dir():
        package = Path(__file__).parent
        for place in (package, package.parent):  # an installed package; a checkout
            if (place / RELEASED_MODEL).is_dir():
                return str(place / RELEASED_MODEL)
    return model


def is_pipeline_folder(folder: str | Path) -> bool:
    """Whether `folder` holds a saved pipeline, complete or not."""
    return (Path(folder) / "model_index.json").is_file()
