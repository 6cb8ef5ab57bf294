"""The demo under load: `python benchmarks/demo_load.py`.

Clients ask the page in turn for images and for nonsense, while its memory and queue are measured. The page runs in a
process of its own; with `SPACE_ID` set it tells users apart by the address that a Space's proxy reports.
"""

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass

import psutil
from gradio_client import Client
from side_by_side import describe_machine

from animal_ldm import demo
from animal_ldm.commands.parsing import parse

SERVER = """
import sys
from animal_ldm import AnimalLDMPipeline, demo
page = demo.build_page(AnimalLDMPipeline.from_pretrained(sys.argv[1]), "load", ["a zebra"], demo.Card([], []))
print(demo.start(page), flush=True)
page.block_thread()
"""
GOOD = {"prompt": "a zebra", "number": 1, "seed": 0, "guidance": 3.0, "steps": 2}
BAD = [
    {"number": 10**9},
    {"number": -1},
    {"steps": 10**9},
    {"steps": 0.5},
    {"guidance": float("nan")},
    {"guidance": float("inf")},
    {"guidance": "3"},
    {"seed": 2**32},
    {"seed": -1},
    {"seed": None},
    {"prompt": "z" * 1_000_000},
    {"prompt": "z" * 5000},
    {"prompt": "zebra\x00"},
    {"prompt": ["a zebra"]},
    {"prompt": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}},
]
BUSY = "queue is full|times a minute|429"
HTML = "<img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class LoadArguments:
    """Clients that ask the demo for images and for nonsense at the same time."""

    # Pipeline folder.
    model: str
    # Clients.
    clients: int = 20
    # Seconds that they ask for.
    seconds: float = 120
    # Requests per client, at most.
    requests: int = 500


class Load:
    """What the clients counted."""

    def __init__(self, arguments: LoadArguments, url: str):
        self.arguments, self.url = arguments, url
        self.ends = time.monotonic() + arguments.seconds
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    def ask(self, number: int) -> None:
        draw = random.Random(number)
        client = Client(
            self.url,
            verbose=False,
            download_files=False,
            headers={"X-Forwarded-For": f"10.0.0.{number}"},
            httpx_kwargs={"timeout": 300},
        )
        for _ in range(self.arguments.requests):
            if time.monotonic() > self.ends:
                break
            kind = draw.choice(["good", "html", "bad"])
            change = {"good": {}, "html": {"prompt": HTML[: draw.randint(5, 10)]}, "bad": draw.choice(BAD)}[kind]
            self.outcomes[self.outcome(client, kind, change)] += 1

    def outcome(self, client: Client, kind: str, change: dict) -> str:
        try:
            images, used = client.predict(**GOOD | change, api_name="/generate")
        except Exception as error:
            said = str(error)
            may_be = (
                BUSY
                if kind != "bad"
                else f"{BUSY}|must be a|write a prompt|Too long|not text|99,999 bytes|413|JSON|file size"
            )
            if re.search(may_be, said, re.IGNORECASE) and "Traceback" not in said:
                return f"{kind}: refused"
            self.wrong.append(f"{kind} {str(change)[:60]}: {type(error).__name__} {said[:200]}")
            return f"{kind}: FAILED"
        if kind == "bad" or len(images) != 1 or "<" in used:
            self.wrong.append(f"{kind} {str(change)[:60]}: answered with {used[:100]}")
            return f"{kind}: ANSWERED WRONGLY"
        return f"{kind}: image"


def main() -> None:
    arguments = parse(LoadArguments, None, prog="benchmarks/demo_load.py")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, arguments.model],
        env=os.environ | {"SPACE_ID": "user/demo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout
    url = server.stdout.readline().strip()
    process = psutil.Process(server.pid)
    Client(url, verbose=False, httpx_kwargs={"timeout": 300}).predict(
        **GOOD, api_name="/generate"
    )  # what is only loaded once is loaded
    load = Load(arguments, url)
    threads = [threading.Thread(target=load.ask, args=(number,), daemon=True) for number in range(arguments.clients)]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads) and time.monotonic() < load.ends + 300:
        memory.append(process.memory_info().rss / 1e6)
        if len(memory) % 20 == 1:
            print(f"{len(memory) - 1:>4} s  {memory[-1]:.0f} MB  {sum(load.outcomes.values())} answers", flush=True)
        time.sleep(1)
    Client(url, verbose=False, httpx_kwargs={"timeout": 300}).predict(**GOOD, api_name="/generate")
    print(f"{len(memory):>4} s  {process.memory_info().rss / 1e6:.0f} MB, after another image")
    print(f"{arguments.clients} clients, queue of {demo.MOST_WAITING}, {describe_machine()}")
    print(", ".join(f"{name} {count}" for name, count in sorted(load.outcomes.items())))
    print(f"alive: {server.poll() is None}; clients that did not end: {sum(t.is_alive() for t in threads)}")
    for line in load.wrong[:20]:
        print("wrong:", line)
    server.terminate()


if __name__ == "__main__":
    main()
