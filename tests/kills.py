"""Commands that are killed at random moments and started again: the end result is that of an undisturbed run.

`python -m tests.faults kills` runs them. The commands work on tiny components, in forked processes. A moment is a
share of the processor time that the undisturbed run took, so that it means the same on a busy machine.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

# slow to import: once for all processes
import animal_ldm.data.captioning
import animal_ldm.data.prepare
import animal_ldm.evaluation.evaluate
import animal_ldm.training.autoencoder
import animal_ldm.training.text_to_image  # noqa: F401
from animal_ldm import AnimalLDMPipeline, cli
from tests.conftest import tiny_components
from tests.data.captioners import save
from tests.data.photos_on_disk import write_photos
from tests.forked import fork_several
from tests.publishing.attacks import REPO, make_dataset, push_to
from tests.publishing.hub_server import Hub
from tests.training.conftest import write_parts, write_split

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST = 600  # seconds of a run on a busy machine
LONGEST_AFTER = 60  # seconds that a process may live after the signal, or after another of its run was lost
# Seconds after which a launcher sends SIGTERM to the others of a lost process, and SIGKILL.
LAUNCHER = ((1, signal.SIGTERM), (30, signal.SIGKILL))
# Of reports: what depends on the machine and the clock.
OF_THE_CLOCK = {"stretches", "wall_time_seconds", "hardware", "arguments"}


@dataclass(frozen=True)
class Work:
    """A command with an end result that can be compared.

    Attributes:
        command: its arguments; FOLDER is the folder it works in.
        again: further arguments to start it again.
        inputs: folder that is copied to FOLDER first.
        kept: patterns of the files that are the result.
        processes: that share the work, as `accelerate launch` starts them.
    """

    name: str
    command: list[str]
    kept: tuple[str, ...]
    again: tuple[str, ...] = ()
    inputs: Path | None = None
    processes: int = 1

    def argv(self, folder: Path, again: bool) -> list[str]:
        given = [*self.command, *(self.again if again else ())]
        return [argument.replace("FOLDER", str(folder)) for argument in given]

    def main(self, folder: Path, again: bool) -> Callable[[], None]:
        return lambda: cli.main(self.argv(folder, again))

    @contextlib.contextmanager
    def started(self, folder: Path) -> Iterator["Work"]:
        """What the command needs, for one run and its repetitions."""
        shutil.copytree(self.inputs, folder) if self.inputs else folder.mkdir()
        yield self

    def result(self, folder: Path) -> dict[str, str]:
        """Digests of the files."""
        files = sorted({file for pattern in self.kept for file in folder.glob(pattern) if file.is_file()})
        return {str(file.relative_to(folder)): hashlib.sha256(timeless(file)).hexdigest() for file in files}


@dataclass(frozen=True)
class PushWork(Work):
    """A push to a Hub that lives as long as the case."""

    hub: Hub | None = None

    def main(self, folder: Path, again: bool) -> Callable[[], None]:
        assert self.hub and self.inputs
        return lambda: push_to(self.hub, self.inputs)

    @contextlib.contextmanager
    def started(self, folder: Path) -> Iterator[Work]:
        with Hub() as hub:
            hub.delay = 0.02
            yield replace(self, hub=hub)

    def result(self, folder: Path) -> dict[str, str]:
        assert self.hub
        held = self.hub.files(REPO, kind="dataset") if ("dataset", REPO) in self.hub.repositories else {}
        return {path: hashlib.sha256(content).hexdigest() for path, content in held.items()}


def timeless(file: Path) -> bytes:
    """A file's bytes; of weights the tensors, and of a training's report what does not depend on the clock."""
    if file.suffix == ".safetensors":  # the order of its metadata changes from process to process
        tensors = {name: tensor.numpy() for name, tensor in load_file(file).items()}
        return b"".join(f"{name} {tensors[name].dtype}".encode() + tensors[name].tobytes() for name in sorted(tensors))
    if file.name != "training_report.json":
        return file.read_bytes()
    report = json.loads(file.read_text())
    return json.dumps({name: value for name, value in report.items() if name not in OF_THE_CLOCK}).encode()


# --- the commands ----------------------------------------------------------------------------------------------------


def works(inputs: Path) -> list[Work]:
    """Every command, with tiny inputs written to `inputs`."""
    torch.manual_seed(0)
    write_split(inputs / "data/train", 8, seed=1)
    write_split(inputs / "data/validation", 6, seed=2)
    parts = write_parts(inputs / "parts")
    AnimalLDMPipeline(**tiny_components(), classes=["lion", "zebra"]).save_pretrained(inputs / "model")
    save("blip", inputs / "blip-tiny")
    write_photos(inputs / "photos/zebra", 16, first_seed=0)
    write_photos(inputs / "photos/horse", 16, first_seed=100)
    small = ["--image_size", "32", "--workers", "1"]
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main(["prepare", str(inputs / "photos"), str(inputs / "prepared"), *small])
    make_dataset(inputs / "pushed")
    data = str(inputs / "data")
    both = [
        "--data",
        data,
        "--output_dir",
        "FOLDER/out",
        "--image_size",
        "16",
        "--batch_size",
        "8",
        "--num_epochs",
        "4",
    ]
    both += ["--learning_rate", "1e-3", "--num_warmup_steps", "2", "--validate_every", "24", "--checkpoint_every", "8"]
    both += ["--report_to", "none", "--cache_dir", "FOLDER/cache"]
    train = ["train", *both, "--vae", parts["vae"], "--text_encoder", "scratch", "--unet", parts["unet_scratch"]]
    train += ["--dropout", "0.1", "--samples_per_class", "1", "--num_inference_steps", "2"]
    train += ["--ema_snapshots_every", "16"]
    autoencoder = ["train-autoencoder", *both, "--preset", "tiny", "--perceptual_weight", "0"]
    autoencoder += ["--discriminator_start", "0.5"]
    evaluate = [
        "evaluate",
        str(inputs / "model"),
        "--data",
        data,
        "--out",
        "FOLDER/out",
        "--cache_dir",
        "FOLDER/cache",
    ]
    evaluate += ["-n", "24", "--steps", "2", "--batch_size", "4", "--workers", "0", "--device", "cpu"]
    evaluate += ["--extractor", "vae"]
    caption = ["caption", "FOLDER", "--model", str(inputs / "blip-tiny"), "--device", "cpu", "--batch_size", "2"]
    prepare = ["prepare", str(inputs / "photos"), "FOLDER/out", *small]
    weights = ("out/**/*.safetensors", "out/SHA256SUMS", "out/training_report.json")
    one = [
        Work("train", train, weights, again=("--resume",)),
        Work("train-autoencoder", autoencoder, weights, again=("--resume",)),
        Work("evaluate", evaluate, ("out/results.json", "out/samples/**/*")),
        Work("caption", [*caption, "--max_new_tokens", "8"], ("**/*",), inputs=inputs / "prepared"),
    ]
    return [
        *one,
        *(replace(work, name=f"{work.name}, two processes", processes=2) for work in one),
        Work("prepare", prepare, ("out/**/*",)),
        PushWork("push", [], (), inputs=inputs / "pushed"),
    ]


# --- running and killing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """A signal after so many seconds of processor time, to all processes or to one of them."""

    number: signal.Signals
    after: float
    rank: int | None = None


@dataclass
class Ended:
    codes: list[int | None]  # None: it hung
    output: str
    cpu: float  # seconds
    killed: bool = False


def run(work: Work, folder: Path, again: bool, kill: Kill | None = None) -> Ended:
    """Start the command, kill it if asked to, and wait until all its processes have ended."""
    with tempfile.TemporaryFile() as output:
        children = fork_several(work.main(folder, again), work.processes, output)
        ended = wait([psutil.Process(child) for child in children], kill)
        output.seek(0)
        ended.output = output.read().decode(errors="replace")
    return ended


def wait(processes: list[psutil.Process], kill: Kill | None) -> Ended:
    codes: dict[int, int] = {}
    cpu = dict.fromkeys((process.pid for process in processes), 0.0)
    ends, killed, lost, orders = time.monotonic() + LONGEST, False, 0.0, [*LAUNCHER]
    while len(codes) < len(processes) and time.monotonic() < ends:
        for process in processes:
            if process.pid in codes:
                continue
            times = process.cpu_times()
            cpu[process.pid] = times.user + times.system
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid] and not lost:
                    lost = time.monotonic()
                    ends = min(ends, lost + LONGEST_AFTER)
        if kill and not killed and not codes and sum(cpu.values()) >= kill.after:
            killed = True
            ends = time.monotonic() + LONGEST_AFTER
            for process in processes if kill.rank is None else [processes[kill.rank]]:
                process.send_signal(kill.number)
        if lost and orders and time.monotonic() > lost + orders[0][0]:
            _, order = orders.pop(0)
            for process in processes:
                if process.pid not in codes:
                    process.send_signal(order)
        time.sleep(0.005)
    for process in processes:
        if process.pid not in codes:
            process.kill()
            os.waitpid(process.pid, 0)
    return Ended([codes.get(process.pid) for process in processes], "", sum(cpu.values()), killed)


# --- what becomes of them --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A command that was killed once or twice."""

    work: Work
    kills: list[Kill]
    outcome: str
    output: str


