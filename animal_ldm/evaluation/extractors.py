"""Feature extractors: uint8 images in, float32 (N, D) out, always with name, digest of the weights and resize rule.

All extractors resize as clean-fid does (Parmar et al. 2022, arXiv 2104.11222): PIL's antialiased bicubic on float32
channels, never quantised to uint8; with clean-fid's own code. Another resize rule gives another number.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from cleanfid.resize import make_resizer
from diffusers import AutoencoderKL
from transformers import AutoConfig, AutoModel, CLIPModel, CLIPTokenizer
from transformers.image_processing_base import ImageProcessingMixin

from ..digest import weights_digest
from ..errors import InputError
from ..files import cache_root
from ..loading import load_component
from ..released import RELEASED_MODEL, model_folder
from ..squeezenet import load_squeezenet
from .results import ExtractorInfo

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION_FILE}"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"

# The models of dgm-eval (Stein et al. 2023, arXiv 2306.04675) and of clean-fid.
HUB_MODELS = {"dinov2": "facebook/dinov2-large", "clip": "openai/clip-vit-base-patch32"}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features.

    `weights_digest` is the SHA-256 of the weights file for Inception, and over all tensors for the others.
    """

    name: str
    weights_digest: str
    image_size: int
    network: Callable[[torch.Tensor], torch.Tensor]  # float32 (B, 3, S, S) in [0, 255] -> (B, D)
    device: torch.device
    # B texts -> (B, D), in the space of the images' features; None where the network does not read.
    text_network: Callable[[Sequence[str]], torch.Tensor] | None = None

    def describe(self) -> ExtractorInfo:
        """What stands beside every number measured with it."""
        rule = f"PIL bicubic on float32 channels to {self.image_size} x {self.image_size} (clean-fid)"
        return ExtractorInfo(self.name, self.weights_digest, rule)

    @property
    def home(self) -> torch.device:
        """Where distances are computed: its GPU, or the CPU, since Apple's GPUs have no float64."""
        return self.device if self.device.type == "cuda" else torch.device("cpu")

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        """uint8 (H, W, 3) -> float32 (3, S, S) in [0, 255]."""
        return resize(image, self.image_size)

    @torch.inference_mode()
    def embed(self, prepared: torch.Tensor) -> torch.Tensor:
        """Prepared images (B, 3, S, S) -> features (B, D), on the CPU."""
        return self.network(prepared.to(self.device)).float().flatten(1).cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """N texts -> features (N, D), on the CPU. Equal texts are read once."""
        assert self.text_network is not None
        distinct = list(dict.fromkeys(texts))
        batches = (distinct[start : start + batch_size] for start in range(0, len(distinct), batch_size))
        features = torch.cat([self.text_network(batch).float().cpu() for batch in batches])
        place = {text: i for i, text in enumerate(distinct)}
        return features[[place[text] for text in texts]]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, D), on the CPU."""
        return self.embed(torch.stack([self.prepare(image.permute(1, 2, 0).cpu().numpy()) for image in images]))


def resize(image: np.ndarray, size: int) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (3, size, size) in [0, 255], by clean-fid's rule."""
    resizer = make_resizer("PIL", quantize_after=False, filter="bicubic", output_size=(size, size))
    return torch.from_numpy(resizer(image)).permute(2, 0, 1).contiguous()


def load_extractor(
    name: str,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    cache_dir: str | Path | None = None,
) -> Extractor:
    """The extractor of that name.

    Args:
        name: `inception`, `squeezenet`, `dinov2`, `clip`, `vae`, or the folder or Hub id of another transformers image
            model.
        weights: `inception`: the TorchScript file; `squeezenet`: safetensors with torchvision's names; `dinov2` and
            `clip`: a local folder to use instead of the Hub's; `vae`: a pipeline's folder or Hub id. By default
            weights are downloaded; `vae` uses the released model's autoencoder.
        device: where the network runs.
        cache_dir: where Inception's weights are kept; by default `files.cache_root()`.

    Raises:
        InputError: the weights are missing and cannot be downloaded, or do not match the name.
    """
    device = torch.device(device)
    if name == "inception":
        return torchscript_extractor(name, inception_weights(weights, cache_dir), INCEPTION_SHA256, device)
    if name == "squeezenet":
        return squeezenet_extractor(weights, device)
    if name == "vae":
        return autoencoder_extractor(model_folder(str(weights or RELEASED_MODEL)), device)
    model_id = str(weights or HUB_MODELS.get(name, name))
    return transformers_extractor(Path(name).name if Path(name).is_dir() else name, model_id, device)


def torchscript_extractor(name: str, path: str | Path, sha256: str, device: torch.device | str = "cpu") -> Extractor:
    """A TorchScript file with the interface of NVIDIA's Inception: its `layers` take (B, 3, 299, 299) in [-1, 1).

    Raises:
        InputError: the file has another SHA-256.
    """
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if digest != sha256:
        raise InputError(
            f"{path} is not the expected file of {name} weights: expected SHA-256 {sha256}, found {digest}. It is "
            "damaged or another file, and its numbers would not be comparable. Remove it and download it again."
        )
    layers = torch.jit.load(str(path), map_location=device).eval().layers

    def network(images: torch.Tensor) -> torch.Tensor:
        return layers.forward((images - 128) / 128)

    return Extractor(name, digest, 299, network, torch.device(device))


