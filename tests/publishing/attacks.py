"""A Hub that means harm: hundreds of ways to misbehave towards a push, and what the command makes of each.

`python -m tests.faults hubs` runs all of them, each in a process of its own, and prints the table:

right       the push ended well, and the Hub holds the files
clean       the push ended with one sentence and an exit code of the Hub's problems, and the next push ended well
wrong       anything else that ended
traceback   Python's, anywhere in the output
hang        no end within `HANG` seconds
token       it reached another host, or the terminal
control     characters of the server that a terminal obeys reached it
"""

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
from huggingface_hub.utils import disable_progress_bars
from PIL import Image

import animal_ldm.publishing.push  # noqa: F401 - slow to import: once for all processes
from animal_ldm import cli
from animal_ldm.publishing import hub as publishing_hub
from animal_ldm.publishing.failures import FOREIGN_HOST, NO_TOKEN
from animal_ldm.publishing.transport import LIMITS

from ..forked import fork
from .hub_server import TOKEN, Fault, Handler, Hub

REPO = "user/photos"
HANG = 120
OFTEN = 10**6
# of a terminal: colours, a title, a cleared screen, an overwritten line, text from right to left
TERMINAL = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J \rover\x08\x00 \u202eevil \x9b2J"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

Action = Callable[[Handler], None]


@dataclass
class Attack:
    name: str
    faults: list[Fault]
    repository: bool = True  # whether it is there before the push


@dataclass
class Result:
    attack: Attack
    outcome: str
    exit_code: int | None
    output: str = field(repr=False)


# --- replies ---------------------------------------------------------------------------------------------------------


def says(content: object, status: int = 200, headers: dict | None = None) -> Action:
    """Another reply than the Hub's. Headers are sent in UTF-8."""
    sent = {name: value.encode().decode("latin-1") for name, value in (headers or {}).items()}
    return lambda handler: handler.reply(status, content, sent)


def changes(change: Callable[[dict], object]) -> Action:
    """The Hub's own reply, with its content changed: in place, or replaced if `change` returns something."""

    def altered(status: int, content: object, headers: dict) -> tuple:
        content = json.loads(json.dumps(content))
        return status, change(content) or content, headers

    def action(handler: Handler) -> None:
        handler.altered = altered
        handler.route(handler.path.split("?")[0])

    return action


def also(headers: dict) -> Action:
    """The Hub's own reply, with further headers."""

    def action(handler: Handler) -> None:
        handler.altered = lambda status, content, own: (status, content, own | headers)
        handler.route(handler.path.split("?")[0])

    return action


def raw(*parts: bytes, pause: float = 0.0, times: int = 1) -> Action:
    """Bytes in place of a reply, the last of them `times` times, with pauses between."""

    def action(handler: Handler) -> None:
        handler.close_connection = True
        for part in [*parts, *[parts[-1]] * (times - 1)]:
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(pause)

    return action


def silent(handler: Handler) -> None:
    time.sleep(HANG)
    handler.hang_up()


def redirects(status: int) -> Action:
    """To the same path on the other host."""
    return lambda handler: handler.reply(status, b"", {"Location": handler.hub.cdn + handler.path})


def on_other_host(action: str) -> Action:
    """An action of LFS batches with an address on the other host."""

    def change(handler: Handler, content: dict) -> None:
        for answer in content["objects"]:
            if action in answer.get("actions", {}):
                answer["actions"][action]["href"] = f"{handler.hub.cdn}/lfs-verify"

    return lambda handler: changes(lambda content: change(handler, content))(handler)


# --- the attacks -----------------------------------------------------------------------------------------------------

WHOAMI, CREATE = ("GET", "whoami"), ("POST", "repos/create")
INFO, TREE = ("GET", f"/api/datasets/{REPO}$|/revision/"), ("GET", "/tree/")
CARD, MODES = ("POST", "validate-yaml"), ("POST", "/preupload/")
BATCH, UPLOAD = ("POST", "objects/batch"), ("PUT", "/lfs/")
VERIFY, COMMIT = ("POST", "lfs-verify"), ("POST", "/commit/")
STEPS = {
    "whoami": WHOAMI,
    "info": INFO,
    "tree": TREE,
    "card": CARD,
    "modes": MODES,
    "batch": BATCH,
    "verify": VERIFY,
    "commit": COMMIT,
}

