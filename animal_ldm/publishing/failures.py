"""What goes wrong with a Hub: which problems may pass, and what a user is told of the others."""

import textwrap
from collections.abc import Iterator

import httpx2
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from ..credentials import ForeignHostError
from .request import Target
from .transport import BadReplyError, TooSlowError, as_text, asked_pause, clean

NO_TOKEN, NO_RIGHT, WRONG_NAME, OTHER_TYPE, NO_NETWORK, CONFLICT, REFUSED, BAD_REPLY, FOREIGN_HOST = range(3, 12)

# What the client raises for a lost connection, a failed reply or upload (RuntimeError), and, since it reads replies
# without checking them, for one that is not as the Hub's are. All of it may go away.
TRANSIENT = (HTTPError, ConnectionError, TimeoutError, LocalTokenNotFoundError, RuntimeError)
TRANSIENT += (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, httpx2.InvalidURL)
TRANSIENT += (UnboundLocalError,)  # for an upload's reply about an object that was not asked for


class HubError(Exception):
    """The Hub refused or failed. The message says why and what to do; `exit_code` is the command's."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(clean(message))
        self.exit_code = exit_code


def response_of(error: BaseException):
    """The Hub's reply behind an error that the client may have wrapped."""
    return next((cause.response for cause in causes(error) if isinstance(cause, HfHubHTTPError)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def final_error(error: Exception, target: Target) -> HubError | None:
    """The error in words if a retry cannot help, else None."""
    if isinstance(error, LocalTokenNotFoundError):
        return HubError("No access token found. Log in with `hf auth login`, or set HF_TOKEN.", NO_TOKEN)
    if isinstance(error, OfflineModeIsEnabled):
        return HubError("HF_HUB_OFFLINE is set, so the Hub is not used. Unset it to publish.", NO_NETWORK)
    for cause in causes(error):
        if isinstance(cause, ForeignHostError):
            return HubError(
                f"The Hub misbehaves: {cause}. Nothing was sent there. Check HF_ENDPOINT, and tell whoever runs that"
                " Hub.",
                FOREIGN_HOST,
            )
    if (response := response_of(error)) is None:
        return None
    said = server_message(response)
    if "whoami" in str(response.url) and response.status_code == 401:
        return HubError(
            "The Hub does not accept this access token. Create one with write access at"
            " https://huggingface.co/settings/tokens and log in with `hf auth login`.",
            NO_TOKEN,
        )
    if response.status_code in (401, 403):
        return HubError(
            f"This token may not write to {target.path} ({said}). Ask its owner, use a token with write access, or"
            " publish under your own name.",
            NO_RIGHT,
        )
    if response.status_code == 404:
        return HubError(f"The Hub has no {target.path} that this token may see ({said}).", WRONG_NAME)
    if response.status_code in (400, 402, 413, 422) and "lfs" not in str(response.url):
        return HubError(f"The Hub refused {target.path}: {said}.", REFUSED)
    return None


def given_up(error: Exception, target: Target) -> HubError:
    """The error in words when retries did not help."""
    response = response_of(error)
    if response is not None and response.status_code in (409, 412):
        return HubError(
            f"Others kept committing to {target.path} at the same time, so nothing was published. Push again.",
            CONFLICT,
        )
    return HubError(
        f"The push to {target.path} failed: {reason(error)}. Push again later; it resumes from there.",
        exit_code_of(error),
    )


def exit_code_of(error: BaseException) -> int:
    """`BAD_REPLY` for a reply that came and makes no sense, `NO_NETWORK` for all that did not come."""
    connection = any(isinstance(cause, HTTPError | OSError) for cause in causes(error))
    return NO_NETWORK if connection else BAD_REPLY


def reason(error: BaseException) -> str:
    """What happened, in a clause; never the request, whose headers hold the token."""
    response = response_of(error)
    if response is None:
        for cause in causes(error):
            if isinstance(cause, TooSlowError):
                return str(cause)
            if isinstance(cause, HTTPError | OSError):
                return f"no connection to the Hub ({type(cause).__name__})"
        *_, cause = causes(error)
        said = str(cause) if isinstance(cause, ValueError | RuntimeError) else type(cause).__name__
        return f"the Hub gave a reply that cannot be used ({short(said) or type(cause).__name__})"
    if response.status_code in (409, 412):
        return "somebody else committed at the same time"
    if response.status_code == 429:
        return "the Hub's rate limit was reached"
    return f"the Hub answered {response.status_code} ({server_message(response)})"


def server_message(response) -> str:
    """Why the Hub refused: from a header, the reply's error, or a list of the errors in a card."""
    if not (message := response.headers.get("X-Error-Message")):
        try:
            said = response.json()
            message = said.get("error") or "; ".join(as_text(found["message"]).rstrip(".") for found in said["errors"])
        except (ValueError, TypeError, LookupError, AttributeError):
            message = ""
    return short(as_text(message)) or response.reason_phrase


def short(text: str) -> str:
    """A server's text as a part of a sentence: clean, one line, not long."""
    return textwrap.shorten(clean(text), 300, placeholder=" …").rstrip(".")


def pause_after(error: Exception, otherwise: float) -> float:
    """Seconds to wait before another try."""
    response = response_of(error)
    asked = None if response is None else asked_pause(response.headers)
    return otherwise if asked is None else max(float(asked), otherwise)


def bad_reply(what: str) -> BadReplyError:
    return BadReplyError(f"{what} is not as the Hub gives it")
