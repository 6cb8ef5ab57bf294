"""`accelerate launch train_text_to_image.py …`: the same as `animal-ldm train …`, from a checkout."""

from animal_ldm.cli import exit_on_bad_input
from animal_ldm.commands.train import main

if __name__ == "__main__":
    exit_on_bad_input(main)