BODIES: dict[str, object] = {
    "null": b"null",
    "a number": b"3",
    "a string": b'"text"',
    "a list": b"[]",
    "a list of null": b"[null]",
    "an object": b"{}",
    "nothing": b"",
    "no JSON": b"<html>Please log in</html>",
    "half of JSON": b'{"name": "us',
    "no UTF-8": b'{"name": "\xff\xfe"}',
    "nested": b"[" * 100_000,
    "a long number": b'{"name": ' + b"9" * 10_000 + b"}",
}
ERRORS: dict[str, object] = {
    "a number": {"error": 5},
    "null": {"error": None},
    "a list": {"error": [["x"], 3, None]},
    "an object": {"error": {"message": "x"}},
    "errors null": {"errors": None},
    "errors a number": {"errors": 3},
    "errors of numbers": {"errors": [1, 2]},
    "errors without message": {"errors": [{"text": "x"}]},
    "message a number": {"errors": [{"message": 4}]},
    "a top-level list": ["x"],
    "a top-level null": None,
    "a megabyte": {"error": "x" * 1_000_000},
}
PAUSES_ASKED = ("²", "٣", "1e9", "-5", "nan", "99999999", "9" * 5000, "Wed, 21 Oct 2099 07:28:00 GMT", "1.5", "0x10")


def malformed() -> Iterator[Attack]:
    for step, (method, path) in STEPS.items():
        for name, body in BODIES.items():
            answer = says(body, headers={"Content-Type": "application/json"})
            yield Attack(f"{step} replies {name}", [Fault(method, path, answer, OFTEN)])
    for name, error in ERRORS.items():
        for step, status in (("whoami", 403), ("card", 400), ("commit", 500)):
            method, path = STEPS[step]
            yield Attack(f"{step} fails, error is {name}", [Fault(method, path, says(error, status), OFTEN)])
    for name, body in BODIES.items():
        yield Attack(f"creation replies {name}", [Fault(*CREATE, says(body), OFTEN)], repository=False)


def fields() -> Iterator[Attack]:
    """Well-formed replies with one wrong field."""
    wrong: dict[str, object] = {
        "gone": ...,
        "null": None,
        "a number": -1,
        "a string": "\x1b[31m../../x",
        "a list": [[]],
    }

    def put(place: dict, name: str, value: object) -> None:
        place.pop(name, None)
        if value is not ...:
            place[name] = value

    for how, value in wrong.items():
        for name in ("path", "size", "oid", "type", "lfs"):
            change = changes(lambda entries, n=name, v=value: [put(entry, n, v) for entry in entries] and None)
            yield Attack(f"tree: {name} is {how}", [Fault(*TREE, change, OFTEN)])
        for step, name in ((WHOAMI, "name"), (INFO, "id"), (INFO, "sha"), (INFO, "private"), (COMMIT, "commitOid")):
            change = changes(lambda content, n=name, v=value: put(content, n, v))
            yield Attack(f"{step[1]}: {name} is {how}", [Fault(*step, change, OFTEN)])
        for name in ("path", "uploadMode"):
            change = changes(lambda content, n=name, v=value: [put(one, n, v) for one in content["files"]] and None)
            yield Attack(f"modes: {name} is {how}", [Fault(*MODES, change, OFTEN)])
        for name in ("oid", "size", "actions"):
            change = changes(lambda content, n=name, v=value: [put(one, n, v) for one in content["objects"]] and None)
            yield Attack(f"batch: {name} is {how}", [Fault(*BATCH, change, OFTEN)])
        for name in ("href", "header"):

            def change_upload(content: dict, n: str = name, v: object = value) -> None:
                for one in content["objects"]:
                    put(one["actions"]["upload"], n, v)

            yield Attack(f"upload: {name} is {how}", [Fault(*BATCH, changes(change_upload), OFTEN)])
    for size in (0, -1, 1, "x", "9" * 30, None):

        def chunks(content: dict, s: object = size) -> None:
            for one in content["objects"]:
                one["actions"]["upload"].setdefault("header", {})["chunk_size"] = s

        yield Attack(f"upload: chunk_size is {str(size)[:9]}", [Fault(*BATCH, changes(chunks), OFTEN)])


def elsewhere() -> Iterator[Attack]:
    """Replies that would take the token to another host."""
    for action in ("verify", "upload"):
        yield Attack(f"LFS {action} on another host", [Fault(*BATCH, on_other_host(action), OFTEN)])
    for step in ("whoami", "info", "tree", "modes", "batch", "commit"):
        for status in (302, 307, 308):
            method, path = STEPS[step]
            yield Attack(
                f"{step} redirects ({status}) to another host", [Fault(method, path, redirects(status), OFTEN)]
            )

    for status in (302, 307):
        yield Attack(f"Xet redirects ({status}) to another host", [Fault("GET", "xet-", redirects(status), OFTEN)])

    def next_page(handler: Handler) -> None:
        also({"Link": f'<{handler.hub.cdn}{handler.path}>; rel="next"'})(handler)

    yield Attack("the next page is on another host", [Fault(*TREE, next_page, OFTEN)])
    for where in (
        "ftp://example.org/x",
        "file:///etc/passwd",
        "//localhost/x",
        "http://[::1",
        "http://\x01/",
        "x:y",
        "",
    ):
        yield Attack(f"the next page is at {where!r}", [Fault(*TREE, also({"Link": f'<{where}>; rel="next"'}), OFTEN)])


