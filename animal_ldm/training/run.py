"""What both trainers share: accelerator, gradient accumulation, progress in images, checkpoints, logs and report."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, broadcast_object_list, gather_object, parse_flag_from_env
from diffusers.optimization import get_scheduler
from PIL import Image
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..environment import hardware, library_versions
from ..errors import InputError
from ..files import whole_file, without_nan, write_json
from ..processes import connected
from .arguments import RunArguments
from .checkpoints import check_same_checkpoint, checkpoint_paths, load_checkpoint, prepare_output_dir, save_checkpoint
from .cost import Meter
from .execution import Execution, begin_on, bf16_speedup, compiles, obstacle_to_compiling
from .kinds import Kind, arguments_of
from .pace import Length, Pace, adjusted, length_in
from .page import write_page
from .stream import own_rows
from .trackers import start_trackers, track_image

logger = logging.getLogger(__name__)

# Batches over which the logged training loss is averaged.
LOG_EVERY = 50

# Steps of a run with --max_minutes until its length is known: it does not end before, and its schedule stands still.
UNKNOWN_LENGTH = 10**12

LIBRARIES = (
    "animal-ldm", "torch", "diffusers", "transformers", "accelerate", "datasets", "safetensors", "codecarbon", "lpips"
)  # fmt: skip

DATA_DIGEST_NOTE = (
    "SHA-256 over file name and SHA-256 of every training photo, in order; captions are not included "
    "(animal_ldm.data.prepared.PreparedSplit.fingerprint)"
)


def start_accelerator(arguments: RunArguments) -> tuple[Accelerator, Execution]:
    """Accelerator, whose trackers are to write below `output_dir`; and what suits its device.

    Raises:
        InputError: `output_dir` holds another run, the batch cannot be split evenly, or the launcher is configured to
            split the weights among processes.
    """
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise InputError(
                f"The configuration of accelerate asks for {name}, which splits the weights among processes; a"
                " checkpoint needs them whole, and these models fit on one GPU. Choose MULTI_GPU or MULTI_CPU in"
                " `accelerate config`."
            )
    prepare_output_dir(arguments.output_dir, arguments.resume)
    trackers: Any = [name for name in arguments.report_to.split(",") if name not in ("", "none")]
    device: Any = connected().device
    execution = begin_on(device, arguments.mixed_precision)
    folders = ProjectConfiguration(arguments.output_dir, logging_dir=f"{arguments.output_dir}/logs")
    accelerator = Accelerator(
        mixed_precision=execution.mixed_precision, log_with=trackers or None, project_config=folders
    )
    pieces = accelerator.num_processes * arguments.gradient_accumulation_steps
    if arguments.batch_size % pieces:
        raise InputError(
            f"--batch_size must be a multiple of {pieces} ({accelerator.num_processes} processes x "
            f"{arguments.gradient_accumulation_steps} accumulation steps), but is {arguments.batch_size}."
        )
    return accelerator, execution


def learning_rate_schedule(
    optimizer: torch.optim.Optimizer, arguments: RunArguments, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up over `num_warmup_steps`, then constant or cosine. Step it once per optimizer step."""
    return LambdaLR(optimizer, learning_rate_factor(arguments, total_steps))


def learning_rate_factor(arguments: RunArguments, total_steps: int) -> Callable[[int], float]:
    """What the peak learning rate is multiplied by at each step. With --max_minutes, a tenth of the run is warm-up at
    most: the length was not known when `num_warmup_steps` was chosen."""
    warmup = arguments.num_warmup_steps
    schedule = get_scheduler(
        "constant_with_warmup" if arguments.lr_schedule == "constant" else "cosine",
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))]),  # any optimizer: only the schedule's function is used
        num_warmup_steps=warmup if arguments.max_minutes is None else min(warmup, total_steps // 10),
        num_training_steps=total_steps,
    )
    return schedule.lr_lambdas[0]


def rows_of(accelerator: Accelerator, arguments: RunArguments) -> np.ndarray:
    """Rows of each global batch that this process trains on, int64 `(accumulation steps, B)`."""
    parts = arguments.gradient_accumulation_steps
    return own_rows(arguments.batch_size, parts, accelerator.process_index, accelerator.num_processes)


def accumulate(accelerator: Accelerator, model: torch.nn.Module, arguments: RunArguments) -> Iterator[slice]:
    """Yield slices of this process's rows of the batch, one per accumulation step.

    The caller runs a forward and a backward pass on each; processes exchange the gradients of `model` with the last.
    """
    parts = arguments.gradient_accumulation_steps
    size = arguments.batch_size // (parts * accelerator.num_processes)
    for part in range(1, parts + 1):
        with contextlib.nullcontext() if part == parts else accelerator.no_sync(model):
            yield slice((part - 1) * size, part * size)


