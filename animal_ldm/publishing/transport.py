"""The HTTP client of a push. It trusts no server with more than the push needs.

- The access token goes to the endpoint's origin only: a request that would take it elsewhere is not sent.
- Nothing that a server says reaches the terminal, a log or a file with the token, or with control characters in it.
- A reply has a largest size and every request a longest time, however slowly a server sends or reads.

`huggingface_hub` makes all its requests with the client that `connect` installs. The only exception is Xet, which
`credentials` turns off; for those who turn it on, a push as a whole has a longest time too.
"""

import contextvars
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.errors import HfHubHTTPError

from .. import __version__
from ..credentials import HOOKS, TOKEN, StaysHome
from ..markdown import printable

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

HIDDEN = "[token]"
ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # ECMA-48, 5.4: control sequences
LARGEST_REPLY = 50_000_000  # bytes; a page of a listing has some 100 kB
LONGEST_WAIT = 10  # seconds that the client library may sleep before it asks again; longer pauses are the push's


@dataclass
class Limits:
    """The longest times, in seconds.

    Attributes:
        silence: without a byte from the server, or without one accepted.
        reply: for a request and its reply; uploads have until `push` instead.
        push: for a push, and for each of the checks before it, plus the time of its bytes at `rate` bytes per second
            and a second per file.
    """

    silence: float = 120
    reply: float = 300
    push: float = 900
    rate: float = 25_000

    def of_push(self, files: int, size: int) -> float:
        """Seconds for `files` files of `size` bytes together."""
        return self.push + files + size / self.rate


LIMITS = Limits()


class TooSlowError(ConnectionError):
    """A server did not finish in time."""


class BadReplyError(ValueError):
    """A reply that no Hub gives."""


def connect(endpoint: str | None = None, token: str | None = None) -> HfApi:
    """A client of the Hub. From here on, all requests of `huggingface_hub` in this process are guarded."""
    api = HfApi(endpoint=endpoint, token=token, library_name="animal-ldm", library_version=__version__)
    set_client_factory(lambda: HubClient(StaysHome(api.endpoint)))
    return api