def inception_weights(path: str | Path | None = None, cache_dir: str | Path | None = None) -> Path:
    """Inception's weights: the given file, or the one in the cache, downloaded if it is not there yet."""
    if path is not None:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; expected Inception's weights ({INCEPTION_FILE}).")
        return Path(path)
    cached = cache_root(cache_dir) / INCEPTION_FILE
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:  # writes beside, checks the digest, and renames
            torch.hub.download_url_to_file(INCEPTION_URL, str(cached), hash_prefix=INCEPTION_SHA256)
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"FID needs Inception's weights, {INCEPTION_FILE}, and they could not be downloaded ({error}). "
                f"Download {INCEPTION_URL} (SHA-256 {INCEPTION_SHA256}) on another machine, then put it at {cached} "
                "or pass --extractor_weights FILE; or choose another --extractor, whose distance is not called FID."
            ) from error
    return cached


def squeezenet_extractor(weights: str | Path | None, device: torch.device) -> Extractor:
    """SqueezeNet 1.1's convolutions, the last layer averaged over the image: 512 numbers."""
    model = load_squeezenet(weights, "--extractor_weights").to(device)
    normalize = _normalize(IMAGENET_MEAN, IMAGENET_STD, device)

    def network(images: torch.Tensor) -> torch.Tensor:
        return model(normalize(images)).mean((2, 3))

    return Extractor("squeezenet", weights_digest(model), 224, network, device)


def autoencoder_extractor(model: str, device: torch.device) -> Extractor:
    """Latents of a pipeline's own autoencoder, one number per channel and position.

    It needs no download and compares colour and layout, barely content: for trying things out.
    """
    offline = "pass the folder of a pipeline with --extractor_weights"
    vae = load_component(AutoencoderKL, model, "vae", offline=offline).eval().to(device)

    def network(images: torch.Tensor) -> torch.Tensor:
        return vae.encode(images / 127.5 - 1).latent_dist.mode()

    return Extractor("vae", weights_digest(vae), vae.config.sample_size, network, device)


def transformers_extractor(name: str, model_id: str, device: torch.device) -> Extractor:
    """An image model of transformers.

    Its features are the image embedding (models like CLIP), else the class token, else the mean of the last feature
    map or tokens.
    """
    try:
        AutoConfig.from_pretrained(model_id, trust_remote_code=False)
        processor, _ = ImageProcessingMixin.get_image_processor_dict(model_id)
        mean, std = processor["image_mean"], processor["image_std"]
        size = processor.get("crop_size") or processor["size"]
        model = AutoModel.from_pretrained(model_id, dtype=torch.float32, trust_remote_code=False).eval().to(device)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--extractor {name}: expected inception, squeezenet, dinov2, clip, vae, or a transformers image model, "
            f"found none at {model_id}: {str(error).splitlines()[0]} If the Hub cannot be reached, pass a local "
            "folder with --extractor_weights."
        ) from error
    size = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
    normalize = _normalize(mean, std, device)
    has_class_token = any(name.endswith(("cls_token", "class_embedding")) for name, _ in model.named_parameters())

    def network(images: torch.Tensor) -> torch.Tensor:
        pixel_values = normalize(images)
        if hasattr(model, "get_image_features"):
            return model.get_image_features(pixel_values=pixel_values).pooler_output
        last = model(pixel_values=pixel_values).last_hidden_state
        # Not `pooler_output`: where a checkpoint has no pooler, transformers makes up a random one.
        if last.ndim == 4:
            return last.mean((2, 3))
        return last[:, 0] if has_class_token else last.mean(1)

    text_network = clip_text_network(model, model_id) if isinstance(model, CLIPModel) else None
    return Extractor(name, weights_digest(model), size, network, device, text_network)


def clip_text_network(model: CLIPModel, model_id: str) -> Callable[[Sequence[str]], torch.Tensor] | None:
    """The text tower of a CLIP model; None, with a warning, without the tokenizer that belongs to it."""
    config: Any = model.config.text_config
    try:
        tokenizer: Any = CLIPTokenizer.from_pretrained(model_id)
    except (OSError, ValueError):
        tokenizer = ()
    # transformers makes up a tokenizer of a few tokens where the files are missing
    if len(tokenizer) != config.vocab_size:
        logger.warning("%s lacks the tokenizer of its text tower, so CLIP scores are not measured.", model_id)
        return None

    def network(texts: Sequence[str]) -> torch.Tensor:
        length = config.max_position_embeddings
        padded = tokenizer([*texts], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        found: Any = model.get_text_features(**padded.to(model.device))
        return found.pooler_output

    return network


def _normalize(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """For images (B, 3, S, S) in [0, 255]."""
    means, stds = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
    return lambda images: (images / 255 - means) / stds