def echoes() -> Iterator[Attack]:
    """Replies that hold the token, and what a terminal obeys."""
    texts = {
        "token": f"your token {TOKEN} is bad",
        "terminal": TERMINAL,
        "both": f"hf_\x00{'t' * 34} hf_\x1b[1m{'t' * 34}",
    }
    for kind, text in texts.items():
        header = re.sub("[\r\n\x00]", "", text)
        for step in ("whoami", "commit"):
            method, path = STEPS[step]
            for status in (400, 403, 404, 409, 429, 500):
                answer = says({"error": text}, status, {"X-Error-Message": header})
                yield Attack(f"{step} echoes {kind} with {status}", [Fault(method, path, answer, OFTEN)])
        yield Attack(f"{kind} in the card's errors", [Fault(*CARD, says({"errors": [{"message": text}]}, 400), OFTEN)])
        warned = also({"X-HF-Warning": f"topic; {header}".encode().decode("latin-1")})
        yield Attack(f"{kind} in a warning", [Fault("GET", "", warned, OFTEN)])
        yield Attack(f"{kind} in the name of the user", [Fault(*WHOAMI, changes(lambda c, t=text: c | {"name": t}))])
        error = {"error": {"code": 1, "message": text}, "oid": "0" * 64, "size": 1}
        yield Attack(f"{kind} in an object's error", [Fault(*BATCH, says({"objects": [error]}), OFTEN)])
        plain = says(text.encode(), 500, {"Content-Type": "text/plain"})
        yield Attack(f"{kind} in plain text", [Fault(*COMMIT, plain, OFTEN)])
        line = f"HTTP/1.1 500 {header}\r\nContent-Length: 0\r\n\r\n".encode()
        yield Attack(f"{kind} in the reason", [Fault(*COMMIT, raw(line), OFTEN)])
        names = changes(lambda c, t=text: [{"type": "file", "path": f"unet/{t}.bin", "size": 1, "oid": "0" * 40}, *c])
        yield Attack(f"{kind} in the name of a file", [Fault(*TREE, names, OFTEN)])

    def with_query(content: dict) -> None:
        for one in content["objects"]:
            one["actions"]["upload"]["href"] += f"?token={TOKEN}"

    failing = [Fault(*BATCH, changes(with_query), OFTEN), Fault(*UPLOAD, says(b"", 500), OFTEN)]
    yield Attack("token in the address of an upload that fails", failing)


def pauses() -> Iterator[Attack]:
    for value in PAUSES_ASKED:
        for step in ("tree", "commit"):
            answer = says({"error": "slow down"}, 429, {"Retry-After": value})
            yield Attack(f"{step}: Retry-After is {value[:12]}", [Fault(*STEPS[step], answer, OFTEN)])
    for value in ('"api";r=0;t=99999999', '"api";r=0;t=٣', f'"api";r=0;t={"9" * 5000}', '"api";r=0;t='):
        answer = says({"error": "slow down"}, 429, {"RateLimit": value})
        yield Attack(f"RateLimit is {value[:22]}", [Fault(*TREE, answer, OFTEN)])


