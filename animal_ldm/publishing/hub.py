"""Make a repository on the Hub hold a folder's files: compare, commit what differs, compare again.

Every step starts from what the Hub holds now: an interrupted push resumes, and a push of what is already there changes
nothing. Files that the folder does not have are left alone.

Why not `HfApi.upload_folder`: with Xet it commits in batches while it uploads, so a model could be read half
published. It neither guards against commits by others between its batches, nor tells what would change, nor knows
weights of an earlier model from ours. `create_commit`, which it is built on, uploads here: what the Hub already stores
is not sent again.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi, ModelCard, SpaceCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from ..files import file_sha256
from .checks import file_size
from .failures import (
    CONFLICT,
    OTHER_TYPE,
    REFUSED,
    TRANSIENT,
    WRONG_NAME,
    HubError,
    bad_reply,
    exit_code_of,
    final_error,
    given_up,
    pause_after,
    reason,
    short,
)
from .request import Target
from .transport import LIMITS, deadline, within

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

REPO_TYPES = ("model", "dataset", "space")
CARDS = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
PAUSES = (1, 2, 4, 8)  # seconds before each retry, unless the Hub says how long
LONGEST_PAUSE = 300  # seconds; if the Hub asks for more, the push ends
COMMIT_FILES = 1000  # the Hub times out on commits of more files
MOST_FILES = 500_000  # of a repository; a listing without end is not read on
# The files that make sense of the others come last, where one commit is not enough.
INDEX_FILES = ("README.md", "metadata.jsonl", "model_index.json")
COMPONENT_WEIGHTS = re.compile(r"(text_encoder|unet|vae)/[^/]+\.(safetensors|bin)")

TITLE = "Publish with animal-ldm"  # of commits, and of the pull request that later pushes recognise


@dataclass(frozen=True)
class StagedFile:
    """A file of the folder, by its path in the repository."""

    path: str
    source: Path

    @property
    def size(self) -> int:
        return self.source.stat().st_size

    @cached_property
    def sha256(self) -> str:
        return file_sha256(self.source)

    @cached_property
    def git_digest(self) -> str:
        """Git's name for the content (SHA-1 over a header and the bytes), which the Hub gives for small files."""
        content = self.source.read_bytes()
        return sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def equals(self, remote: RepoFile | None) -> bool:
        if remote is None or remote.size != self.size:
            return False
        return remote.lfs.sha256 == self.sha256 if remote.lfs else remote.blob_id == self.git_digest


@dataclass(frozen=True)
class Outcome:
    """What a push did: number of files it committed, commit and URL of what is published now."""

    changed: int
    commit: str
    url: str


