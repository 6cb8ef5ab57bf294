"""Publish a model, a prepared dataset or the demo on the Hub: `python push_to_hub.py --help`, or `animal-ldm push`."""

from animal_ldm.cli import exit_on_bad_input
from animal_ldm.commands.push import main

if __name__ == "__main__":
    exit_on_bad_input(main)