def judge(ended: Ended, kill: Kill | None) -> str | None:
    """What is wrong with a run, if anything."""
    if None in ended.codes:
        return "hang"
    if "Traceback" in ended.output:
        return "traceback"
    if kill is None or not ended.killed:
        return None if set(ended.codes) == {0} else "wrong"
    by_signal = {signal.SIGINT: 130}.get(kill.number, -kill.number)
    by_launcher = {-order for _, order in LAUNCHER} if len(ended.codes) > 1 else set()
    refused = {code for code in ended.codes if code not in {0, by_signal, *by_launcher}}
    is_sentence = "error: " in ended.output and refused == {2}  # of a training that was stopped, or lost a process
    return None if not refused or is_sentence else "wrong"


def try_case(work: Work, expected: Ended, result: dict[str, str], draw: random.Random, folder: Path) -> Case:
    """Kill the work once or twice, let it end, and compare."""
    kills, outputs, outcome = [], [], None
    with work.started(folder) as started:
        again = False
        for _ in range(draw.choice([1, 1, 2])):
            rank = draw.choice([None, *range(work.processes)]) if work.processes > 1 else None
            kill = Kill(draw.choice(SIGNALS), draw.uniform(0.01, expected.cpu), rank)
            ended = run(started, folder, again, kill)
            outputs.append(f"{kill}: {ended.codes}\n{ended.output}")
            outcome = outcome or judge(ended, kill)
            again = True
            if not ended.killed:
                break
            kills.append(kill)
            if isinstance(started, PushWork) and len(started.result(folder)) not in (0, 1, len(result)):
                outcome = outcome or "wrong"  # half a dataset is published
        last = run(started, folder, again)
        outputs.append(f"to its end: {last.codes}\n{last.output}")
        outcome = outcome or judge(last, None)
        if not outcome:
            found = started.result(folder)
            differing = sorted(name for name in found.keys() | result.keys() if found.get(name) != result.get(name))
            outcome = "wrong" if differing else "right"
            outputs.append(f"differs: {differing}")
    shutil.rmtree(folder, ignore_errors=True)
    return Case(work, kills, outcome, "\n".join(outputs))


def cases(scratch: Path, number: int, seed: int = 0) -> Iterator[Case]:
    """Cases of every command in turn until `number` kills were made."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    undisturbed: list[tuple[Work, Ended, dict[str, str]]] = []
    for work in works(scratch / "inputs"):
        folder = scratch / "undisturbed"
        with work.started(folder) as started:
            ended = run(started, folder, again=False)
            if judge(ended, None):
                raise AssertionError(f"{work.name} fails by itself: {ended.codes}\n{ended.output}")
            undisturbed.append((work, ended, started.result(folder)))
        shutil.rmtree(folder, ignore_errors=True)
    made = place = 0
    while made < number:
        work, ended, result = undisturbed[place % len(undisturbed)]
        place += 1
        case = try_case(work, ended, result, draw, scratch / f"case-{place}")
        made += len(case.kills)
        yield case
