"""Checks of model folders that come from outside, before anything in them is built and before memory is taken.

Only five kinds of components are known, with configurations within limits and weights in safetensors format. Nothing
in a folder is executed. Every refusal is one sentence of an `InputError`.
"""

# diffusers annotates configs too narrowly for a type checker.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextConfig, CLIPTextModel

from .errors import InputError
from .files import first_line, read_regular, why


@dataclass(frozen=True)
class ComponentKind:
    """A component that a model may have.

    Attributes:
        config: its configuration's file.
        classes: it may be one of, as "library.class".
        stem: its weights' file without `.safetensors`; None has no weights.
    """

    config: str
    classes: frozenset[str]
    stem: str | None


SCHEDULERS = frozenset(f"diffusers.{scheduler.name}" for scheduler in KarrasDiffusionSchedulers)
KINDS = {
    "scheduler": ComponentKind("scheduler_config.json", SCHEDULERS, None),
    "text_encoder": ComponentKind("config.json", frozenset({"transformers.CLIPTextModel"}), "model"),
    "tokenizer": ComponentKind(
        "tokenizer_config.json", frozenset({"transformers.CLIPTokenizer", "transformers.CLIPTokenizerFast"}), None
    ),
    "unet": ComponentKind(
        "config.json", frozenset({"diffusers.UNet2DConditionModel"}), "diffusion_pytorch_model"
    ),
    "vae": ComponentKind("config.json", frozenset({"diffusers.AutoencoderKL"}), "diffusion_pytorch_model"),
}  # fmt: skip

# Names of pipelines in `model_index.json`; as [file, name], it would name code of the folder.
PIPELINES = ("AnimalLDMPipeline", "StableDiffusionPipeline")

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")

CONFIG_BYTES = 1 << 20
VOCABULARY_BYTES = 64 << 20

# Largest numbers in a configuration, by name; those that are not named are at most `LARGEST`.
LARGEST = 1_000_000
LIMITS = {
    "block_out_channels": 16_384,
    "layers_per_block": 8,
    "max_position_embeddings": 4096,
    "model_max_length": 4096,
    "num_hidden_layers": 64,
    "num_train_timesteps": 100_000,
    "sample_size": 4096,
    "transformer_layers_per_block": 16,
}
LISTS = {"trained_betas": 100_000, "_use_default_values": 1000}
LONGEST_LIST = 16

# Settings that make a library import or fetch code: of other classes, kernels, quantisers and adapters.
FOREIGN_SETTINGS = (
    "_attn_implementation", "_attn_implementation_internal", "attn_implementation", "auto_map", "custom_pipelines",
    "experts_implementation", "quantization_config", "use_kernels",
)  # fmt: skip
FOREIGN_FILES = ("adapter_config.json",)

# Parts of a whole CLIP beside its text encoder, and buffers of earlier versions.
NOT_TEXT = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")

# Names that diffusers gave the layers of attention before version 0.13; it still reads them.
FORMER_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


# --- pipelines -------------------------------------------------------------------------------------------------------


def check_pipeline(folder: Path) -> None:
    """Raise an `InputError` unless `folder` holds a pipeline of known components that fit each other."""
    index = read_config(folder / "model_index.json")
    name = index.get("_class_name")
    if name not in PIPELINES:
        raise InputError(f"{folder} must hold one of {', '.join(PIPELINES)}, but its model_index.json names {name!r}.")
    for part, entry in index.items():
        if isinstance(entry, list) and entry != [None, None]:
            _check_entry(folder, part, entry)
    if missing := [part for part in KINDS if index.get(part) in (None, [None, None])]:
        raise InputError(f"The model_index.json in {folder} lacks {', '.join(missing)}.")
    _check_classes(folder, index.get("classes"))
    if not isinstance(index.get("vocabulary"), str | None):
        raise InputError(f"`vocabulary` in {folder}/model_index.json must be words with spaces between them.")
    networks = {part: check_component(folder / part, part) for part in KINDS}
    _check_fit(folder, **networks)


