"""What the client of a push never sends, never passes on and never waits for; the whole list is in `attacks.py`."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi, set_client_factory

from animal_ldm import credentials
from animal_ldm.publishing import hub as publishing_hub
from animal_ldm.publishing import transport
from animal_ldm.publishing.failures import (
    BAD_REPLY,
    FOREIGN_HOST,
    NO_NETWORK,
    NO_RIGHT,
    NO_TOKEN,
    REFUSED,
    HubError,
)
from animal_ldm.publishing.hub import check_access, differences, publish
from animal_ldm.publishing.request import Target
from animal_ldm.publishing.transport import HIDDEN, TooSlowError, clean, deadline, within

from .attacks import (
    OBEYED,
    TERMINAL,
    Attack,
    all_attacks,
    also,
    changes,
    on_other_host,
    raw,
    redirects,
    run,
    says,
    shown,
    silent,
)
from .hub_server import TOKEN, Fault, Handler
from .test_hub import MODEL, PAUSES, REPO, assert_published, failure

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
def in_a_hurry(monkeypatch):
    """Short limits."""
    for name, seconds in {"silence": 0.25, "reply": 0.5, "push": 1.0, "rate": 1e9}.items():
        monkeypatch.setattr(transport.LIMITS, name, seconds)


# --- the token stays home --------------------------------------------------------------------------------------------


def test_the_token_does_not_go_to_an_address_of_the_upload_on_another_host(hub, api, folder):
    hub.faults = [Fault("POST", "objects/batch", on_other_host("verify"), times=99)]
    error = failure(folder, MODEL, api)
    assert error.exit_code == FOREIGN_HOST
    assert "another server, 'localhost'" in str(error)
    assert not hub.leaked and hub.commits(REPO) == []
    hub.faults = []
    publish(folder, MODEL, api)
    assert_published(hub, folder)


def test_the_token_does_not_go_to_a_next_page_on_another_host(hub, api, folder):
    hub.faults = [Fault("GET", "/tree/", lambda handler: also({"Link": f'<{hub.cdn}/x>; rel="next"'})(handler), 99)]
    assert failure(folder, MODEL, api).exit_code == FOREIGN_HOST
    with pytest.raises(HubError, match="another server"):
        [*differences(folder, MODEL, api)]
    assert not any(path == "/x" for _, path in hub.requests)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_to_another_host_go_without_the_token(hub, api, status):
    hub.faults = [Fault("GET", "whoami", redirects(status))]
    with pytest.raises(HubError) as error:
        check_access(MODEL, api, pauses=())
    assert error.value.exit_code == NO_TOKEN  # there, nobody is logged in
    assert not hub.leaked


def test_downloads_do_not_take_the_token_elsewhere_either(hub, online, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    set_client_factory(credentials.client)
    hub.create("model", REPO)
    api = HfApi(hub.url, token=TOKEN)
    assert api.whoami()["name"] == "user"
    hub.faults = [Fault("GET", "/tree/", lambda handler: also({"Link": f'<{hub.cdn}/x>; rel="next"'})(handler), 99)]
    with pytest.raises(credentials.ForeignHostError, match="another server, 'localhost'"):
        [*api.list_repo_tree(REPO)]
    assert not any(path == "/x" for _, path in hub.requests)


@pytest.mark.parametrize("status", [302, 307])
def test_xet_takes_the_token_nowhere(hub, api, folder, tmp_path, status):
    """With Xet, `hf_xet` follows the redirects, and its second request there carries the token."""
    hub.faults = [Fault("GET", "/xet-", redirects(status), times=10**6)]
    publish(folder, MODEL, api, pauses=PAUSES)
    assert_published(hub, folder)

    def xet_elsewhere(handler: Handler) -> None:
        link = {"X-Xet-Hash": "a" * 64, "Link": f'<{hub.cdn}/xet-read-token>; rel="xet-auth"'}
        also(link)(handler)

    hub.faults += [Fault(method, "/resolve/", xet_elsewhere, times=10**6) for method in ("GET", "HEAD")]
    file = api.hf_hub_download(REPO, "model_index.json", local_dir=tmp_path / "down")
    assert Path(file).read_bytes() == (folder / "model_index.json").read_bytes()
    assert not hub.leaked and not any("xet" in path for _, path in hub.requests)


@pytest.mark.parametrize(("setting", "disabled"), [(None, True), ("0", False), ("1", True)])
def test_xet_is_the_users_decision(setting, disabled):
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_XET"}
    environment |= {} if setting is None else {"HF_HUB_DISABLE_XET": setting}
    code = "from animal_ldm import fetching, credentials; print(credentials.constants.HF_HUB_DISABLE_XET)"
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
    assert printed.strip() == str(disabled)


def test_a_reply_about_an_object_that_was_not_asked_for(hub, api, folder):
    def change(content: dict) -> None:
        for answer in content["objects"]:
            answer["oid"] = "0" * 64

    hub.faults = [Fault("POST", "objects/batch", changes(change), times=99)]
    assert failure(folder, MODEL, api).exit_code == BAD_REPLY


def test_a_token_in_an_address_of_the_hub_is_not_followed(hub, api, folder):
    def change(content: dict) -> None:
        for answer in content["objects"]:
            answer["actions"]["upload"]["href"] += f"?key={TOKEN}"

    hub.faults = [Fault("POST", "objects/batch", changes(change), times=99)]
    publish(folder, MODEL, api, pauses=PAUSES)  # to the address without it
    assert not hub.leaked


# --- what a server says ----------------------------------------------------------------------------------------------


def test_clean():
    assert clean(f"a {TOKEN}.") == f"a {HIDDEN}."
    assert clean("a my-own-token b", "my-own-token") == f"a {HIDDEN} b"
    assert clean(f"hf_\x00{'x' * 34} hf_\x1b[1m{'x' * 34}") == f"{HIDDEN} {HIDDEN}"
    assert clean("short hf_token and\nlines\tstay") == "short hf_token and\nlines\tstay"
    assert not OBEYED.search(clean(TERMINAL))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
@pytest.mark.parametrize("path", ["whoami", "/tree/"])
def test_nothing_of_a_server_reaches_the_terminal_as_it_is(hub, api, folder, capfd, caplog, monkeypatch, status, path):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.create("model", REPO)
    said = {"error": f"{TOKEN} {TERMINAL}", "errors": [{"message": f"{TOKEN} {TERMINAL}"}]}
    header = {"X-Error-Message": f"{TOKEN} \x1b[31m", "X-HF-Warning": f"x; {TOKEN} \x1b[31m"}
    hub.faults = [Fault("GET", path, says(said, status, header), times=999)]
    error = str(failure(folder, MODEL, api))
    out, err = capfd.readouterr()
    for text in (error, out, err, caplog.text):
        assert TOKEN not in text
        assert not OBEYED.search(text)
    assert error.count("\n") == 0


@pytest.mark.parametrize("error", [5, None, [["x"]], {"a": 1}, "", True])
@pytest.mark.parametrize("name", ["error", "errors"])
def test_errors_of_any_form_are_one_sentence(hub, api, folder, name, error):
    hub.faults = [Fault("POST", "/commit/", says({name: error}, 403))]
    failed = failure(folder, MODEL, api)
    assert failed.exit_code == NO_RIGHT
    assert "\n" not in str(failed)


@pytest.mark.parametrize("body", [b"null", b"3", b"[]", b"{}", b"", b"<html>", b"[" * 10**5, b'{"name": 3}'])
def test_replies_that_make_no_sense(hub, api, folder, body):
    hub.faults = [Fault("GET", "whoami", says(body), times=99)]
    error = failure(folder, MODEL, api)
    assert error.exit_code == BAD_REPLY
    assert "a reply that cannot be used" in str(error)
    assert hub.repositories == {}


@pytest.mark.parametrize("asked", ["²", "٣", "-5", "1e9", "9" * 5000, "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_pauses_that_are_no_numbers_are_not_made(hub, api, folder, asked):
    hub.faults = [Fault("POST", "/commit/", says({"error": "slow down"}, 429, {"Retry-After": asked}))]
    publish(folder, MODEL, api, pauses=PAUSES)
    assert_published(hub, folder)


@pytest.mark.parametrize("headers", [{"Retry-After": "99999999"}, {"RateLimit": '"api";r=0;t=99999999'}])
def test_nobody_waits_for_years(hub, api, folder, headers):
    hub.create("model", REPO)
    hub.faults = [Fault("GET", "/tree/", says({"error": "slow down"}, 429, headers), times=99)]
    assert "rate limit" in str(failure(folder, MODEL, api))


@pytest.mark.parametrize("private", ["false", None, 0, ...])
def test_what_is_not_known_to_be_private_is_not(hub, api, folder, private):
    hub.create("model", REPO, private=True)

    def change(content: dict) -> None:
        content.pop("private")
        if private is not ...:
            content["private"] = private

    hub.faults = [Fault("GET", REPO, changes(change), times=99)]
    assert failure(folder, Target(REPO, private=True), api).exit_code == REFUSED
    assert hub.commits(REPO) == []


# --- how long it may take --------------------------------------------------------------------------------------------

SLOW = {
    "silence": silent,
    "slow headers": raw(b"HTTP/1.1 200 OK\r\nX: ", b"x", pause=0.1, times=100),
    "slow body": raw(HEAD + b"Content-Length: 9999\r\n\r\n[", b" ", pause=0.1, times=100),
}


@pytest.mark.parametrize("path", ["whoami", "/tree/", "/commit/", "/lfs/"])
@pytest.mark.parametrize("name", SLOW)
def test_a_push_ends_and_goes_on(hub, api, folder, in_a_hurry, monkeypatch, name, path):
    method = {"/commit/": "POST", "/lfs/": "PUT"}.get(path, "GET")
    hub.create("model", REPO)
    hub.faults = [Fault(method, path, SLOW[name], times=999)]
    began = time.monotonic()
    assert failure(folder, MODEL, api).exit_code == NO_NETWORK
    assert time.monotonic() - began < 15
    hub.faults = []
    monkeypatch.setattr(transport, "LIMITS", replace(transport.Limits()))
    monkeypatch.setattr(publishing_hub, "LIMITS", transport.LIMITS)
    publish(folder, MODEL, api, pauses=PAUSES)
    assert_published(hub, folder)


def test_pages_without_end(hub, api, folder, in_a_hurry):
    hub.create("model", REPO)
    again = lambda handler: handler.reply(200, [], {"Link": f'<{hub.url}{handler.path}>; rel="next"'})  # noqa: E731
    hub.faults = [Fault("GET", "/tree/", again, times=10**6)]
    assert "did not finish within" in str(failure(folder, MODEL, api))


def test_replies_without_end(hub, api, folder, monkeypatch):
    monkeypatch.setattr(transport, "LARGEST_REPLY", 10_000)
    hub.faults = [Fault("GET", "whoami", says(b" " * 20_000 + b"{}"), times=99)]
    assert failure(folder, MODEL, api).exit_code == BAD_REPLY


def test_within():
    with deadline(60) as limit:
        assert within(limit, lambda: 3) == 3
        with pytest.raises(ZeroDivisionError):
            within(limit, lambda: 1 / 0)
        with pytest.raises(TooSlowError, match=r"0\.1 s"):
            within(limit, lambda: time.sleep(5), 0.1)
    with pytest.raises(TooSlowError):
        within(limit, lambda: time.sleep(5))  # the block has ended


# --- all of it -------------------------------------------------------------------------------------------------------


def test_the_attacks_are_many():
    names = [attack.name for attack in all_attacks()]
    assert len(names) == len(set(names)) >= 120


@pytest.mark.slow
def test_attacks(tmp_path):
    results = [*run([Attack("none", []), *all_attacks()], tmp_path)]
    bad = [shown(result) for result in results if result.outcome not in ("right", "clean")]
    assert not bad, "\n".join(bad)
    assert results[0].outcome == "right"
