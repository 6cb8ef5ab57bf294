"""Stage, try, compare with the Hub, upload: the steps of every push, for each type of repository."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi

from ..errors import InputError
from .checks import file_size
from .datasets import NOT_STATED, dataset_title, photo_terms, stage_dataset
from .failures import HubError
from .hub import check_access, check_model, check_target, differences, publish, staged_files, validate_card
from .request import ModelSource, Statements, Target
from .spaces import stage_space
from .staging import stage_model
from .transport import connect


@dataclass(frozen=True)
class Push:
    """How to push.

    Attributes:
        dry_run: stage and try, then say what an upload would change.
        staged: folder to keep the staged files in; None for a temporary one.
        say: receives every message for the user.
    """

    target: Target
    dry_run: bool
    staged: Path | None
    say: Callable[[str], None]


def push_model(push: Push, source: ModelSource, statements: Statements, data: Path | None) -> None:
    """Publish a model.

    Args:
        data: prepared dataset that it was trained on, whose card says what `statements` leave open.
    """

    def stage(folder: Path) -> None:
        shown = ", ".join(map(str, source.results)) or 'none, so its numbers are marked "not measured"'
        push.say(f"staging {source.model}; evaluation: {shown}")
        told = replace(
            statements,
            photo_terms=photo_terms(data) if statements.photo_terms == NOT_STATED else statements.photo_terms,
            dataset_title=statements.dataset_title or dataset_title(data),
        )
        stage_model(source, told, folder)
        push.say("tried in a fresh process: every way to load the model generates the same pixels")

    _run(push, stage)


def push_dataset(push: Push, prepared: Path) -> None:
    """Publish a prepared dataset."""

    def stage(folder: Path) -> None:
        push.say(f"staging {prepared}")
        stage_dataset(prepared, folder)

    _run(push, stage)


def push_space(push: Push, model: str, license: str) -> None:
    """Publish the demo as a Space that runs `model` of the Hub."""

    def stage(folder: Path) -> None:
        push.say(f"staging the demo for {model}")
        stage_space(model, license, folder)

    check_target(Target(model))
    _run(push, stage, model)


def _run(push: Push, stage: Callable[[Path], None], model: str | None = None) -> None:
    """Check, stage, then preview or upload.

    Args:
        model: that the repository needs on the Hub.

    Raises:
        HubError: the Hub refuses or fails.
        InputError: what should be published is not fit for it.
    """
    api = connect()
    check_target(push.target)
    if not push.dry_run:
        check_access(push.target, api, push.say)
        if model:
            check_model(model, push.target, api, push.say)
    with tempfile.TemporaryDirectory(prefix="animal-ldm-push-") as temporary:
        folder = empty_folder(push.staged or Path(temporary))
        stage(folder)
        if push.dry_run:
            preview(folder, push, api)
        else:
            upload(folder, push, api)


def empty_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"--staged must be an empty or new folder, but {folder} has files. Choose another.")
    return folder


def preview(folder: Path, push: Push, api: HfApi) -> None:
    """Say what the card is, and which files an upload would change."""
    push.say((folder / "README.md").read_text(encoding="utf-8"))
    try:
        changes = [*differences(folder, push.target, api)]
    except HubError as error:
        push.say(f"what would change is unknown: {error}")
        changes = [("", file) for file in staged_files(folder)]
    width = max(len(file.path) for _, file in changes)
    for change, file in changes:
        push.say(f"{file.path:<{width}}  {file_size(file.size):>8}  {change}")
    uploads = [file for change, file in changes if change != "same"]
    push.say(
        f"{len(changes)} files, {file_size(sum(file.size for _, file in changes))}; would upload {len(uploads)},"
        f" {file_size(sum(file.size for file in uploads))}, to {push.target.path}"
    )


def upload(folder: Path, push: Push, api: HfApi) -> None:
    """Make the Hub hold the folder's files, and say what was done."""
    validate_card(folder, push.target, push.say)
    outcome = publish(folder, push.target, api, push.say)
    done = f"{outcome.changed} files committed" if outcome.changed else "nothing to do, everything is up to date"
    push.say(f"{done}: {outcome.url} ({outcome.commit[:8]})")
