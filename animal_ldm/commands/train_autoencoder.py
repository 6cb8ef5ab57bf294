"""`animal-ldm train-autoencoder`: square images -> an AutoencoderKL."""

from ..training.arguments import AutoencoderArguments
from .trainers import parse_grouped, show_progress


def main(argv: list[str] | None = None) -> None:
    arguments = parse_grouped(AutoencoderArguments, argv, prog="animal-ldm train-autoencoder")
    arguments.check()
    from ..training.autoencoder import train

    show_progress()
    if folder := train(arguments):
        print(f"autoencoder: {folder}")
