"""The access token of the Hub goes to the Hub only, in every command.

Importing this module is enough. `publishing.transport` builds on it for pushes.
"""

import os
import re
from dataclasses import dataclass

import httpx2
from huggingface_hub import constants, get_session, set_client_factory

# No hook reaches the requests of `hf_xet`, which takes the token wherever a redirect of the Hub leads (seen with 1.8).
# Large files travel by plain HTTP instead, unless the user has decided.
if "HF_HUB_DISABLE_XET" not in os.environ:
    constants.HF_HUB_DISABLE_XET = True

TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")


class ForeignHostError(ConnectionError):
    """A request that would have taken the access token to another origin. It was not sent."""


def origin(url: str | httpx2.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port (None: the scheme's own)."""
    url = httpx2.URL(url)
    return url.scheme, url.host, url.port


@dataclass(frozen=True)
class StaysHome:
    """A hook of requests, redirected ones too: only those to `endpoint` (None: `HF_ENDPOINT`) may carry the token."""

    endpoint: str | None = None

    def __call__(self, request: httpx2.Request) -> None:
        carried = "Authorization" in request.headers or any(map(TOKEN.search, request.headers.values()))
        if carried and origin(request.url) != origin(self.endpoint or constants.ENDPOINT):
            raise ForeignHostError(f"a reply would take the access token to another server, {request.url.host!r}")


HOOKS = [*get_session().event_hooks["request"]]  # what `huggingface_hub` itself does before every request


def client() -> httpx2.Client:
    """As `huggingface_hub` makes it, with our hook, and a limit to a server's silence."""
    return httpx2.Client(event_hooks={"request": [*HOOKS, StaysHome()]}, follow_redirects=True, timeout=120)


set_client_factory(client)