def _check_entry(folder: Path, part: str, entry: list) -> None:
    found = ".".join(map(str, entry))
    if part not in KINDS:
        raise InputError(f"The model_index.json in {folder} names a component {part!r} ({found}), which is not known.")
    if found not in KINDS[part].classes:
        expected = " or ".join(sorted(KINDS[part].classes)) if part != "scheduler" else "a scheduler of diffusers"
        raise InputError(f"The {part} in {folder} must be {expected}, but is {found}.")


def _check_classes(folder: Path, classes: Any) -> None:
    numbers = classes.values() if isinstance(classes, dict) else ()
    texts = classes.keys() if isinstance(classes, dict) else classes or ()
    well_formed = classes is None or isinstance(classes, dict | list)
    if not well_formed or len(texts) > 100_000 or not all(type(number) is int for number in numbers):
        raise InputError(f"`classes` in {folder}/model_index.json must be names with numbers, but is {classes!r:.80}.")
    if not all(isinstance(text, str) and len(text) <= 1000 for text in texts):
        raise InputError(f"`classes` in {folder}/model_index.json must hold names of at most 1000 letters.")


def _check_fit(folder: Path, scheduler: None, text_encoder: Any, tokenizer: "Vocabulary", unet: Any, vae: Any) -> None:
    """Raise an `InputError` for sizes that do not fit: they would end in an error in the middle of sampling."""
    text = text_encoder.config
    pairs = (
        ("tokens of a prompt (model_max_length)", tokenizer.length, "positions of the text encoder",
         text.max_position_embeddings),
        ("largest number of a token", tokenizer.largest, "vocab_size of the text encoder - 1", text.vocab_size - 1),
    )  # fmt: skip
    for name, number, limit_name, limit in pairs:
        if number > limit:
            raise InputError(f"In {folder}, the {name} is {number}; it must be at most {limit}, the {limit_name}.")
    config = unet.config
    expected = {
        "in_channels": vae.config.latent_channels,
        "out_channels": vae.config.latent_channels,
        "cross_attention_dim": text.hidden_size,
    }
    # inputs that the pipeline does not have
    expected |= dict.fromkeys(("class_embed_type", "encoder_hid_dim", "num_class_embeds"))
    for name, value in expected.items():
        if config.get(name) != value:
            raise InputError(
                f"In {folder}, {name} of the UNet must be {value} to fit the other components, but is"
                f" {config.get(name)!r:.40}."
            )
    if config.get("addition_embed_type") not in (None, "text"):
        raise InputError(f"In {folder}, addition_embed_type of the UNet must be text or null.")


# --- components ------------------------------------------------------------------------------------------------------


