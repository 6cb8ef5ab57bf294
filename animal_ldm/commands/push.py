"""`animal-ldm push`: publish a model, a prepared dataset or the demo on the Hugging Face Hub."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import InputError
from ..publishing.request import ModelSource, Statements, Target
from .parsing import parse


@dataclass(frozen=True, kw_only=True)
class PushArguments:
    """Publish a model with its card, a prepared dataset (--dataset) or the demo (--space) on the Hugging Face Hub.

    Only files of the model, its card, its reports and its images are uploaded; other files in the repository stay.
    Nothing is uploaded until the staged model generates the same image in every way to load it. An interrupted push
    resumes, and a push of what is already there changes nothing. The access token comes from `hf auth login` or
    HF_TOKEN.

    Exit codes: 2 bad input, 3 no valid token, 4 no write access, 5 wrong name, 6 the name belongs to another type of
    repository, 7 no connection or the Hub keeps failing, 8 conflict with other commits or tags, 9 refused, 10 the
    Hub's replies make no sense, 11 they would take the access token to another server.
    """

    # Where to publish, as user/name or organization/name. With --space: the published model that the Space loads.
    repo_id: str
    # Pipeline folder, as `animal-ldm train` writes it.
    model: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="MODEL")]] = None
    # Prepared dataset to publish instead of a model.
    dataset: Path | None = None
    # Publish the demo instead, as the Space of this name (under the model's owner), or owner/name.
    space: str | None = None
    # Folders that `animal-ldm evaluate` wrote, one per extractor. Default: evaluation/MODEL, if it exists.
    results: tuple[Path, ...] = ()
    # Prepared dataset that the model was trained on. Its card provides title and terms of the photos.
    data: Path | None = None
    # Id on the Hub of the dataset that the model was trained on, if it is published.
    dataset_id: str | None = None
    # Title of the dataset that the model was trained on, for the card. Default: from --data. Names of local folders
    # are never published.
    dataset_title: str | None = None
    # Ids on the Hub of the models that the weights were fine-tuned from; more than one means a merge there.
    # Default: from the training report.
    base_model: tuple[str, ...] | None = None
    # Ids on the Hub of models that parts were taken from and left as they were, such as the autoencoder.
    # Default: from the training report.
    frozen_model: tuple[str, ...] | None = None
    # Who made the model. Default: the owner in --repo_id.
    developed_by: str | None = None
    # Where to ask questions: an address or a URL. Default: the repository's discussions.
    contact: str | None = None
    # License of code and weights, by its identifier on the Hub; "other" for a license that the Hub does not list.
    license: Annotated[str, tyro.conf.arg(aliases=["--licence"])] = "unlicense"
    # Name of that other license, in lower case with - for spaces.
    license_name: str | None = None
    # URL of that other license.
    license_link: str | None = None
    # Terms of the photos. Default: the license in the card of --data, else "not stated".
    photo_terms: str | None = None
    # Language of the captions.
    language: str = "en"
    # Failures you saw in the sample grids, one sentence each.
    known_failures: tuple[str, ...] = ()
    # Who runs the machine that the model was trained on: a cloud provider, or yourself.
    provider: str = "not stated"
    # Where that machine is. Default: the --country of the training, else "not stated".
    region: str | None = None
    # How energy and CO2 were counted, where the reports do not tell: for example, which stages ran at the same time.
    cost_note: str | None = None
    # Also publish the plots of the evaluation that show training photos, and reference.npz in the folder of the
    # evaluation, if `animal-ldm evaluate --save_reference` wrote one there.
    publish_photos: bool = False
    # Seed of the card's sample of the first class; the other classes take the seeds after it.
    seed: int = 0
    # Add weights in half precision.
    variant: Literal["fp16"] | None = None
    # Stage, try, and print the card, the files and what would change; upload nothing.
    dry_run: bool = False
    # Create the repository as private. A repository that is already public is refused.
    private: bool = False
    # Branch to publish to, created if necessary. Default: main.
    revision: str | None = None
    # Publish as a pull request. The next push updates the same one.
    create_pr: bool = False
    # Tag for the commit.
    tag: str | None = None
    # Keep the staged files in this folder, which must be empty or new.
    staged: Path | None = None


def check(arguments: PushArguments) -> None:
    """Raise an `InputError` unless there is one thing to publish."""
    given = [arguments.model, arguments.dataset, arguments.space]
    if sum(value is not None for value in given) != 1:
        raise InputError("Pass exactly one of MODEL (a pipeline folder), --dataset or --space.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse(PushArguments, argv, prog="animal-ldm push")
    check(arguments)
    from ..publishing.failures import HubError
    from ..publishing.push import Push, push_dataset, push_model, push_space
    from ..publishing.transport import clean

    push = Push(target(arguments), arguments.dry_run, arguments.staged, say=lambda text: print(clean(text)))
    try:
        if arguments.dataset:
            push_dataset(push, arguments.dataset)
        elif arguments.space:
            push_space(push, arguments.repo_id, arguments.license)
        else:
            source = model_source(arguments)
            push_model(push, source, statements(arguments), arguments.data)
    except HubError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def target(arguments: PushArguments) -> Target:
    """Where to publish."""
    repo_id: str = arguments.repo_id
    repo_type: Literal["model", "dataset", "space"] = "dataset" if arguments.dataset else "model"
    if arguments.space:
        owner = arguments.repo_id.split("/")[0]
        repo_id = arguments.space if "/" in arguments.space else f"{owner}/{arguments.space}"
        repo_type = "space"
    return Target(
        repo_id=repo_id,
        repo_type=repo_type,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        tag=arguments.tag,
    )


def model_source(arguments: PushArguments) -> ModelSource:
    """The model's folder, and those of its evaluations."""
    assert arguments.model is not None
    results = arguments.results
    default = Path("evaluation") / arguments.model.resolve().name
    if not results and (default / "results.json").is_file():
        results = (default,)
    return ModelSource(
        model=arguments.model,
        results=results,
        publish_photos=arguments.publish_photos,
        variant=arguments.variant,
        seed=arguments.seed,
    )


def statements(arguments: PushArguments) -> Statements:
    """What the arguments say about the model."""
    return Statements(
        repo_id=arguments.repo_id,
        developed_by=arguments.developed_by or arguments.repo_id.split("/")[0],
        contact=arguments.contact or f"https://huggingface.co/{arguments.repo_id}/discussions",
        language=arguments.language,
        license=arguments.license,
        license_name=arguments.license_name,
        license_link=arguments.license_link,
        photo_terms=arguments.photo_terms or "not stated",
        dataset=arguments.dataset_id,
        dataset_title=arguments.dataset_title,
        base_models=arguments.base_model,
        frozen_models=arguments.frozen_model,
        failures=arguments.known_failures,
        provider=arguments.provider,
        region=arguments.region,
        cost_note=arguments.cost_note,
    )
