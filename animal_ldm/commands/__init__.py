"""Doors: one module per command, with its arguments, the checks that need no model, and `main`.

Only `animal_ldm.cli` and the entry scripts import them. A module imports nothing slow at its top, so that `--help`
answers at once; `main` imports the room it leads to.
"""