def endless() -> Iterator[Attack]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    ways: dict[str, Action] = {
        "silence": silent,
        "slow headers": raw(b"HTTP/1.1 200 OK\r\nX: ", b"x", pause=0.3, times=400),
        "slow body": raw(head + b"Content-Length: 9999\r\n\r\n[", b" ", pause=0.3, times=400),
        "endless body": raw(
            head + b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + b" " * 0x100000 + b"\r\n", times=200
        ),
        "endless headers": raw(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 1000 + b"\r\n", times=10_000),
        "hangs up": lambda handler: handler.hang_up(),
        "no HTTP": raw(b"SSH-2.0-OpenSSH_9.9\r\n"),
        "half of a reply": raw(head + b"Content-Length: 9999\r\n\r\n[]"),
        "negative length": raw(head + b"Content-Length: -5\r\n\r\n[]"),
        "bad chunks": raw(head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n[]"),
        "bad gzip": raw(head + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"),
        "status 999": raw(b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n"),
        "status 103 for ever": raw(b"HTTP/1.1 103 Early Hints\r\n\r\n", pause=0.05, times=2000),
        "redirects to itself": lambda handler: handler.reply(302, b"", {"Location": handler.path}),
    }
    for name, action in ways.items():
        for step in ("whoami", "tree", "commit"):
            method, path = STEPS[step]
            yield Attack(f"{step}: {name}", [Fault(method, path, action, OFTEN)])
    for name in ("silence", "slow headers", "hangs up"):
        yield Attack(f"upload: {name}", [Fault(*UPLOAD, ways[name], OFTEN)])
    again = lambda handler: also({"Link": f'<{handler.hub.url}{handler.path}>; rel="next"'})(handler)  # noqa: E731
    yield Attack("pages without end", [Fault(*TREE, again, OFTEN)])
    empty = lambda handler: handler.reply(200, [], {"Link": f'<{handler.hub.url}{handler.path}>; rel="next"'})  # noqa: E731
    yield Attack("empty pages without end", [Fault(*TREE, empty, OFTEN)])


def all_attacks() -> list[Attack]:
    return [*malformed(), *fields(), *elsewhere(), *echoes(), *pauses(), *endless()]


# --- how a push fares ------------------------------------------------------------------------------------------------


def make_dataset(folder: Path) -> None:
    """A prepared dataset of four photos, with a file of several parts beside them."""
    train = folder / "train"
    train.mkdir(parents=True)
    lines = []
    for number in range(4):
        Image.effect_noise((16, 16), 60 + number).convert("RGB").save(train / f"{number}.png")
        line = {"file_name": f"{number}.png", "text": "a zebra", "label": "zebra", "texts": ["a zebra"]}
        lines.append(json.dumps(line | {"caption_sources": ["template"], "attributes": {}}) + "\n")
    (train / "metadata.jsonl").write_text("".join(lines))
    (folder / "dataset_card.md").write_text("---\nlicense: unlicense\n---\n\n# Photos\n")
    Image.effect_noise((500, 500), 100).save(folder / "contact_sheet.jpg", quality=95)


def push(hub: Hub, dataset: Path) -> tuple[int | None, str]:
    """Exit code (None: it hung) and output of the command in a forked process, with short limits."""
    with tempfile.TemporaryFile() as output:
        child = fork(lambda: push_to(hub, dataset), output)
        ends = time.monotonic() + HANG
        code = None
        while code is None and time.monotonic() < ends:
            ended, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
            time.sleep(0.02)
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        output.seek(0)
        return code, output.read().decode(errors="replace")


def push_to(hub: Hub, dataset: Path) -> None:
    """The command, in a process of its own."""
    os.environ["HF_TOKEN"] = TOKEN
    disable_progress_bars()
    constants = huggingface_hub.constants
    constants.ENDPOINT, constants.HF_HUB_OFFLINE = hub.url, False
    publishing_hub.PAUSES = (0, 0)
    LIMITS.silence, LIMITS.reply, LIMITS.push, LIMITS.rate = 4, 8, 25, 1e9
    cli.main(["push", "--dataset", str(dataset), "--repo_id", REPO])


def fare(attack: Attack, dataset: Path) -> Result:
    with Hub() as hub:
        if attack.repository:
            hub.create("dataset", REPO)
        hub.faults = attack.faults
        code, output = push(hub, dataset)
        outcome = judge(hub, code, output, dataset)
        if outcome == "clean":
            hub.faults = []
            again, later = push(hub, dataset)
            if judge(hub, again, later, dataset) != "right":
                outcome, output = "wrong", output + "\nand again:\n" + later
    return Result(attack, outcome, code, output)


def judge(hub: Hub, code: int | None, output: str, dataset: Path) -> str:
    if "t" * 34 in output or hub.leaked:
        return "token"
    if code is None:
        return "hang"
    if "Traceback" in output:
        return "traceback"
    if OBEYED.search(output):
        return "control"
    if code == 0:
        there = hub.files(REPO, kind="dataset") if ("dataset", REPO) in hub.repositories else {}
        own = {file.relative_to(dataset).as_posix(): file.read_bytes() for file in dataset.rglob("*.*")}
        own["README.md"] = own.pop("dataset_card.md")
        return "right" if own.items() <= there.items() else "wrong"
    *_, last = output.strip().splitlines() or [""]
    is_sentence = last.startswith("error: ") and last.endswith(".") and len(last) < 1000
    return "clean" if NO_TOKEN <= code <= FOREIGN_HOST and is_sentence else "wrong"


def run(attacks: list[Attack], folder: Path, workers: int = 6) -> Iterator[Result]:
    """Results as they come, in the attacks' order."""
    make_dataset(folder / "photos")
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda attack: fare(attack, folder / "photos"), attacks)


def shown(result: Result) -> str:
    """A line of the table; the output as well, unless all is well."""
    last = (result.output.strip().splitlines() or [""])[-1]
    more = "" if result.outcome in ("right", "clean") else f"\n{result.output[-3000:]}"
    return f"{result.outcome:<9} {result.exit_code!s:<4} {result.attack.name}: {last[:200]}{more}"
