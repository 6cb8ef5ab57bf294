"""`animal-ldm caption`: captions by a model for the photos of a prepared dataset."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..data.reading import shown
from ..data.settings import CaptioningSettings
from ..errors import InputError
from .parsing import parse

if TYPE_CHECKING:
    from ..data.captioning import CaptioningResult


@dataclass(frozen=True, kw_only=True)
class CaptionArguments(CaptioningSettings):
    """Let a model describe the photos of a prepared dataset.

    The captions are added to the templates; photos with captions of your own are left as they are. Captions that a
    model wrote earlier are replaced. If it is interrupted, run the same command again to resume. Several processes:
    `accelerate launch -m animal_ldm caption …`.
    """

    # Prepared dataset, as `animal-ldm prepare` writes it. Its metadata (metadata.jsonl or shards), report and
    # card are updated.
    data: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DATA")]]
    # Captioner: a local folder or the id of a model on the Hub, of a type that `transformers` loads as image-text-to-
    # text, such as BLIP, BLIP-2, GIT, Florence-2, SmolVLM or Qwen-VL. It is never allowed to run code of its own.
    model: str = "Salesforce/blip-image-captioning-base"
    # Branch, tag or commit of the model on the Hub. Default: the newest.
    revision: str | None = None
    # Photos captioned at a time, per process: more are faster and take more memory.
    batch_size: int = 8
    # Device to run on, such as cpu, cuda or mps; auto is the accelerator if there is one.
    device: str = "auto"

    def check(self) -> None:
        super().check()
        if self.batch_size < 1:
            raise InputError(f"--batch_size must be at least 1, but is {self.batch_size}.")

    def settings(self) -> CaptioningSettings:
        """The arguments that decide the captions, beside the model."""
        return CaptioningSettings(**{f.name: getattr(self, f.name) for f in fields(CaptioningSettings)})


def main(argv: list[str] | None = None) -> None:
    arguments = parse(CaptionArguments, argv, prog="animal-ldm caption")
    arguments.check()
    from ..data.captioning import ModelChoice, caption_dataset

    choice = ModelChoice(arguments.model, arguments.revision, arguments.device)
    result = caption_dataset(arguments.data, choice, arguments.settings(), arguments.batch_size)
    if result is not None:  # in the main process alone
        print_summary(result, arguments.data)


def print_summary(result: "CaptioningResult", data: Path) -> None:
    captioner = result.captioner
    done = "already have" if result.unchanged else "got"
    print(
        f"{shown(data)}: {captioner.photos} photos {done} {captioner.captions} captions by {shown(captioner.name)} "
        f"(revision {captioner.revision})"
    )
    if result.left_out:
        print(f"  {result.left_out} photos with captions of your own are as they were; --add_to_own captions them too")
    if result.with_class_added:
        print(f"  {result.with_class_added} captions lacked the class name and got it")