def check_component(folder: Path, part: str) -> Any:
    """Raise an `InputError` unless `folder` holds a component that can be loaded.

    Args:
        part: a key of `KINDS`.

    Returns:
        A network without memory for its weights (on the meta device); of a tokenizer, its `Vocabulary`.
    """
    kind = KINDS[part]
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLES and file.name != "training_args.bin":
            raise InputError(
                f"{file} is a pickle, which can run code when it is loaded. Only safetensors are read: delete it, or"
                " save the model with `save_pretrained(…, safe_serialization=True)`."
            )
        if file.name in FOREIGN_FILES:
            raise InputError(f"{file} names weights elsewhere. Merge them into the model, then delete the file.")
        if not file.is_file() and not file.is_dir():
            raise InputError(f"{file} must be a regular file, but is a pipe, a device or a dangling link.")
        # the weights of a text encoder may lie beside its tokenizer, as in openai/clip-vit-large-patch14
        beside = file.suffix == ".safetensors"
        if part == "tokenizer" and not beside and file.stat().st_size > VOCABULARY_BYTES:
            raise InputError(f"{file} has more than {VOCABULARY_BYTES >> 20} MiB, which no tokenizer needs.")
    config_file = folder / kind.config
    if kind.stem is not None:
        network = described_network(config_file, part)
        check_weights(folder, kind.stem, network)
        return network
    config = read_config(config_file) if part == "scheduler" or config_file.exists() else {}
    return _check_tokenizer(folder, config) if part == "tokenizer" else _check_scheduler(folder, config)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object whose numbers and lists are within limits and which asks for no foreign code.

    Raises:
        InputError: it is not.
    """
    config = _read_object(path, CONFIG_BYTES)
    for name, value in _settings(config):
        if name in FOREIGN_SETTINGS and value is not None:
            raise InputError(f"{path} sets {name}, which can load code. Delete this line if you trust the model.")
        if isinstance(value, list) and len(value) > LISTS.get(name, LONGEST_LIST) and name != "classes":
            raise InputError(f"{name} in {path} has {len(value):,} entries, more than {LONGEST_LIST}.")
        limit = LIMITS.get(name, LARGEST)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and not isinstance(number, bool) and not -LARGEST <= number <= limit:
                raise InputError(f"{name} in {path} must be at most {limit:,}, but is {number!r:.40}.")
            if name in LIMITS and isinstance(number, int | float) and not (isinstance(number, int) and number > 0):
                raise InputError(f"{name} in {path} must be a number from 1 to {limit:,}, but is {number!r:.40}.")
    return config


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All names with their values, also of objects within objects."""
    for name, value in config.items():
        yield name, value
        if isinstance(value, dict):
            yield from _settings(value)


def _read_object(path: Path, limit: int) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path, limit))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({why(error)}); copy the folder again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, but holds {type(content).__name__}.")
    return content


def described_network(path: Path, part: str) -> Any:
    """The network that a configuration describes, without memory for its weights.

    Args:
        part: unet, vae or text_encoder.

    Raises:
        InputError: it describes none, or one beyond the limits.
    """
    config = read_config(path)
    try:
        with torch.device("meta"):
            if part == "text_encoder":
                return CLIPTextModel(CLIPTextConfig.from_dict(config.get("text_config") or config)).eval()
            network: Any = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
            known = inspect.signature(network.__init__).parameters
            network = network(**{name: value for name, value in config.items() if name in known}).eval()
    except Exception as error:  # whatever a library raises for a configuration that makes no sense
        raise InputError(f"{path} does not describe a {part}: {_reason(error)}.") from error
    if part == "unet":
        _check_heads(path, config)
    return network


def _check_heads(path: Path, config: dict[str, Any]) -> None:
    """Heads that do not divide the channels make a UNet of other sizes than it says, without an error."""
    channels = config.get("block_out_channels") or ()
    heads = config.get("num_attention_heads") or config.get("attention_head_dim") or 1
    heads = heads if isinstance(heads, list) else [heads] * len(channels)
    for width, number in zip(channels, heads, strict=False):
        if number and width % number:
            raise InputError(f"{path}: {number} heads do not divide {width} channels.")


def _check_scheduler(folder: Path, config: dict[str, Any]) -> None:
    known = ("epsilon", "v_prediction", "sample", "flow_prediction")
    if (predicts := config.get("prediction_type", "epsilon")) not in known:
        raise InputError(f"prediction_type in {folder} must be one of {', '.join(known)}, but is {predicts!r}.")


@dataclass(frozen=True)
class Vocabulary:
    length: int  # of a prompt, in tokens
    largest: int  # number of a token