def own_groups(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state to load, with the settings that the optimizer was made with.

    They come before the state: where its counters belong depends on whether the optimizer is fused.
    """
    own = [{**group} for group in optimizer.param_groups]
    groups = [{**group, "params": stored["params"]} for group, stored in zip(own, state["param_groups"], strict=True)]
    return {**state, "param_groups": groups}


@contextlib.contextmanager
def own_settings(parts: Iterable[Any]) -> Iterator[None]:
    """Optimizers and schedules that load their state within this context keep the settings they were made with."""
    parts = list(parts)
    optimizers = [getattr(part, "optimizer", part) for part in parts if hasattr(part, "param_groups")]
    hooks = [optimizer.register_load_state_dict_pre_hook(own_groups) for optimizer in optimizers]
    schedules = [(part, part.base_lrs) for part in parts if isinstance(part, LambdaLR)]
    yield
    for hook in hooks:
        hook.remove()
    for schedule, base_lrs in schedules:
        schedule.base_lrs = base_lrs
        rates = zip(schedule.optimizer.param_groups, base_lrs, schedule.lr_lambdas, strict=True)
        for group, base_lr, factor in rates:
            group["lr"] = base_lr * factor(schedule.last_epoch)


class Run:
    """One training run, its progress counted in images.

    Args:
        identity: digests of what the run is made of, by name: that of the argument (of kind `CONTENT`) that stands
            for it, or `argument.part`. The run can only be resumed with the same.
        photos: in the training split. The length of the run is rounded up to whole batches.
        execution: what suits the device, from `start_accelerator`. The run's own also says whether its steps are
            compiled, for which its length has to be known.
        late_from: share of the run after which `late` holds.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        arguments: RunArguments,
        identity: dict[str, Any],
        photos: int,
        execution: Execution,
        late_from: float = 1.0,
    ):
        self.accelerator = accelerator
        self.arguments = arguments = replace(arguments, mixed_precision=execution.mixed_precision)
        self.output_dir = Path(arguments.output_dir)
        self.batch_size = arguments.batch_size
        self.identity = {**identity, **arguments_of(arguments, Kind.IDENTITY)}
        self.photos, self.late_from = photos, late_from
        self.length: Length | None = None  # of a run with --max_minutes, once it is known
        self.pace: Pace | None = None  # measures it
        self.adjusts = arguments.max_minutes is not None and arguments.adjust_length
        if arguments.max_minutes is None:
            self.total_steps = max(1, -(-round(arguments.num_epochs * photos) // self.batch_size))
        else:
            self.total_steps, self.pace = UNKNOWN_LENGTH, Pace(arguments.max_minutes, 1 - late_from)
        self.execution = replace(execution, compiled=self._compiles(execution.device))
        if accelerator.is_main_process:
            self._say_execution()
        if accelerator.log_with:
            start_trackers(accelerator, arguments)
        self.images_seen = 0
        self.history: list[dict[str, float]] = []
        # {argument: [{"images_seen": when it applied first, "value": …}, …]}, of the free ones that were changed
        self.argument_history: dict[str, list[dict[str, Any]]] = {}
        self.stored_arguments: dict[str, Any] = {}
        # one on every machine
        metered = arguments.country if accelerator.is_local_main_process else None
        self.meter = Meter(metered, accelerator.num_processes)
        self.losses: dict[str, list[torch.Tensor]] = {}
        self.bar = tqdm(disable=True)
        self.shown: dict[str, str] = {}  # beside the bar
        self.parts: dict[str, Any] = {}

    def _say_execution(self) -> None:
        logger.info("%s", self.execution)
        if self.execution.mixed_precision == "bf16" and 0 < (speedup := bf16_speedup(self.accelerator.device)) < 1:
            logger.warning(
                "A convolution takes %.1f times as long in bf16 as in float32 here. Pass --mixed_precision no.",
                1 / speedup,
            )

    def _compiles(self, device: str) -> bool:
        """Whether the step is compiled.

        Raises:
            InputError: it is to be, and cannot.
        """
        choice = self.arguments.compile
        if not compiles(choice, device, self.total_steps, self.arguments.max_minutes):
            return False
        obstacle = obstacle_to_compiling(self.accelerator.device)
        if obstacle and choice == "yes":
            raise InputError(
                f"--compile yes: torch.compile does not work here ({obstacle}). It needs a C++ compiler, and Triton on"
                " a GPU. --compile no trains without it, more slowly."
            )
        if obstacle:
            logger.warning("The network is not compiled, because torch.compile does not work here: %s", obstacle)
        return not obstacle

    def resume(self, **parts: Any) -> None:
        """Name everything that has a state, and load it from the newest checkpoint with --resume."""
        self.parts = {**parts, "meter": self.meter, "run": self}
        if self.accelerator.scaler is not None:
            self.parts["scaler"] = self.accelerator.scaler
        if self.arguments.resume:
            newest = [path.name for path in checkpoint_paths(self.output_dir)[-1:]] or ["none"]
            check_same_checkpoint(self.output_dir, gather_object(newest))
            with own_settings(self.parts.values()):
                self.images_seen = load_checkpoint(self.output_dir, self.identity, self.parts)
            self._announce_changes()

    def _announce_changes(self) -> None:
        """Note the free arguments that have other values than in the checkpoint."""
        for name, value in arguments_of(self.arguments, Kind.FREE).items():
            stored = self.stored_arguments.get(name, value)  # a new argument of this version was not there
            if stored == value:
                continue
            entries = self.argument_history.setdefault(name, [{"images_seen": 0, "value": stored}])
            entries.append({"images_seen": self.images_seen, "value": value})
            if self.accelerator.is_main_process:
                logger.info("From image %d on: --%s %s (before: %s)", self.images_seen, name, value, stored)

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "arguments": arguments_of(self.arguments, Kind.FREE),
            "argument_history": self.argument_history,
            "length": self.length and asdict(self.length),
            "losses": {name: torch.stack(losses).cpu() for name, losses in self.losses.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = state["history"]
        # checkpoints of earlier versions lack these
        self.stored_arguments = state.get("arguments", {})
        self.argument_history = state.get("argument_history", {})
        device = self.accelerator.device
        self.losses = {name: [*losses.to(device)] for name, losses in state.get("losses", {}).items()}
        if self.pace is not None and (length := state.get("length")):
            self._fix(Length(**length))

    @property
    def total_images(self) -> int:
        return self.total_steps * self.batch_size

    @property
    def late(self) -> bool:
        """Whether the next step is beyond `late_from` of the run, or is to be timed as such a step."""
        return self.pace.late if self.pace else self.images_seen >= self.late_from * self.total_images

    def _fix(self, length: Length) -> None:
        """Give the run its length. From here on nothing depends on time."""
        self.length, self.total_steps, self.pace = length, length.steps, None
        schedule: LambdaLR = self.parts["lr_scheduler"]
        schedule.lr_lambdas = [learning_rate_factor(self.arguments, length.steps)] * len(schedule.base_lrs)
        self.bar.total = self.total_images

    def _time(self, seconds: float) -> None:
        """Take the time of the last step; fix the length of the run when enough are timed. All processes call it."""
        assert self.pace is not None
        elapsed = time.perf_counter() - self.meter.start_counter
        seconds, elapsed = broadcast_object_list([seconds, elapsed])  # the main process decides for all
        self.pace.add(seconds)
        if length := self.pace.length(self.images_seen // self.batch_size, elapsed):
            self._fix(length)
            if self.accelerator.is_main_process:
                logger.info(
                    "%.3f s per batch: %s images in %g minutes, %.3g passes over the photos",
                    length.step_seconds,
                    f"{self.total_images:,}",
                    self.arguments.max_minutes,
                    self.total_images / self.photos,
                )

    def _adjust(self, length: Length, since: tuple[int, float] | None = None) -> None:
        """Correct the length, so that the run ends in time. All processes call it.

        Args:
            since: steps done, and `time.perf_counter()` then, from where on the speed is that of now; None for a run
                that was just resumed, maybe with other minutes.
        """
        steps, now = self.images_seen // self.batch_size, time.perf_counter()
        left = 60 * (self.arguments.max_minutes or 0.0) - (now - self.meter.start_counter)
        speed = since and (now - since[1]) / (steps - since[0])
        left, speed = broadcast_object_list([left, speed])  # the main process decides for all
        if speed is None:
            self._fix(length_in(left, steps, length.step_seconds, length.break_seconds))
        else:
            self._fix(adjusted(length, steps, left, speed))

    def steps(self) -> Iterator[int]:
        """Yield `images_seen` at the start of each step; the caller trains on a batch, then calls `advance()`."""
        self.bar = tqdm(
            total=None if self.pace else self.total_images, initial=self.images_seen, unit="img", smoothing=0.05,
            dynamic_ncols=True, disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        if self.adjusts and self.length is not None:
            self._adjust(self.length)
        begun: tuple[int, float] | None = None  # the first step that counts for the speed, and when it began
        with self.bar, logging_redirect_tqdm():
            while self.images_seen < self.total_images:
                start = time.perf_counter()
                if begun is None and self.length is not None:
                    begun = (self.images_seen // self.batch_size, start)
                yield self.images_seen
                if self.adjusts and self.length and not self.done and self.due(self.arguments.validate_every):
                    self._adjust(self.length, begun)
                    begun = None
                if self.pace is not None:
                    if self.accelerator.device.type != "cpu":
                        torch.accelerator.synchronize()
                    self._time(time.perf_counter() - start)

    def advance(self) -> None:
        """Count the batch just trained on."""
        self.images_seen += self.batch_size
        self.meter.images_seen = self.images_seen
        self.bar.update(self.batch_size)

    @property
    def done(self) -> bool:
        return self.images_seen >= self.total_images

    def due(self, every: int) -> bool:
        """Whether the last batch crossed a multiple of `every` images, or ended the run.

        A run with --max_minutes has at least the breaks of its length, and one that is timed before.
        """
        if self.pace is not None:
            return self.pace.at_break
        if self.length is not None:
            every = min(every, self.length.spacing * self.batch_size)
        return self.done or self.images_seen // every > (self.images_seen - self.batch_size) // every

    def track_loss(self, name: str, loss: torch.Tensor) -> None:
        """Note this process's `loss` of the batch; every `LOG_EVERY` batches its mean goes to the bar and the logs."""
        self.losses.setdefault(name, []).append(loss)
        if len(self.losses[name]) == LOG_EVERY or self.done:
            reduced: Any = self.accelerator.reduce(torch.stack(self.losses.pop(name)).mean(), "mean")
            mean = reduced.item()
            self.shown[name] = f"{mean:.4f}"
            self.bar.set_postfix(self.shown)
            self.log({name: mean})

    def announce(self, values: dict[str, float]) -> None:
        """Log `values`, and show them."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self.accelerator.is_main_process:
            logger.info("%d images: %s", self.images_seen, figures)
        self.log(values)

    def log(self, values: dict[str, float]) -> None:
        """Keep `values` in the history and send them to the trackers."""
        self.history.append({"images_seen": self.images_seen, **values})
        self.accelerator.log(values, step=self.images_seen)

    def values(self, name: str, of: Sequence[str] = ()) -> list[float]:
        """Everything logged under `name` so far, or since one of the arguments `of` was changed."""
        changed = max(
            (self.argument_history[other][-1]["images_seen"] for other in of if other in self.argument_history),
            default=-1,
        )
        return [entry[name] for entry in self.history if name in entry and entry["images_seen"] > changed]

    def log_image(self, name: str, image: Image.Image) -> None:
        """The main process writes `image` to `samples/<name>-<images_seen>.png`, and to the trackers."""
        if not self.accelerator.is_main_process:
            return
        with whole_file(self.output_dir / "samples" / f"{name}-{self.images_seen:010d}.png") as partial:
            image.save(partial)
        track_image(self.accelerator, name, image, self.images_seen)

    def checkpoint(self) -> None:
        # the main process writes, so it must know the losses of all, and the energy of all machines
        self.meter.gather(self.accelerator.process_index)
        self.losses = {
            name: [*self.accelerator.reduce(torch.stack(losses), "mean")]  # pyright: ignore[reportArgumentType]
            for name, losses in self.losses.items()
        }
        if self.accelerator.is_main_process:
            keep = self.arguments.checkpoints_total_limit
            save_checkpoint(self.output_dir, self.images_seen, self.identity, self.parts, keep)
        self.accelerator.wait_for_everyone()

    def report(self, **results: Any) -> dict[str, Any]:
        """The run so far, as `training_report.json` has it: arguments, identity, cost, history, machine, versions."""
        measured = {"num_epochs": self.total_images / self.photos} if self.length else {}
        return without_nan(
            {
                "arguments": self.arguments.record() | measured,
                "argument_history": self.argument_history,
                "identity": self.identity,
                "images_seen": self.images_seen,
                **({"length": asdict(self.length)} if self.length else {}),
                **results,
                **self.meter.report(),
                "hardware": {**hardware(), "processes": self.accelerator.num_processes},
                "execution": asdict(self.execution),
                "versions": library_versions(*LIBRARIES),
                "history": self.history,
            }
        )

    def write_page(self, **results: Any) -> None:
        """The main process writes `training.html`; `results` are further parts of the report that it shows."""
        if self.accelerator.is_main_process:
            write_page(self.report(**results), None if self.pace else self.total_images, self.output_dir)

    def write_report(self, folder: Path, digest_notes: dict[str, str], **results: Any) -> None:
        """Write `training_report.json` into `folder`, and into `output_dir` also `training.html`.

        Args:
            digest_notes: what the digests in the report are computed over.
        """
        report = self.report(**results, digest_notes={"identity.data": DATA_DIGEST_NOTE, **digest_notes})
        write_json(folder / "training_report.json", report)
        if folder == self.output_dir:
            write_page(report, self.total_images, self.output_dir)
