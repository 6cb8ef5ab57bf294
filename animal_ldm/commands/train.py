"""`animal-ldm train`: square images and an autoencoder -> a text-to-image pipeline."""

from ..training.arguments import TrainingArguments
from .trainers import parse_grouped, show_progress


def main(argv: list[str] | None = None) -> None:
    arguments = parse_grouped(TrainingArguments, argv, prog="animal-ldm train")
    arguments.check()
    from ..training.text_to_image import train

    show_progress()
    if folder := train(arguments):
        print(f"pipeline: {folder}")
