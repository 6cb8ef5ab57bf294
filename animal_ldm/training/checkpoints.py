"""Checkpoints of a run: one file each, written whole or not at all; older ones are deleted only afterwards."""

import logging
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..digest import state_digest
from ..errors import InputError
from ..files import first_line, whole_file
from ..locks import check_space

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"

# What a checkpoint may lack: it depends on --mixed_precision, or is not in those of earlier versions.
OPTIONAL = ("scaler", "configs")


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
    checkpoint = {"images_seen": images_seen, "identity": identity, "states": states}
    checkpoint["digest"] = state_digest(checkpoint)
    final.parent.mkdir(parents=True, exist_ok=True)
    check_space(final.parent, tensor_bytes(states), "The next checkpoint")
    with whole_file(final) as partial, partial.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            # what stopped it, such as Ctrl-C or a full disk, is hidden behind an error about the unfinished file
            raise error.__context__ or error from None
        file.flush()
        os.fsync(file.fileno())  # the older checkpoints are deleted next
    for old in checkpoint_paths(output_dir)[:-keep]:
        old.unlink()
    return final


def tensor_bytes(value: Any) -> int:
    """Size of all tensors, at any depth."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(tensor_bytes, parts))


def load_checkpoint(output_dir: str | Path, identity: dict[str, Any], parts: dict[str, Any]) -> int:
    """Load the newest checkpoint into `parts`; returns the images seen, 0 if there is no checkpoint.

    Checkpoints of earlier versions lack entries of `identity`. They are loaded, with a warning that names these.

    Raises:
        InputError: the checkpoint belongs to another run, is damaged, or does not fit the networks.
    """
    paths = checkpoint_paths(output_dir)
    if not paths:
        return 0
    checkpoint = read_checkpoint(paths[-1])
    check_identity(paths[-1], checkpoint["identity"], identity)
    if "power_averages" in parts and "power_averages" not in checkpoint["states"]:
        raise InputError(
            f"{paths[-1]} is of a run without --ema_snapshots_every, whose averages count from the first photo. Resume"
            " without it, or start a new run with it."
        )
    for name, part in parts.items():
        if name in OPTIONAL and name not in checkpoint["states"]:
            continue
        try:
            part.load_state_dict(checkpoint["states"][name])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"The {name} in {paths[-1]} does not fit this run ({first_line(error)}). Resume with the arguments"
                " that the run was started with, or choose another --output_dir."
            ) from error
    return checkpoint["images_seen"]


def check_same_checkpoint(output_dir: str | Path, newest: Sequence[str]) -> None:
    """Raise an `InputError` unless all processes of a run, on any machine, find the same newest checkpoint.

    Args:
        newest: its name in each process, the main one first.
    """
    if other := next((process for process, name in enumerate(newest) if name != newest[0]), None):
        raise InputError(
            f"--resume: the newest checkpoint in {output_dir} is {newest[0]} for the main process, but {newest[other]}"
            f" for process {other}. Put --output_dir on a disk that all machines share, or copy the main process's"
            " folder with the checkpoints to every machine."
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint: `images_seen`, `identity` and `states`. No code in it is run.

    Raises:
        InputError: the file is damaged or not a checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        stored = checkpoint.pop("digest", None)  # earlier versions wrote none
        if stored is not None and stored != state_digest(checkpoint):
            raise ValueError("its content does not have the digest it was written with")
        if not {"images_seen", "identity", "states"} <= checkpoint.keys():
            raise ValueError("it is not a checkpoint of a run")
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        reason = first_line(error)
    except pickle.UnpicklingError:
        reason = "it holds something other than tensors and plain values, which is never loaded"
    else:
        return checkpoint
    older = [other for other in checkpoint_paths(path.parent.parent) if other < path]
    instead = f"to resume from {older[-1].name}" if older else "to start again"
    raise InputError(f"{path} is damaged: {reason}. Delete it {instead}.")


def check_identity(path: Path, stored: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise an `InputError` with both values of whatever differs; warn of what an earlier version did not record."""
    # An earlier version called a UNet by its path, and the size of an autoencoder "vae".
    earlier = {"unet"} if isinstance(stored.get("aligned"), bool) else set()
    comparable = [name for name in identity if name in stored and name not in earlier]
    changed = [name for name in comparable if stored[name] != identity[name]]
    if changed:
        differences = "; ".join(f"{name} was {_shown(stored[name])}, is {_shown(identity[name])}" for name in changed)
        raise InputError(
            f"{path} belongs to another run: {differences}. Resume with the same values, or choose another"
            " --output_dir, where `train --fork` or `train-autoencoder --pretrained` can start from earlier weights."
        )
    if unknown := [name for name in identity if name not in comparable]:
        logger.warning(
            "%s is of an earlier version, which did not record %s. Make sure that they are the same.",
            path,
            ", ".join(unknown),
        )


def _shown(value: Any) -> str:
    """A value for a message; digests are cut."""
    words = str(value).split(" ")
    return " ".join(word[:12] + "…" if len(word) == 64 else word for word in words)


def prepare_output_dir(output_dir: str | Path, resume: bool) -> None:
    """Create `output_dir`; refuse one with checkpoints of an earlier run, except to resume it."""
    if checkpoint_paths(output_dir) and not resume:
        raise InputError(
            f"{output_dir} already holds checkpoints of a run. Add --resume to continue it, or choose another"
            " --output_dir."
        )
    Path(output_dir).mkdir(parents=True, exist_ok=True)
