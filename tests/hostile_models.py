"""Pipeline folders that mean harm or are broken, made from a good one.

`python -m tests.faults models` loads each in a process of its own and prints how that ends.
"""

import json
import logging
import multiprocessing
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from animal_ldm import AnimalLDMPipeline
from animal_ldm.errors import InputError
from animal_ldm.loading import load_pipeline, seal
from tests.conftest import tiny_components

INDEX, UNET, VAE = "model_index.json", "unet/config.json", "vae/config.json"
TEXT, TOKENIZER, SCHEDULER = (
    "text_encoder/config.json",
    "tokenizer/tokenizer_config.json",
    "scheduler/scheduler_config.json",
)
VOCABULARY = "tokenizer/tokenizer.json"
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}

Harm = Callable[[Path], Any]


class Payload:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def setting(file: str, **values: Any) -> Harm:
    """Other values in a JSON file."""

    def harm(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return harm


def content(file: str, data: str | bytes) -> Harm:
    return lambda folder: (folder / file).write_bytes(data if isinstance(data, bytes) else data.encode())


def tensors(part: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Harm:
    """Other tensors in a weights file."""

    def harm(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS[part])
        change(stored)
        save_file(stored, folder / WEIGHTS[part], metadata={"format": "pt"})

    return harm


def missing(file: str) -> Harm:
    return lambda folder: (folder / file).unlink()


def pipe(file: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return harm


def link(file: str, target: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(target)

    return harm


def pickled(file: str, instead_of: str | None = None) -> Harm:
    """A pickle that runs code, beside the weights or instead of them."""

    def harm(folder: Path) -> None:
        (folder / file).write_bytes(pickle.dumps(Payload(folder / "ran")))
        if instead_of:
            (folder / instead_of).unlink()

    return harm


def code(file: str) -> Harm:
    """Python code that leaves a file behind when it is imported."""
    return lambda folder: (folder / file).write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


def both(*harms: Harm) -> Harm:
    return lambda folder: [harm(folder) for harm in harms]


def header(part: str, change: Callable[[dict], Any]) -> Harm:
    """Another header before the same bytes of a safetensors file."""

    def harm(folder: Path) -> None:
        data = (folder / WEIGHTS[part]).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        entries = json.loads(data[8 : 8 + length])
        change(entries)
        encoded = json.dumps(entries).encode()
        (folder / WEIGHTS[part]).write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])

    return harm


def truncated(part: str) -> Harm:
    def harm(folder: Path) -> None:
        data = (folder / WEIGHTS[part]).read_bytes()
        (folder / WEIGHTS[part]).write_bytes(data[: len(data) // 2])

    return harm


def index_of_shards(names: list[str]) -> Harm:
    def harm(folder: Path) -> None:
        (folder / WEIGHTS["unet"]).unlink()
        content = {"metadata": {}, "weight_map": {f"tensor{i}": name for i, name in enumerate(names)}}
        (folder / (WEIGHTS["unet"] + ".index.json")).write_text(json.dumps(content))

    return harm


def vocabulary(change: Callable[[dict], Any]) -> Harm:
    def harm(folder: Path) -> None:
        stored = json.loads((folder / VOCABULARY).read_text())
        change(stored)
        (folder / VOCABULARY).write_text(json.dumps(stored))

    return harm


def flipped(folder: Path) -> None:
    seal(folder)
    data = bytearray((folder / WEIGHTS["vae"]).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS["vae"]).write_bytes(data)


def unlisted(folder: Path) -> None:
    seal(folder)
    (folder / "tokenizer/added_tokens.json").write_text("{}")


def filled(stored: dict, name: str, value: float) -> None:
    stored[name] = torch.full_like(stored[name], value)


HUGE = 10**12
# name -> (harm, words of the refusal)
HOSTILE: dict[str, tuple[Harm, str]] = {
    # model_index.json
    "index is a list": (content(INDEX, "[1]"), "must hold a JSON object"),
    "index is not JSON": (content(INDEX, "{"), "cannot be read"),
    "index is empty": (content(INDEX, ""), "cannot be read"),
    "index is nested deeply": (content(INDEX, '{"a":' * 100_000 + "1" + "}" * 100_000), "cannot be read"),
    "index of 2 MB": (content(INDEX, '{"a": "' + "a" * (2 << 20) + '"}'), "more than the limit"),
    "index holds a number of 5000 digits": (content(INDEX, '{"a": ' + "9" * 5000 + "}"), "cannot be read"),
    "index is a pipe": (pipe(INDEX), "not a complete pipeline folder"),
    "index is endless": (link(INDEX, "/dev/zero"), "not a complete pipeline folder"),
    "pipeline of the folder's code": (
        both(setting(INDEX, _class_name=["evil", "AnimalLDMPipeline"]), code("evil.py")), "must hold one of",
    ),
    "pipeline of another class": (setting(INDEX, _class_name="StableCascadeDecoderPipeline"), "must hold one of"),
    "no class": (setting(INDEX, _class_name=None), "must hold one of"),
    "component of the folder's code": (
        both(setting(INDEX, unet=["evil", "UNet2DConditionModel"]), code("unet/evil.py")), "The unet in .* must be",
    ),
    "component of another library": (setting(INDEX, unet=["os", "system"]), "must be diffusers.UNet2DConditionModel"),
    "component of another class": (setting(INDEX, vae=["diffusers", "VQModel"]), "must be diffusers.AutoencoderKL"),
    "component that is not known": (
        setting(INDEX, safety_checker=["transformers", "CLIPModel"]), "'safety_checker' .* is not known",
    ),
    "component of three words": (setting(INDEX, unet=["diffusers", "UNet2DConditionModel", "x"]), "The unet in"),
    "component of numbers": (setting(INDEX, unet=[1, 2]), "The unet in"),
    "component is missing": (setting(INDEX, unet=[None, None]), "lacks unet"),
    "scheduler that is not one": (setting(INDEX, scheduler=["diffusers", "UNet2DModel"]), "The scheduler in"),
    "classes are a number": (setting(INDEX, classes=7), "must be names with numbers"),
    "classes with texts for numbers": (setting(INDEX, classes={"zebra": "1"}), "must be names with numbers"),
    "vocabulary is an object": (setting(INDEX, vocabulary={"zebra": 0}), "must be words with spaces"),
    "class of a megabyte": (setting(INDEX, classes={"z" * 10_000: 0}), "names of at most 1000 letters"),
    # configurations
    "2^31 tokens": (setting(TOKENIZER, model_max_length=2**31), "model_max_length .* must be at most 4,096"),
    "tokens without end": (setting(TOKENIZER, model_max_length=10**30), "model_max_length .* must be at most"),
    "tokens of a fraction": (setting(TOKENIZER, model_max_length=1.5), "model_max_length .* must be a number from 1"),
    "no tokens": (setting(TOKENIZER, model_max_length=0), "model_max_length .* must be a number from 1"),
    "tokens not said": (setting(TOKENIZER, model_max_length=None), "does not say how many tokens"),
    "more tokens than positions": (setting(TOKENIZER, model_max_length=25), "must be at most 24, the positions"),
    "10^6 text layers": (setting(TEXT, num_hidden_layers=10**6), "num_hidden_layers .* must be at most 64"),
    "more text layers than weights": (setting(TEXT, num_hidden_layers=2), "The weights in .* lack"),
    "fewer text layers than weights": (
        both(setting(TEXT, num_hidden_layers=1), tensors("text_encoder", lambda stored: stored.update(
            {"encoder.layers.1.mlp.fc1.weight": torch.zeros(16, 8)}))), "config.json does not know",
    ),
    "heads that do not divide the text": (setting(TEXT, num_attention_heads=3), "not a multiple of the number"),
    "no heads": (setting(TEXT, num_attention_heads=0), "does not describe a text_encoder"),
    "vocabulary of 10^12": (setting(TEXT, vocab_size=HUGE), "vocab_size .* must be at most"),
    "vocabulary smaller than the tokenizer": (
        both(setting(TEXT, vocab_size=100), tensors("text_encoder", lambda stored: stored.update(
            {name: stored[name][:100].clone() for name in stored if name.endswith("token_embedding.weight")}))),
        "it must be at most 99",
    ),
    "text activation that is not known": (setting(TEXT, hidden_act="evil"), "does not describe a text_encoder"),
    "attention of a repository": (setting(TEXT, _attn_implementation="evil/kernels"), "can load code"),
    "classes of a repository": (setting(TEXT, auto_map={"AutoModel": "evil--x.Model"}), "can load code"),
    "quantiser": (setting(UNET, quantization_config={"quant_method": "gguf"}), "can load code"),
    "adapter of another folder": (
        content("text_encoder/adapter_config.json", '{"base_model_name_or_path": "evil/base"}'), "weights elsewhere",
    ),
    "10^6 layers a block": (setting(UNET, layers_per_block=10**6), "layers_per_block .* must be at most 8"),
    "10^6 transformer layers": (setting(UNET, transformer_layers_per_block=10**6), "must be at most 16"),
    "10^12 channels": (setting(UNET, block_out_channels=[8, HUGE]), "block_out_channels .* must be at most"),
    "negative channels": (setting(UNET, block_out_channels=[8, -16]), "must be a number from 1"),
    "channels that are text": (setting(UNET, block_out_channels=["8", "16"]), "does not describe a unet"),
    "1000 blocks": (setting(UNET, block_out_channels=[8] * 1000), "1,000 entries"),
    "blocks that are not known": (setting(UNET, down_block_types=["Evil", "Evil"]), "does not describe a unet"),
    "groups that do not divide": (setting(UNET, norm_num_groups=3), "does not describe a unet"),
    "heads that do not divide the UNet": (setting(UNET, attention_head_dim=3), "3 heads do not divide 8 channels"),
    "wider than its weights": (setting(UNET, block_out_channels=[8, 32]), "has the shape"),
    "wider text than the UNet's": (
        both(setting(UNET, cross_attention_dim=16), tensors("unet", lambda stored: stored.update(
            {name: torch.zeros(len(part), 16) for name, part in stored.items()
             if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}))), "cross_attention_dim .* must be 8",
    ),
    "a side of 10^9": (setting(UNET, sample_size=10**9), "sample_size .* must be at most"),
    "latents of another number of channels": (setting(VAE, latent_channels=5), "config.json asks for"),
    "10^9 steps": (setting(SCHEDULER, num_train_timesteps=10**9), "must be at most 100,000"),
    "prediction that is not known": (setting(SCHEDULER, prediction_type="evil"), "prediction_type .* must be one of"),
    "betas that are not known": (setting(SCHEDULER, beta_schedule="evil"), "missing or damaged"),
    "configuration is endless": (link(UNET, "/dev/zero"), "not a complete pipeline folder"),
    # tokenizer
    "vocabulary is not there": (vocabulary(lambda stored: stored["model"].pop("vocab")), "has no vocabulary"),
    "vocabulary is text": (vocabulary(lambda stored: stored["model"].update(vocab="evil")), "has no vocabulary"),
    "token of number 2^40": (
        vocabulary(lambda stored: stored["model"]["vocab"].update(evil=2**40)), "numbers of tokens",
    ),
    "token of number -1": (vocabulary(lambda stored: stored["model"]["vocab"].update(evil=-1)), "numbers of tokens"),
    "padding to 2^40": (
        vocabulary(lambda stored: stored.update(padding={"strategy": {"Fixed": 2**40}})), "must be at most",
    ),
    "merges of nothing": (vocabulary(lambda stored: stored["model"].update(merges=[["x", "nothing"]])), "damaged"),
    "special tokens are a pipe": (pipe("tokenizer/special_tokens_map.json"), "must be a regular file"),
    # weights
    "pickle beside the weights": (pickled("unet/diffusion_pytorch_model.bin"), "is a pickle"),
    "pickle instead of the weights": (pickled("unet/diffusion_pytorch_model.bin", WEIGHTS["unet"]), "is a pickle"),
    "pickle of the text encoder": (pickled("text_encoder/pytorch_model.bin", WEIGHTS["text_encoder"]), "is a pickle"),
    "pickle that is called safetensors": (pickled(WEIGHTS["unet"]), "not a whole safetensors file"),
    "no weights of the text encoder": (missing(WEIGHTS["text_encoder"]), "was not found: only weights in safetensors"),
    "weights of the text encoder without layers": (
        tensors("text_encoder", lambda stored: [stored.pop(name) for name in [*stored] if "layers" in name]), "lack",
    ),
    "no weights of the UNet": (missing(WEIGHTS["unet"]), "was not found: only weights in safetensors"),
    "weights are empty": (content(WEIGHTS["unet"], b""), "not a whole safetensors file"),
    "weights are half": (truncated("unet"), "not a whole safetensors file"),
    "weights are a pipe": (pipe(WEIGHTS["unet"]), "must be a regular file"),
    "weights are endless": (link(WEIGHTS["unet"], "/dev/zero"), "must be a regular file"),
    "weights link to nothing": (link(WEIGHTS["unet"], "nowhere"), "must be a regular file"),
    "header of 2^63 bytes": (content(WEIGHTS["unet"], struct.pack("<Q", 2**63) + b"{}"), "not a whole safetensors"),
    "header is not JSON": (content(WEIGHTS["unet"], struct.pack("<Q", 4) + b"evil"), "not a whole safetensors"),
    "header of a tensor beyond the file": (
        header("unet", lambda entries: entries["conv_in.bias"].update(data_offsets=[0, HUGE])), "not a whole",
    ),
    "header of a tensor of 10^12": (
        header("unet", lambda entries: entries["conv_in.bias"].update(shape=[HUGE])), "not a whole safetensors",
    ),
    "tensor of another shape": (
        tensors("unet", lambda stored: stored.update({"conv_in.bias": torch.zeros(9)})), "has the shape",
    ),
    "tensor of whole numbers": (
        tensors("unet", lambda stored: stored.update({"conv_in.bias": torch.zeros(8, dtype=torch.int64)})),
        "must hold floating-point numbers",
    ),
    "tensor too many": (tensors("vae", lambda stored: stored.update(evil=torch.zeros(1))), "does not know"),
    "tensor too few": (tensors("vae", lambda stored: stored.pop("decoder.conv_out.bias")), "lack decoder.conv_out"),
    "NaN in the UNet": (tensors("unet", lambda stored: filled(stored, "conv_in.bias", float("nan"))), "holds NaN"),
    "infinity in the autoencoder": (
        tensors("vae", lambda stored: filled(stored, "decoder.conv_out.bias", float("inf"))), "holds NaN or infinity",
    ),
    "shards outside": (index_of_shards(["../../evil.safetensors"]), "must name safetensors files beside it"),
    "shards that are pickles": (index_of_shards(["evil.bin"]), "must name safetensors files beside it"),
    "shards that are not there": (index_of_shards(["evil.safetensors"]), "not a whole safetensors file"),
    "shards without a map": (
        both(missing(WEIGHTS["unet"]), content(WEIGHTS["unet"] + ".index.json", "{}")), "must name safetensors files",
    ),
    # SHA256SUMS
    "a bit is flipped": (flipped, "is not the file that was written there"),
    "a file that is not listed": (unlisted, "does not list tokenizer/added_tokens.json"),
    "sums are not text": (content("SHA256SUMS", b"\xff" * 100), "SHA256SUMS cannot be read"),
    "sums are a pipe": (pipe("SHA256SUMS"), "SHA256SUMS cannot be read"),
}  # fmt: skip


def try_folder(good: Path, folder: Path, name: str) -> str:
    """How loading the folder after this harm ends, in a process of its own."""
    shutil.copytree(good, folder)
    harm, _ = HOSTILE[name]
    harm(folder)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_load, args=(folder, answers), daemon=True)
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        return "hang"
    if (folder / "ran").exists():
        return "code of the folder ran"
    return "the process was aborted" if answers.empty() else answers.get()


def _load(folder: Path, answers: Any) -> None:
    try:
        load_pipeline(str(folder), "cpu")
    except InputError as error:
        answers.put("clean" if "\n" not in str(error) else "more than a sentence")
    except BaseException:
        answers.put("traceback")
    else:
        answers.put("accepted")


def outcomes(scratch: Path) -> Iterator[tuple[str, str]]:
    """The name of each harm, and how it ends."""
    logging.disable()
    torch.set_num_threads(1)
    good = scratch / "good"
    AnimalLDMPipeline(**tiny_components(), classes=["zebra"]).save_pretrained(good)
    for number, name in enumerate(HOSTILE):
        yield name, try_folder(good, scratch / str(number), name)
