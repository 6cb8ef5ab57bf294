"""Starting a run from another's weights: those of its pipeline or, if it is not finished, of its newest checkpoint."""

# diffusers and transformers annotate configs too narrowly for a type checker.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..digest import weights_digest
from ..errors import InputError
from ..loading import load_component
from ..released import is_pipeline_folder, model_folder
from .checkpoints import checkpoint_paths, read_checkpoint
from .text import load_text_encoder


@dataclass(frozen=True)
class Fork:
    """The networks that a run starts from.

    Attributes:
        images_seen: by the run they come from; None if it left no report.
        text: tokenizer and text encoder, if asked for.
    """

    name: str
    images_seen: int | None
    unet: UNet2DConditionModel
    text: tuple[CLIPTokenizer, CLIPTextModel] | None

    def record(self) -> dict[str, Any]:
        """For the report of the new run."""
        networks = {"unet": self.unet} | ({"text_encoder": self.text[1]} if self.text else {})
        digests = {name: weights_digest(network) for name, network in networks.items()}
        return {"name": self.name, "images_seen": self.images_seen, "digests": digests}


class Configs:
    """What a checkpoint needs beside the weights so that another run can start from it."""

    def __init__(self, unet: UNet2DConditionModel, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel | None):
        self.unet, self.tokenizer, self.text_encoder = unet, tokenizer, text_encoder

    def state_dict(self) -> dict[str, Any]:
        return {
            "unet": json.dumps(dict(self.unet.config), default=str),
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "model_max_length": self.tokenizer.model_max_length,
            "text_encoder": self.text_encoder and self.text_encoder.config.to_json_string(use_diff=False),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """They follow from the arguments."""


def read_fork(name: str, with_text: bool) -> Fork:
    """The networks in the output folder of a run, finished or not, in a pipeline folder, or of an id on the Hub.

    Raises:
        InputError: there are none.
    """
    folder = Path(model_folder(name))
    if not is_pipeline_folder(folder) and (paths := checkpoint_paths(folder)):
        return _from_checkpoint(name, paths[-1], with_text)
    unet = load_component(UNet2DConditionModel, name, "unet")
    report, seen = folder / "training_report.json", None
    if report.is_file():
        seen = json.loads(report.read_text(encoding="utf-8")).get("images_seen")
    return Fork(name, seen, unet, load_text_encoder(name, ()) if with_text else None)


def _from_checkpoint(name: str, path: Path, with_text: bool) -> Fork:
    checkpoint = read_checkpoint(path)
    states, configs = checkpoint["states"], checkpoint["states"].get("configs")
    if not configs or (with_text and not configs["text_encoder"]):
        lacks = "the text encoder, which was frozen" if configs else "what an earlier version did not write"
        raise InputError(
            f"--fork {name} is the folder of a run that is not finished, and its checkpoints lack {lacks}. Finish the"
            " run first: with --resume and an --num_epochs that is over already, it writes its pipeline at once."
        )
    if len(states["model"]) != len(states["ema"]["average"]):
        raise InputError(f"--fork {name} is the folder of a LoRA. Start from the pipeline that it was trained on.")
    averages = dict(zip(states["model"], states["ema"]["average"], strict=True))
    unet = UNet2DConditionModel.from_config(json.loads(configs["unet"]))
    _load(unet, averages, "unet.")
    if not with_text:
        return Fork(name, checkpoint["images_seen"], unet, None)
    model = json.loads(configs["tokenizer"])["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=configs["model_max_length"])
    text_encoder = CLIPTextModel(CLIPTextConfig(**json.loads(configs["text_encoder"])))
    _load(text_encoder, averages, "text_encoder.")
    return Fork(name, checkpoint["images_seen"], unet, (tokenizer, text_encoder))


def _load(network: torch.nn.Module, averages: dict[str, torch.Tensor], prefix: str) -> None:
    own = {name.removeprefix(prefix): value for name, value in averages.items() if name.startswith(prefix)}
    network.load_state_dict(own)
