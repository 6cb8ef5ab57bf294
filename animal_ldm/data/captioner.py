"""A captioner: a model of `transformers` that describes photos, from a local folder or from the Hub.

There are three kinds. Models with a chat template get the prompt as a message (SmolVLM, Qwen-VL, LLaVA). Other models
with a processor get it as text beside the image (BLIP, BLIP-2, GIT, Florence-2, PaliGemma). Pairs of an image encoder
and a text decoder get none (ViT-GPT2). The prompt is not part of the caption, but BLIP and GIT continue it.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    ProcessorMixin,
    TopPLogitsWarper,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from ..errors import InputError
from .reading import one_line
from .settings import CaptioningSettings

CHAT_PROMPT = "Describe this photo in one short sentence."
# Types of models that need a prompt of their own, or any at all.
PROMPTS = {"florence2": "<CAPTION>", "instructblip": CHAT_PROMPT, "paligemma": "caption en"}
# Types of models that write captions alone: their prompt is the beginning of the caption.
CONTINUE_PROMPT = ("blip", "git")

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")

# More of a model's parameters missing than this fraction: the weights are those of another model, which shares a part
# with a captioner, such as BLIP for retrieval. Some old checkpoints lack a bias that is never used.
MISSING_FRACTION = 0.01


@dataclass(frozen=True)
class ModelFiles:
    """A captioner whose weights are not loaded yet.

    Attributes:
        model: local folder, or id on the Hub.
        name: the id on the Hub, or the name of the folder.
        revision: the commit on the Hub, or "sha256:" and 16 digits of the digest of all files in the folder.
        processor: of images and text; None for models that have two separate ones.
    """

    model: str
    name: str
    revision: str
    config: Any
    processor: Any
    image_processor: Any
    tokenizer: Any

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self.processor, "chat_template", None))

    def prompt(self, asked: str | None) -> str | None:
        """The prompt to use: what is asked for, else the default of this type of model; None for no prompt.

        Raises:
            InputError: a prompt is asked for, and the model takes none.
        """
        if asked is not None and self.processor is None:
            raise InputError(f"{self.model} takes no prompt. Run without --prompt, or choose another --model.")
        if asked is not None:
            return asked
        return CHAT_PROMPT if self.has_chat_template else PROMPTS.get(self.config.model_type)


def find_captioner(model: str, revision: str | None = None) -> ModelFiles:
    """The captioner of that name: everything but its weights.

    Args:
        model: local folder, or id on the Hub.
        revision: branch, tag or commit on the Hub; None for the newest.

    Raises:
        InputError: no such model, not a captioner, an incomplete folder, or no connection to the Hub.
    """
    check_name(model, revision)
    folder = Path(model)
    local = folder.is_dir()
    try:
        # All files come from the commit that the first one comes from.
        commit = "main" if local else Path(hf_hub_download(model, "config.json", revision=revision)).parent.name
        config = AutoConfig.from_pretrained(model, revision=commit, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise loading_error(model, error) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise InputError(
            f"--model {model} is a model of type {config.model_type}, which does not write captions. Choose one that "
            "transformers loads as image-text-to-text, such as Salesforce/blip-image-captioning-base."
        )
    options: dict[str, Any] = {"revision": commit, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(model, **options)
        if isinstance(processor, ProcessorMixin):
            image_processor, tokenizer = None, processor.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
        else:  # transformers answers with one of the two where no class joins them
            processor = None
            image_processor = AutoImageProcessor.from_pretrained(model, **options)
            tokenizer = AutoTokenizer.from_pretrained(model, **options)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise loading_error(model, error) from error
    if not getattr(config, "is_encoder_decoder", False):
        tokenizer.padding_side = "left"  # text is generated after the last token
    name = folder.resolve().name if local else model
    digest = folder_digest(folder) if local else commit
    return ModelFiles(model, name, digest, config, processor, image_processor, tokenizer)


def check_name(model: str, revision: str | None) -> None:
    """Raise an `InputError` for what can be told without loading anything."""
    folder = Path(model)
    if not folder.is_dir():
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
            raise InputError(
                f"--model must be a folder or an id on the Hub such as owner/name; there is no folder {model}."
            )
        return
    if revision:
        raise InputError(f"--revision is for models on the Hub, but --model {model} is a folder.")
    if not (folder / "config.json").is_file():
        raise InputError(f"--model {model} is not a captioner: the folder has no config.json.")
    # Without this, a missing tokenizer is made up by transformers.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"--model {model} is incomplete: expected one of {', '.join(TOKENIZER_FILES)}. Copy the folder again."
        )


def folder_digest(folder: Path) -> str:
    """ "sha256:" and 16 digits over names and bytes of the files in `folder`."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"


def loading_error(model: str, error: Exception) -> InputError:
    """What to tell about `error`, which transformers raised for a folder or an id on the Hub."""
    causes = list(chain_of_causes(error))
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, ImportError):
        return InputError(f"--model {model} needs a package that is not installed: {message}")
    if "trust_remote_code" in str(error):
        return InputError(
            f"--model {model} brings code of its own, which is not run. Choose a model that transformers includes."
        )
    if Path(model).is_dir() or not isinstance(error, OSError):
        return InputError(f"--model {model} cannot be loaded as a captioner: {message}")
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return InputError(f"--model {model} has no such --revision on the Hub.")
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return InputError(
            f"--model {model} is not a local folder, and the Hub has no model of that name that you may read. Check "
            "the name; for a model with restricted access, log in with `hf auth login`."
        )
    if any(isinstance(cause, RemoteEntryNotFoundError) for cause in causes):
        return InputError(f"--model {model} is not a captioner that transformers loads: {message}")
    return InputError(
        f"--model {model} is not a local folder, and it cannot be fetched from the Hub: {message} Check the network "
        "connection, or pass a folder."
    )


