"""`animal-ldm run`: photos -> a measured model with its card, in the minutes there are."""

import contextlib
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import InputError, MachineError
from ..processes import launched
from .parsing import parse
from .trainers import show_progress


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """Do every step from photos to a model with its results and its card, in the time you have.

    The settings are chosen from the photos, this machine and the minutes, printed with the reason of each, and written
    to OUT/run.yaml, where you can change them. The same command goes on after an interruption; finished stages are not
    repeated. Nothing is downloaded, unless --hub or run.yaml says so.
    """

    # Photos to learn from, in any form that `animal-ldm prepare` takes. Nothing in it is changed.
    photos: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PHOTOS")]]
    # Folder to write: data/, autoencoder/, model/, evaluation/, published/, run.yaml, report.html, report.md,
    # run.log.
    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    # Minutes in all, while the command runs. Needed at the first start; later it changes the budget.
    minutes: float | None = None
    # Print the settings and the reason of each, and stop.
    dry_run: bool = False
    # Take the autoencoder, the text encoder and the networks that measure from the Hugging Face Hub and PyTorch.
    hub: bool = False
    # File with SqueezeNet 1.1's weights (safetensors), for LPIPS, alignment and the evaluation.
    squeezenet_weights: str | None = None
    # Publish the model on the Hub at the end, as user/name.
    push: str | None = None
    # Country of the machine: ISO code with three letters, such as FRA or USA, to measure energy and CO2.
    country: str | None = None
    # Side of the images in pixels. Default: from the size of the photos.
    image_size: int | None = None
    # The autoencoder: the included one as it is, the included one with its decoder tuned on the photos, or a new one.
    # Default: tuned where its share of the minutes suffices and SqueezeNet's weights are here, else kept.
    autoencoder_training: Literal["keep", "tune", "new"] | None = None
    # What to do where the photos or the settings of a finished stage have changed since it ran: say so and stop; redo
    # that stage and those after it; or keep what is there.
    changed: Literal["stop", "redo", "keep"] = "stop"

    def given(self) -> dict[str, object]:
        """Settings of `run.yaml` that the command line gives; None where it does not."""
        names = ("minutes", "push", "country", "image_size", "squeezenet_weights", "autoencoder_training")
        return {name: getattr(self, name) for name in names}


def check(arguments: RunArguments) -> None:
    """Raise an `InputError` for what can be told without the photos."""
    if arguments.minutes is not None and not arguments.minutes > 0:
        raise InputError(f"--minutes must be greater than 0, but is {arguments.minutes}.")
    if arguments.image_size is not None and (arguments.image_size < 32 or arguments.image_size % 32):
        raise InputError(f"--image_size must be a multiple of 32, but is {arguments.image_size}.")
    if launched() > 1:
        raise InputError(
            "`run` works in one process. For several, use the commands of each step with `accelerate launch`."
        )


def main(argv: list[str] | None = None) -> None:
    arguments = parse(RunArguments, argv, prog="animal-ldm run")
    check(arguments)
    from tqdm.contrib.logging import logging_redirect_tqdm

    from ..publishing.hub import HubError, check_access
    from ..publishing.request import Target
    from ..publishing.transport import connect
    from ..workflow.presets import Wishes
    from ..workflow.report import PAGE, next_steps, results_text, where_it_stands
    from ..workflow.run import LOG, execute, plan
    from ..workflow.verdict import verdict

    out = arguments.out
    wishes = Wishes(
        hub=arguments.hub,
        squeezenet_weights=arguments.squeezenet_weights,
        image_size=arguments.image_size,
        autoencoder_training=arguments.autoencoder_training,
    )
    planned = plan(arguments.photos, out, wishes, **arguments.given())
    print(planned.table())
    if arguments.dry_run:
        return
    show_progress()
    out.mkdir(parents=True, exist_ok=True)
    log = logging.FileHandler(out / LOG, encoding="utf-8")
    log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.handleError = lambda record: None  # on a full disk, the stage that stops says so
    logging.getLogger("animal_ldm").addHandler(log)
    try:
        if planned.settings.push:  # a missing token is better known now than at the end
            check_access(Target(planned.settings.push), connect(), print)
        with logging_redirect_tqdm():
            state = execute(planned, out, arguments.changed)
    except (KeyboardInterrupt, OSError, MachineError):
        print(f"\n{where_it_stands(out)}", file=sys.stderr)
        raise
    except HubError as error:
        print(f"error: {error}\n{where_it_stands(out)}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        with contextlib.suppress(OSError):
            log.close()
        logging.getLogger("animal_ldm").removeHandler(log)
    print(f"\n{results_text(out, state)}\n")
    for line in verdict(planned.settings, state, out):
        print(f"- {line}")
    print(f"\n{state.seconds / 60:.1f} of {planned.settings.minutes:g} minutes. Report: {out / PAGE}\n")
    print(next_steps(planned.settings, out))
