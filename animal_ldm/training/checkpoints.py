"""Checkpoints of a run: one file each, written whole or not at all, the old ones pruned only after."""

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError

FOLDER = "checkpoints"


def checkpoint_paths(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints of a run, the oldest first."""
    return sorted(Path(output_dir, FOLDER).glob("images-*.pt"))


def save_checkpoint(
    output_dir: str | Path, images_seen: int, identity: dict[str, Any], parts: dict[str, Any], keep: int
) -> Path:
    """Write the state after `images_seen` images, then delete all but the `keep` newest checkpoints.

    Args:
        identity: what the run is made of, as plain values; `load_checkpoint` refuses to go on with anything else.
        parts: everything that has a state: name -> object with `state_dict()`. Modules are given unwrapped, so
            that a run may be resumed on another number of processes.
    """
    final = Path(output_dir, FOLDER, f"images-{images_seen:010d}.pt")
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_suffix(".partial")
    states = {name: part.state_dict() for name, part in parts.items()}
    with partial.open("wb") as file:
        torch.save({"images_seen": images_seen, "identity": identity, "states": states}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(final)
    for old in checkpoint_paths(output_dir)[:-keep]:
        old.unlink()
    return final


def load_checkpoint(output_dir: str | Path, identity: dict[str, Any], parts: dict[str, Any]) -> int:
    """Load the newest checkpoint into `parts`; returns the images seen, 0 where there is no checkpoint.

    Raises:
        InputError: the checkpoint belongs to another run (data, autoencoder, network, batch size or seed differ).
    """
    paths = checkpoint_paths(output_dir)
    if not paths:
        return 0
    checkpoint = torch.load(paths[-1], map_location="cpu", weights_only=True)
    stored = checkpoint["identity"]
    changed = [name for name in {**stored, **identity} if stored.get(name) != identity.get(name)]
    if changed:
        differences = "; ".join(f"{name} was {stored.get(name)!r}, is {identity.get(name)!r}" for name in changed)
        raise InputError(
            f"{paths[-1]} belongs to another run: {differences}. "
            "Resume with what it was, or choose another --output_dir"
        )
    for name, part in parts.items():
        part.load_state_dict(checkpoint["states"][name])
    return checkpoint["images_seen"]


def prepare_output_dir(output_dir: str | Path, resume: bool) -> None:
    """Make `output_dir`; refuse one that holds a run already unless it is to be resumed."""
    if checkpoint_paths(output_dir) and not resume:
        raise InputError(
            f"{output_dir} holds checkpoints of an earlier run; add --resume to go on with it, "
            "or choose another --output_dir"
        )
    Path(output_dir).mkdir(parents=True, exist_ok=True)
