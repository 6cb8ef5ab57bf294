"""Checkpoints of a run: one file each, written whole or not at all; older ones are deleted only afterwards."""

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..files import whole_file

FOLDER = "checkpoints"


def checkpoint_paths(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints of a run, the oldest first."""
    return sorted(Path(output_dir, FOLDER).glob("images-*.pt"))


def save_checkpoint(
    output_dir: str | Path, images_seen: int, identity: dict[str, Any], parts: dict[str, Any], keep: int
) -> Path:
    """Write the state after `images_seen` images, then delete all but the `keep` newest checkpoints.

    Args:
        identity: what the run is made of, as plain values; `load_checkpoint` refuses any other.
        parts: everything that has a state: name -> object with `state_dict()`. Modules are passed unwrapped, so that
            a run can be resumed with another number of processes.
    """
    final = Path(output_dir, FOLDER, f"images-{images_seen:010d}.pt")
    states = {name: part.state_dict() for name, part in parts.items()}
    with whole_file(final) as partial, partial.open("wb") as file:
        torch.save({"images_seen": images_seen, "identity": identity, "states": states}, file)
        file.flush()
        os.fsync(file.fileno())  # the older checkpoints are deleted next
    for old in checkpoint_paths(output_dir)[:-keep]:
        old.unlink()
    return final


def load_checkpoint(output_dir: str | Path, identity: dict[str, Any], parts: dict[str, Any]) -> int:
    """Load the newest checkpoint into `parts`; returns the images seen, 0 if there is no checkpoint.

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
            f"{paths[-1]} belongs to another run: {differences}. Resume with the same values, or choose another"
            " --output_dir."
        )
    if "power_averages" in parts and "power_averages" not in checkpoint["states"]:
        raise InputError(
            f"{paths[-1]} is of a run without --ema_snapshots_every, whose averages count from the first photo. Resume"
            " without it, or start a new run with it."
        )
    for name, part in parts.items():
        part.load_state_dict(checkpoint["states"][name])
    return checkpoint["images_seen"]


def prepare_output_dir(output_dir: str | Path, resume: bool) -> None:
    """Create `output_dir`; refuse one with checkpoints of an earlier run, except to resume it."""
    if checkpoint_paths(output_dir) and not resume:
        raise InputError(
            f"{output_dir} already holds checkpoints of a run. Add --resume to continue it, or choose another"
            " --output_dir."
        )
    Path(output_dir).mkdir(parents=True, exist_ok=True)
