"""`animal-ldm doctor`: what this machine can do, and what to install."""

from dataclasses import dataclass
from pathlib import Path

from .parsing import parse


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Say what this machine can do: device, memory, disk, bf16, speed of a training step of each UNet, network, token,
    versions, and what to install. It changes nothing."""

    # Folder whose disk is looked at: where the results would go.
    out: Path = Path(".")
    # Time a training step of each UNet, which takes up to a minute.
    speed: bool = True


def main(argv: list[str] | None = None) -> None:
    arguments = parse(DoctorArguments, argv, prog="animal-ldm doctor")
    from ..workflow.doctor import examine

    for finding in examine(arguments.out, arguments.speed):
        print(f"{finding.name:<21} {finding.value}", flush=True)
        if finding.advice:
            print(f"{'':<21} {finding.advice}")
