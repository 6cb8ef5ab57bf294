"""The files of a model: a local folder as it is, or those that are asked for from a repository on the Hub."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError, RepositoryNotFoundError

from . import credentials  # noqa: F401 - the token stays with the Hub
from .errors import InputError
from .files import SUMS, first_line

HUB_ID = r"\w[\w.-]*/\w[\w.-]*"


def fetched(model: str, patterns: list[str]) -> Path:
    """`model` itself if it is a folder, else the folder with these files of the repository on the Hub.

    Raises:
        InputError: there is no such repository, or no connection.
    """
    if Path(model).is_dir():
        return Path(model)
    try:
        try:
            return Path(snapshot_download(model, allow_patterns=patterns))
        except IncompleteSnapshotError:
            # No connection, and a cached copy that diffusers fetched: it lacks the sums alone, which are optional.
            return Path(snapshot_download(model, allow_patterns=[name for name in patterns if name != SUMS]))
    except (OSError, ValueError) as error:
        if isinstance(error, RepositoryNotFoundError):
            found = "the Hub has no model of that name that you may read"
        else:
            found = f"the Hub could not be reached ({type(error).__name__}: {first_line(error)})"
        raise InputError(
            f"{model} is not a local folder, and {found}. Check the name and the network connection."
        ) from error