class HubClient(httpx2.Client):
    """Reads every reply within the limits, and passes it on clean. Downloads, which are streamed, pass as they are."""

    def __init__(self, stays_home: StaysHome):
        super().__init__(event_hooks={"request": [*HOOKS, stays_home]}, follow_redirects=True)

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        # the library asks for no limit at all
        request.extensions = {**request.extensions, "timeout": httpx2.Timeout(LIMITS.silence).as_dict()}
        if stream:
            return super().send(request, stream=True, **options)
        is_upload = request.method == "PUT"
        return within(Deadline.current, lambda: self.read(request, options), None if is_upload else LIMITS.reply)

    def read(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        """The reply, with all of its body."""
        secret = request.headers.get("Authorization", "").removeprefix("Bearer ")
        response = super().send(request, stream=True, **options)
        body = bytearray()
        try:
            for block in response.iter_bytes():
                body += block
                if len(body) > LARGEST_REPLY:
                    raise BadReplyError(f"a reply has more than {LARGEST_REPLY // 10**6} MB")
        finally:
            response.close()
        return cleaned(response, bytes(body), secret)


# --- what a server says ----------------------------------------------------------------------------------------------


def clean(text: str, secret: str = "") -> str:
    """`text` without access tokens and without what a terminal obeys; line breaks and tabs stay.

    Args:
        secret: an access token of any form, hidden as well.
    """
    text = printable(ANSI.sub("", text)).replace("\r", "")
    return TOKEN.sub(HIDDEN, text.replace(secret, HIDDEN) if len(secret) > 7 else text)


def cleaned(response: httpx2.Response, body: bytes, secret: str) -> httpx2.Response:
    """The reply with `body`, all its texts clean, and any error in the form that the client library expects.

    Raises:
        HfHubHTTPError: the server asks for a pause longer than `LONGEST_WAIT`, which the library would sleep.
    """
    dropped = {"content-encoding", "content-length", "transfer-encoding", "retry-after", "ratelimit"}
    headers = httpx2.Headers(
        [(name, clean(text, secret)) for name, text in response.headers.multi_items() if name not in dropped],
        encoding="utf-8",
    )
    pause = asked_pause(response.headers)
    if pause is not None:
        headers["Retry-After"] = str(pause)
    try:
        content: Any = scrubbed(json.loads(body), secret)
        is_json = True
    except (ValueError, RecursionError):
        content = clean(body.decode("utf-8", errors="replace"), secret)
        is_json = False
    if response.status_code >= 400:
        is_page = "html" in headers.get("Content-Type", "").lower()
        content, is_json = error_reply("" if is_page else content), True
    answer = httpx2.Response(
        response.status_code,
        headers=headers,
        content=(json.dumps(content) if is_json else content).encode("utf-8", errors="replace"),
        request=response.request,
        history=response.history,
        extensions={"reason_phrase": clean(response.reason_phrase, secret).encode("ascii", errors="replace")},
    )
    if answer.status_code >= 400 and pause is not None and pause > LONGEST_WAIT:
        raise HfHubHTTPError(f"the server asks to wait for {pause} s", response=answer)
    return answer


def scrubbed(value: Any, secret: str) -> Any:
    """A value from JSON, in which every text is clean."""
    if isinstance(value, str):
        return clean(value, secret)
    if isinstance(value, list):
        return [scrubbed(entry, secret) for entry in value]
    if isinstance(value, dict):
        return {clean(name, secret): scrubbed(entry, secret) for name, entry in value.items()}
    return value


def error_reply(value: Any) -> dict[str, Any]:
    """What a failed request's reply says, as the Hub would say it: the library takes any other form badly."""
    found = value if isinstance(value, dict) else {"error": value}
    error, listed = found.get("error"), found.get("errors")
    texts = (
        [one["message"] for one in listed if isinstance(one, dict) and "message" in one]
        if isinstance(listed, list)
        else []
    )
    reply: dict[str, Any] = {"errors": [{"message": as_text(text)} for text in texts]}
    return reply | ({"error": as_text(error)} if error else {})


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def asked_pause(headers: httpx2.Headers) -> int | None:
    """Seconds that a reply asks to wait, by `Retry-After` or by the Hub's `RateLimit`; None without a number."""
    retry = re.fullmatch(r"\s*([0-9]{1,9})\s*", headers.get("Retry-After", ""))
    limit = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*([0-9]{1,9})\b", headers.get("RateLimit", ""))
    found = limit or retry
    return int(found[1]) if found else None


# --- how long it may take --------------------------------------------------------------------------------------------


class Deadline:
    """When to give up on a push. `current` holds for every request of this process."""

    current: "Deadline"
    never: "Deadline"

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.ends = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then."""
        return self.ends - time.monotonic()


Deadline.current = Deadline.never = Deadline(float("inf"))


@contextmanager
def deadline(seconds: float) -> Iterator[Deadline]:
    """Requests within the block end after `seconds` at the latest, and with the block."""
    limit = Deadline.current = Deadline(seconds)
    try:
        yield limit
    finally:
        # Threads of the library that are left behind may send no more.
        Deadline.current = limit if limit.left() <= 0 else Deadline.never
        limit.ends = float("-inf")


def within(limit: Deadline, work: Callable[[], Result], seconds: float | None = None) -> Result:
    """`work()`, which is left to itself in its thread when `limit` has passed, or `seconds` if that is sooner.

    A blocked read cannot be interrupted in Python, and one that receives a byte a minute never times out.

    Raises:
        TooSlowError: it did not finish in time.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), daemon=True).start()
    own = Deadline(float("inf") if seconds is None else seconds)
    while True:
        left = min(limit.left(), own.left())
        try:
            # in short steps, since `limit` may be ended by others
            return future.result(min(0.5, max(0.0, left)))
        except TimeoutError:
            if future.done():
                return future.result()
            if left <= 0:
                longest = min(limit.seconds, own.seconds)
                raise TooSlowError(f"the Hub did not finish within {longest:.3g} s") from None
