"""`python -m animal_ldm COMMAND …`, and with several processes `accelerate launch -m animal_ldm COMMAND …`."""

from .cli import main

if __name__ == "__main__":
    main()
