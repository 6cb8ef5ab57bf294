"""`animal-ldm ema`: a finished run with snapshots -> its pipeline with averaged weights of another length."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import InputError
from .parsing import parse


@dataclass(frozen=True, kw_only=True)
class EMAArguments:
    """Reconstruct the averaged weights of any length from a run's snapshots (post-hoc EMA, arXiv 2312.02696).

    The run must have been trained with --ema_snapshots_every. Writes a pipeline folder with a training report.
    """

    # Output folder of a finished `animal-ldm train`.
    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    # Length of the average: the standard deviation of its weights, as a fraction of the training. Useful values are
    # from 0.02 to 0.25.
    sigma_rel: float
    # Folder for the pipeline.
    out: Path
    # Average up to this many photos. Default: up to the last snapshot.
    images_seen: int | None = None
    # Number type of the saved UNet and autoencoder. They load as float32 by default either way.
    save_dtype: Literal["float32", "float16"] = "float32"


def check(arguments: EMAArguments) -> None:
    """Raise an `InputError` for what can be told without the run."""
    check_sigma_rel(arguments.sigma_rel)
    if arguments.out.resolve() == arguments.run.resolve():
        raise InputError(f"--out must be another folder than the run, {arguments.run}.")


def check_sigma_rel(sigma_rel: float) -> None:
    if not 0 < sigma_rel <= 0.28:
        raise InputError(f"--sigma_rel must be above 0 and at most 0.28, but is {sigma_rel:g}.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse(EMAArguments, argv, prog="animal-ldm ema")
    check(arguments)
    from ..training.ema import write_averaged_pipeline

    found = write_averaged_pipeline(
        arguments.run, arguments.out, arguments.sigma_rel, arguments.images_seen, arguments.save_dtype
    )
    print(
        f"pipeline: {arguments.out}, from {len(found.weights)} snapshots; the profile of the average is off by "
        f"{found.error:.2%}"
    )