def chain_of_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class Captioner:
    """Writes captions of photos. The captions of a photo do not depend on the others in its batch.

    Args:
        files: the model.
        settings: with the prompt that the model gets (`ModelFiles.prompt`).
        device: where the model runs.

    Raises:
        InputError: the weights are missing, damaged or those of another model.
    """

    def __init__(self, files: ModelFiles, settings: CaptioningSettings, device: torch.device):
        self.files, self.settings, self.device = files, settings, device
        self.dtype = getattr(torch, settings.dtype)
        local = Path(files.model).is_dir()
        try:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                files.model,
                config=files.config,
                revision="main" if local else files.revision,
                dtype=self.dtype,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError, UnpicklingError) as error:
            raise loading_error(files.model, error) from error
        model, info = loaded
        missing = set(info["missing_keys"])
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        absent = sum(size for name, size in sizes.items() if name in missing)
        if absent > MISSING_FRACTION * sum(sizes.values()):
            raise InputError(
                f"--model {files.model} lacks {absent / sum(sizes.values()):.0%} of a captioner's weights, among them "
                f"{min(missing)}: it was made for something else, or its files are incomplete. Choose another model."
            )
        self.model = model.to(device).eval()

    def caption(self, images: list[Image.Image], photos: list[str]) -> list[list[str]]:
        """The captions of each image, `num_captions` or, where some are equal or empty, fewer.

        Args:
            images: RGB.
            photos: what identifies each photo; its random numbers follow from this and the seed.
        """
        settings = self.settings
        found: list[list[str]] = [[] for _ in images]
        for index in range(settings.num_captions):
            seeds = [photo_seed(settings.seed, photo, index) for photo in photos]
            for texts, text in zip(found, self.generate(images, seeds), strict=True):
                if text and text not in texts:
                    texts.append(text)
        return found

    @torch.inference_mode()
    def generate(self, images: list[Image.Image], seeds: list[int]) -> list[str]:
        settings = self.settings
        # A model's own defaults may ask for random sampling, which would be the batch's rather than the photo's.
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": settings.max_new_tokens}
        if settings.num_captions == 1:
            options["num_beams"] = settings.num_beams
        else:
            sampling = SeededSampling(seeds, settings.temperature, settings.top_p)
            options |= {"num_beams": 1, "logits_processor": LogitsProcessorList([sampling])}
        inputs = self.inputs(images).to(self.device, dtype=self.dtype)  # integers keep their type
        tokens = self.model.generate(**inputs, **options)  # (B, T)
        prompt = inputs.get("input_ids")
        if self.files.config.model_type not in CONTINUE_PROMPT and prompt is not None:
            length = prompt.shape[1]
            # Decoders repeat their prompt; models with an encoder do not.
            if tokens.shape[1] >= length and torch.equal(tokens[:, :length], prompt):
                tokens = tokens[:, length:]
        texts = self.files.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [one_line(text).strip("\"'“” ") for text in texts]

    def inputs(self, images: list[Image.Image]) -> Any:
        """What the model takes for these images and the prompt."""
        files, prompt = self.files, self.settings.prompt
        if files.processor is None:
            return files.image_processor(images, return_tensors="pt")
        if files.has_chat_template:
            conversations = [
                [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
                for image in images
            ]
            return files.processor.apply_chat_template(
                conversations,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        if prompt is None:
            return files.processor(images=images, return_tensors="pt")
        inputs = files.processor(images=images, text=[prompt] * len(images), return_tensors="pt")
        if files.config.model_type == "git":  # its tokenizer ends the text, which is to be continued
            inputs["input_ids"] = inputs["input_ids"][:, :-1]
            inputs["attention_mask"] = inputs["attention_mask"][:, :-1]
            inputs.pop("token_type_ids", None)
        return inputs


def photo_seed(seed: int, photo: str, index: int) -> int:
    """The seed of caption `index` of a photo, from 0 to 2^63 - 1."""
    return int.from_bytes(hashlib.sha256(f"model caption {seed} {index} {photo}".encode()).digest()[:8]) >> 1


class SeededSampling(LogitsProcessor):
    """Makes a greedy search sample at random, row `i` from a generator with `seeds[i]`.

    The largest of the log-probabilities plus Gumbel noise is a sample from the distribution (Gumbel-max trick;
    Maddison et al. 2014, arXiv:1411.0030). `generate` itself draws from one generator for the whole batch.

    Args:
        temperature: above 0.
        top_p: probability that the most likely tokens, of which one is taken, make up together.
    """

    def __init__(self, seeds: list[int], temperature: float, top_p: float):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = temperature
        self.top_p = TopPLogitsWarper(top_p)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = self.top_p(input_ids, scores.float() / self.temperature)  # (B, vocabulary)
        uniform = torch.stack(
            [torch.rand(scores.shape[1], generator=generator, dtype=torch.float64) for generator in self.generators]
        )
        return scores - torch.log(-torch.log(uniform)).float().to(scores.device)
