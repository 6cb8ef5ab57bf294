"""Publish a trained pipeline, a prepared dataset or the demo on the Hub: `push_to_hub.py MODEL --repo_id user/name`.

folder -> staged (allow-list, card) -> tried in a fresh process -> compared with the Hub -> what differs is committed.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from animal_ldm.arguments import parse
from animal_ldm.cli import exit_on_bad_input
from animal_ldm.errors import InputError


@dataclass(frozen=True)
class PushArguments:
    """Publish a trained pipeline with its card, a prepared dataset (--dataset) or the demo (--space) on the Hub.

    Only the files of the model, its card, reports and pictures go up; files that the repository has beside them stay.
    A push that died is taken up by the next one, and a push of what is there already changes nothing. The access token
    is the one of `hf auth login`, or HF_TOKEN.

    Exit codes: 2 the input is not fit to be published, 3 no valid token, 4 no right to write, 5 wrong name, 6 the name
    is taken by another type of repository, 7 no connection or a Hub that keeps failing, 8 a conflict with somebody
    else's commits or tags, 9 refused.
    """

    # Where to publish: user/name or organisation/name. With --space: the published model that the Space draws with.
    repo_id: str
    # Pipeline folder, as `animal-ldm train` writes it.
    model: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="MODEL")]] = None
    # Publish this prepared dataset instead of a model.
    dataset: Path | None = None
    # Publish the demo instead, as the Space of this name (of the model's owner), or owner/name.
    space: str | None = None
    # Folders that `animal-ldm evaluate` wrote, one per extractor. Default: evaluation/MODEL, if it is there.
    results: tuple[Path, ...] = ()
    # Prepared dataset that the model was trained on: its card says what the photos' terms are.
    data: Path | None = None
    # Id on the Hub of the dataset that the model was trained on, if it is published.
    dataset_id: str | None = None
    # Ids on the Hub of the models that the training started from. Default: those of the training's own defaults.
    base_model: tuple[str, ...] = ()
    # Who made the model. Default: the owner in --repo_id.
    developed_by: str | None = None
    # Where questions go: an address, a URL. Default: the repository's discussions.
    contact: str | None = None
    # Licence of code and weights, as the Hub spells it; "other" for one that it does not know.
    license: str = "unlicense"
    # Name of that other licence, in small letters and with - for spaces.
    license_name: str | None = None
    # Where that other licence can be read, a URL.
    license_link: str | None = None
    # Terms of the photos. Default: the licence in the card of --data, else "not stated".
    photo_terms: str | None = None
    # Language of the captions.
    language: str = "en"
    # What you saw go wrong in the grids; a sentence each.
    known_failures: tuple[str, ...] = ()
    # Whose machine the model was trained on: a provider, or your own.
    provider: str = "not stated"
    # Where that machine stands. Default: the --country of the training, else "not stated".
    region: str | None = None
    # Publish the evaluation's pictures that show training photos, too.
    publish_photos: bool = False
    # Seed of the card's sample of the first class; the other classes have those after it.
    seed: int = 0
    # Weights of half precision beside the others.
    variant: Literal["fp16"] | None = None
    # Stage, try, and print the files, the card and what would change; upload nothing.
    dry_run: bool = False
    # Create the repository as private. One that is public already is refused.
    private: bool = False
    # Branch to publish to; it is created if need be. Default: main.
    revision: str | None = None
    # Publish as a pull request. Another push goes on with the same one.
    create_pr: bool = False
    # Tag for the commit.
    tag: str | None = None
    # Keep the staged files in this folder, which must be empty or new.
    staged: Path | None = None


def main(argv: list[str] | None = None) -> None:
    from huggingface_hub import HfApi

    from animal_ldm import __version__
    from animal_ldm.publishing.hub import HubError, Target, check_access, check_model, check_target

    arguments = parse(PushArguments, argv, prog="animal-ldm push")
    try:
        target = target_of(arguments)
        check_target(target)
        check_target(Target(arguments.repo_id))
        api = HfApi(library_name="animal-ldm", library_version=__version__)
        if not arguments.dry_run:
            check_access(target, api)
            if arguments.space:
                check_model(arguments.repo_id, target, api)
        with tempfile.TemporaryDirectory(prefix="animal-ldm-push-") as temporary:
            folder = staging_folder(arguments.staged or Path(temporary))
            stage(arguments, folder)
            if arguments.dry_run:
                preview(folder, target, api)
            else:
                push(folder, target, api)
    except HubError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def target_of(arguments: PushArguments):
    from animal_ldm.publishing.hub import Target

    if sum(given is not None for given in (arguments.model, arguments.dataset, arguments.space)) != 1:
        raise InputError("Give one of MODEL, a pipeline folder, --dataset, a prepared dataset, and --space, a name.")
    repo_id, repo_type = arguments.repo_id, "dataset" if arguments.dataset else "model"
    if arguments.space:
        owner = arguments.repo_id.split("/")[0]
        repo_id, repo_type = arguments.space if "/" in arguments.space else f"{owner}/{arguments.space}", "space"
    return Target(
        repo_id=repo_id,
        repo_type=repo_type,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        tag=arguments.tag,
    )


def staging_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"--staged {folder} must be an empty folder; delete it or choose another.")
    return folder


def stage(arguments: PushArguments, folder: Path) -> None:
    from animal_ldm.publishing.staging import stage_dataset, stage_model, stage_space

    if arguments.dataset:
        print(f"staging {arguments.dataset}")
        stage_dataset(arguments.dataset, folder)
        return
    if arguments.space:
        print(f"staging the demo, to draw with {arguments.repo_id}")
        stage_space(arguments.repo_id, arguments.license, folder)
        return
    results = arguments.results
    default = Path("evaluation") / arguments.model.resolve().name
    if not results and (default / "results.json").is_file():
        results = (default,)
    shown = ", ".join(map(str, results)) or f"none; there is no {default}/results.json, the card says not measured"
    print(f"staging {arguments.model}; evaluation: {shown}")
    stage_model(
        arguments.model,
        folder,
        statements(arguments),
        results,
        publish_photos=arguments.publish_photos,
        variant=arguments.variant,
        seed=arguments.seed,
    )
    print("tried in a fresh process: every way of loading draws the same pixels")


def statements(arguments: PushArguments):
    """What the arguments say of the model, with the defaults of those that were left out."""
    from animal_ldm.publishing.card import KNOWN_BASE_MODELS, Statements
    from animal_ldm.publishing.staging import photo_licence, read_report

    training = read_report(arguments.model / "training_report.json", "the folder of a finished `animal-ldm train`")
    used = training["arguments"]
    start = tuple(used[name] for name in ("vae", "text_encoder") if used.get(name) in KNOWN_BASE_MODELS)
    return Statements(
        repo_id=arguments.repo_id,
        developed_by=arguments.developed_by or arguments.repo_id.split("/")[0],
        contact=arguments.contact or f"https://huggingface.co/{arguments.repo_id}/discussions",
        language=arguments.language,
        license=arguments.license,
        license_name=arguments.license_name,
        license_link=arguments.license_link,
        photo_terms=arguments.photo_terms or photo_licence(arguments.data),
        dataset=arguments.dataset_id,
        base_models=arguments.base_model or start,
        failures=arguments.known_failures,
        provider=arguments.provider,
        region=arguments.region or used.get("country") or "not stated",
    )


def preview(folder: Path, target, api) -> None:
    """Print the tree with sizes, the card, and what a push would change."""
    from animal_ldm.publishing.card import file_size
    from animal_ldm.publishing.hub import HubError, differences, staged_files

    print((folder / "README.md").read_text(encoding="utf-8"))
    try:
        changes = [*differences(folder, target, api)]
    except HubError as error:
        print(f"what would change is not known: {error}")
        changes = [("", file) for file in staged_files(folder)]
    width = max(len(file.path) for _, file in changes)
    for change, file in changes:
        print(f"{file.path:<{width}}  {file_size(file.size):>8}  {change}")
    uploads = [file for change, file in changes if change != "same"]
    print(
        f"{len(changes)} files, {file_size(sum(file.size for _, file in changes))}; would upload {len(uploads)},"
        f" {file_size(sum(file.size for file in uploads))}, to {target.path}"
    )


def push(folder: Path, target, api) -> None:
    from animal_ldm.publishing.hub import publish

    outcome = publish(folder, target, api)
    done = f"{outcome.changed} files committed" if outcome.changed else "nothing to do, all is there"
    print(f"{done}: {outcome.url} ({outcome.commit[:8]})")


if __name__ == "__main__":
    exit_on_bad_input(main)