def staged_files(folder: Path) -> list[StagedFile]:
    """The folder's files in the order of their paths."""
    files = (StagedFile(file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    return sorted(files, key=lambda file: file.path)


def check_target(target: Target) -> None:
    """Raise a `HubError` for what can be told without the Hub."""
    try:
        validate_repo_id(target.repo_id)
    except HFValidationError as error:
        raise HubError(
            f"{target.option} {target.repo_id!r} is not a valid name on the Hub: {error}", WRONG_NAME
        ) from error
    if "/" not in target.repo_id:
        raise HubError(f"{target.option} must be owner/name, such as user/{target.repo_id}.", WRONG_NAME)
    if target.create_pr and (target.revision or target.tag):
        raise HubError("--create_pr publishes to a branch of its own. Leave out --revision and --tag.", WRONG_NAME)


def publish(
    folder: Path,
    target: Target,
    api: HfApi,
    say: Callable[[str], None] = logger.info,
    pauses: Sequence[float] | None = None,
) -> Outcome:
    """Make the repository hold the folder's files, and verify that it does.

    Transient problems (the network, a rate limit, a server error, somebody else's commit) are retried after each of
    `pauses` (default: `PAUSES`). Everything else, and what does not go away, is a `HubError`.
    """
    check_target(target)
    files = staged_files(folder)
    longest = LIMITS.of_push(len(files), sum(file.size for file in files))
    return persist(lambda: converge(files, target, api, say), target, say, pauses, longest)


def check_access(
    target: Target, api: HfApi, say: Callable[[str], None] = logger.info, pauses: Sequence[float] | None = None
) -> None:
    """Raise a `HubError` for what can be checked before anything is staged: token, name, type of the repository."""

    def look() -> None:
        api.whoami()
        repository_exists(target, api)

    check_target(target)
    persist(look, target, say, pauses)


def check_model(
    model: str,
    target: Target,
    api: HfApi,
    say: Callable[[str], None] = logger.info,
    pauses: Sequence[float] | None = None,
) -> None:
    """Raise a `HubError` unless a Space can load `model`: it is on the Hub, and public."""

    def look() -> None:
        try:
            private = api.repo_info(model).private
        except RepositoryNotFoundError as error:
            raise HubError(
                f"The Hub has no model {model} for the Space to load. Push the model first.", WRONG_NAME
            ) from error
        if private is not False and not target.private:
            raise HubError(
                f"{model} is private, and a public Space would expose it. Push the Space with --private.", REFUSED
            )

    persist(look, target, say, pauses)


def validate_card(
    folder: Path, target: Target, say: Callable[[str], None] = logger.info, pauses: Sequence[float] | None = None
) -> None:
    """Have the Hub check the card before anything is uploaded; a large dataset's card would come with its last commit.

    Raises:
        HubError: the Hub refuses the card, or cannot be reached.
    """

    def look() -> None:
        try:
            CARDS[target.repo_type].load(folder / "README.md").validate()
        except ValueError as error:
            if isinstance(error.__context__, HfHubHTTPError):  # a reply with status 400
                raise HubError(f"The Hub refuses the card: {refusal(error)}.", REFUSED) from error
            raise

    persist(look, target, say, pauses)


def refusal(error: ValueError) -> str:
    """What the Hub said of a card, of which `RepoCard.validate` gives the reply as it came."""
    try:
        said = json.loads(str(error))
        errors = [found["message"].rstrip(".") for found in said["errors"]]
        return short("; ".join(errors) or said.get("error", "")) or "it does not say why"
    except (ValueError, LookupError, TypeError, AttributeError):
        return short(str(error)) or "it does not say why"


def persist(
    work: Callable[[], Result],
    target: Target,
    say: Callable[[str], None],
    pauses: Sequence[float] | None,
    longest: float | None = None,
) -> Result:
    """`work()`, retried after each of `pauses` (seconds; default `PAUSES`) while problems are transient.

    All tries together end after `longest` seconds (default: `LIMITS.push`).
    """
    pauses = [*(PAUSES if pauses is None else pauses)]
    with deadline(LIMITS.push if longest is None else longest) as limit:
        while True:
            try:
                return within(limit, work)
            except TRANSIENT as error:
                if failure := final_error(error, target):
                    raise failure from error
                pause = pause_after(error, pauses.pop(0)) if pauses else LONGEST_PAUSE + 1
                if pause > min(LONGEST_PAUSE, limit.left()):
                    raise given_up(error, target) from error
                say(f"{reason(error)}; retrying in {pause:g} s")
                time.sleep(pause)


def converge(files: Sequence[StagedFile], target: Target, api: HfApi, say: Callable[[str], None]) -> Outcome:
    """One attempt of `publish`, from the beginning; what earlier ones achieved is on the Hub."""
    if not isinstance(user := api.whoami()["name"], str):
        raise bad_reply("the name of the token's owner")
    if not repository_exists(target, api):
        api.create_repo(
            target.repo_id,
            repo_type=target.repo_type,
            private=target.private,
            exist_ok=True,
            space_sdk="gradio" if target.repo_type == "space" else None,
        )
    revision, pull_request = target_revision(files, target, api, user)
    changed = 0
    head, remote = remote_tree(target, api, revision)
    refuse_stale_weights(files, remote)
    while different := [file for file in files if not file.equals(remote.get(file.path))]:
        if changed > 2 * len(files):
            raise ValueError("the Hub holds other content than was uploaded")
        different.sort(key=lambda file: file.path.endswith(INDEX_FILES))
        part = different[:COMMIT_FILES]
        say(f"uploading {len(part)} of {len(different)} files, {file_size(sum(file.size for file in part))}")
        api.create_commit(
            target.repo_id,
            [CommitOperationAdd(file.path, str(file.source)) for file in part],
            commit_message=TITLE,
            repo_type=target.repo_type,
            revision=revision,
            # the commit fails if anybody committed since the comparison
            parent_commit=head,
        )
        changed += len(part)
        head, remote = remote_tree(target, api, revision)
    url = f"{api.endpoint}/{target.path}"
    if pull_request is not None:
        url += f"/discussions/{pull_request.num}"
        if pull_request.status == "draft":
            api.change_discussion_status(target.repo_id, pull_request.num, "open", repo_type=target.repo_type)
    if target.tag:
        put_tag(target.tag, target, api, head)
    return Outcome(changed, head, url)


def repository_exists(target: Target, api: HfApi) -> bool:
    """Whether the repository exists.

    Raises:
        HubError: the name belongs to another type of repository, or it is public and should be private.
    """
    try:
        there = api.repo_info(target.repo_id, repo_type=target.repo_type)
    except RepositoryNotFoundError:
        for other in REPO_TYPES:
            if other != target.repo_type and api.repo_exists(target.repo_id, repo_type=other):
                raise HubError(
                    f"{target.repo_id} is a {other} on the Hub, not a {target.repo_type}."
                    f" Choose another {target.option}.",
                    OTHER_TYPE,
                ) from None
        return False
    if target.private and there.private is not True:
        raise HubError(
            f"{target.repo_id} is already public, and a push does not change that. Leave out --private, choose another"
            f" {target.option}, or make the repository private in its settings.",
            REFUSED,
        )
    return True


def target_revision(files: Sequence[StagedFile], target: Target, api: HfApi, user: str):
    """The branch to commit to, created if necessary, and its pull request (None without).

    A pull request from an earlier push by this user is reused. Ours start as drafts and are opened once they are
    complete.
    """
    if not target.create_pr:
        if target.revision:
            api.create_branch(target.repo_id, branch=target.revision, repo_type=target.repo_type, exist_ok=True)
        return target.revision or "main", None
    for found in api.get_repo_discussions(target.repo_id, author=user, repo_type=target.repo_type):
        if found.is_pull_request and found.title == TITLE and found.status in ("draft", "open"):
            if not isinstance(found.num, int):
                raise bad_reply("the number of a pull request")
            return f"refs/pr/{found.num}", found
    _, remote = remote_tree(target, api, "main")
    if all(file.equals(remote.get(file.path)) for file in files):
        return "main", None
    made = api.create_pull_request(target.repo_id, TITLE, repo_type=target.repo_type)
    if not isinstance(made.num, int):
        raise bad_reply("the number of a pull request")
    return f"refs/pr/{made.num}", made


def remote_tree(target: Target, api: HfApi, revision: str) -> tuple[str, dict[str, RepoFile]]:
    """Commit and files {path: file} of a revision."""
    head = api.repo_info(target.repo_id, repo_type=target.repo_type, revision=revision).sha
    if not isinstance(head, str) or not re.fullmatch("[0-9a-f]{40,64}", head):
        raise bad_reply("the name of a commit")
    remote = {}
    for entry in api.list_repo_tree(target.repo_id, recursive=True, revision=head, repo_type=target.repo_type):
        if isinstance(entry, RepoFile):
            remote[entry.path] = entry
        if len(remote) > MOST_FILES:
            raise bad_reply(f"a list of more than {MOST_FILES:,} files")
    return head, remote


def refuse_stale_weights(files: Sequence[StagedFile], remote: dict[str, RepoFile]) -> None:
    """Raise a `HubError` for weights of an earlier model in our folders, which would be loaded with ours."""
    ours = {file.path for file in files}
    stale = sorted(path for path in remote if COMPONENT_WEIGHTS.fullmatch(path) and path not in ours)
    if stale:
        raise HubError(
            f"The repository holds {', '.join(stale)} of an earlier model, which would be mixed with this one. Delete"
            " these files on the Hub first, or push the same variants as before.",
            REFUSED,
        )


def put_tag(tag: str, target: Target, api: HfApi, commit: str) -> None:
    refs = api.list_repo_refs(target.repo_id, repo_type=target.repo_type)
    earlier = {found.name: found.target_commit for found in refs.tags}.get(tag)
    if earlier is None:
        api.create_tag(target.repo_id, tag=tag, revision=commit, repo_type=target.repo_type)
    elif earlier != commit:
        raise HubError(
            f"The files are published, but tag {tag} is at another commit, {earlier[:8]}. Choose another tag.",
            CONFLICT,
        )


def differences(folder: Path, target: Target, api: HfApi) -> Iterator[tuple[str, StagedFile]]:
    """What a push would do, file by file: "new", "changed" or "same". Only reads from the Hub."""
    check_target(target)
    try:
        with deadline(LIMITS.push) as limit:
            _, remote = within(limit, lambda: remote_tree(target, api, target.revision or "main"))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        remote = {}
    except TRANSIENT as error:
        raise final_error(error, target) or HubError(reason(error), exit_code_of(error)) from error
    for file in staged_files(folder):
        there = remote.get(file.path)
        yield "new" if there is None else "same" if file.equals(there) else "changed", file