def _check_tokenizer(folder: Path, config: dict[str, Any]) -> Vocabulary:
    length = config.get("model_max_length")
    if length is None:
        raise InputError(f"{folder} does not say how many tokens a prompt has (model_max_length).")
    added: list[Any] = [int(number) for number in config.get("added_tokens_decoder") or {} if str(number).isdecimal()]
    if (folder / "tokenizer.json").exists():
        content = _read_object(folder / "tokenizer.json", VOCABULARY_BYTES)
        for name in ("truncation", "padding"):
            part = content.get(name)
            for setting, value in _settings(part if isinstance(part, dict) else {}):
                if isinstance(value, int) and value > LARGEST:
                    raise InputError(f"{setting} in {folder / 'tokenizer.json'} must be at most {LARGEST:,}.")
        model, tokens = content.get("model"), content.get("added_tokens")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        added += [token.get("id") for token in (tokens if isinstance(tokens, list) else []) if isinstance(token, dict)]
    else:
        vocabulary = _read_object(folder / "vocab.json", VOCABULARY_BYTES)
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise InputError(f"The tokenizer in {folder} has no vocabulary of tokens with numbers.")
    numbers = (*vocabulary.values(), *added)
    if not all(type(number) is int and 0 <= number <= LARGEST for number in numbers):
        raise InputError(f"The numbers of tokens in {folder} must be from 0 to {LARGEST:,}.")
    return Vocabulary(length, max(numbers))


# --- weights ---------------------------------------------------------------------------------------------------------


def check_weights(folder: Path, stem: str, network: torch.nn.Module) -> None:
    """Compare names, shapes and types in the headers of weight files with a network on the meta device.

    Raises:
        InputError: files or tensors are missing, superfluous, of another shape or larger than memory.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder, stem):
        found |= stored_shapes(file)
    text = isinstance(network, CLIPTextModel)
    prefix = "text_model." if text else ""
    expected = {name.removeprefix(prefix): tuple(part.shape) for name, part in network.state_dict().items()}
    known = {_present_name(name.removeprefix(prefix)): shape for name, shape in found.items()}
    if text:
        known = {
            name: shape
            for name, shape in known.items()
            if not name.startswith(NOT_TEXT) and not name.endswith("position_ids")
        }
    if missing := sorted(expected.keys() - known.keys()):
        raise InputError(f"The weights in {folder} lack {missing[0]}{_more(missing)}, which config.json asks for.")
    if extra := sorted(known.keys() - expected.keys()):
        raise InputError(f"The weights in {folder} hold {extra[0]}{_more(extra)}, which config.json does not know.")
    for name, shape in expected.items():
        if known[name] != shape:
            raise InputError(f"{name} in {folder} has the shape {known[name]}, but config.json asks for {shape}.")
    needed = 4 * sum(part.numel() for part in network.state_dict().values())
    if needed > (free := psutil.virtual_memory().available):
        raise InputError(
            f"The weights in {folder} take {needed / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free."
        )


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of a component.

    Raises:
        InputError: there are none, or the index of several is not in order.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        raise InputError(f"{single} was not found: only weights in safetensors format are read.")
    shards = _read_object(index, VOCABULARY_BYTES).get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise InputError(f"weight_map in {index} must name safetensors files beside it.")
    return [folder / name for name in names]


def stored_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in the header of a safetensors file, which is not read further.

    Raises:
        InputError: it is not a whole file in this format, or holds other things than floating-point numbers.
    """
    try:
        if not file.is_file():
            raise OSError("expected a regular file")
        with safe_open(file, "pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            types = {name: part.get_dtype() for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is not a whole safetensors file ({why(error)}); copy the folder again.") from error
    for name, kind in types.items():
        if kind not in ("F16", "F32", "F64", "BF16") and not name.endswith("position_ids"):
            raise InputError(f"{name} in {file} must hold floating-point numbers, but holds {kind}.")
    return shapes


def check_finite(folder: str, **networks: torch.nn.Module) -> None:
    """Raise an `InputError` for the first weight that is NaN or infinite."""
    for part, network in networks.items():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.numel() and not all(map(torch.isfinite, torch.aminmax(tensor))):
                raise InputError(
                    f"{name} of the {part} in {folder} holds NaN or infinity: its training diverged, or the file is"
                    " damaged."
                )


def _present_name(name: str) -> str:
    for former, present in FORMER_NAMES.items():
        name = name.replace(former, present)
    return name


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more tensors" if len(names) > 1 else ""


def _reason(error: Exception) -> str:
    """What an error says, as a part of a sentence."""
    return first_line(error).rstrip(".")[:300]
