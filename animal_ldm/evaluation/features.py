"""Feature extractors: uint8 pictures in, float32 (N, D) out, always with name, digest of the weights and resize rule.

All extractors resize as clean-fid does (Parmar et al. 2022, arXiv 2104.11222): PIL's antialiased bicubic on float32
channels, never quantised to uint8; with clean-fid's own code. Another resize rule gives another number.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from cleanfid.resize import make_resizer
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1
from tqdm import tqdm

from ..digest import weights_digest
from ..errors import InputError
from ..generate import MODEL, model_folder
from .images import Images

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION_FILE}"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"

# The models of dgm-eval (Stein et al. 2023, arXiv 2306.04675) and of clean-fid.
HUB_MODELS = {"dinov2": "facebook/dinov2-large", "clip": "openai/clip-vit-base-patch32"}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Extractor:
    """A network that turns pictures into features.

    `weights_digest` is the SHA-256 of the weights file for Inception, and over all tensors for the others.
    """

    name: str
    weights_digest: str
    image_size: int
    network: Callable[[torch.Tensor], torch.Tensor]  # float32 (B, 3, S, S) in [0, 255] -> (B, D)
    device: torch.device

    @property
    def resize(self) -> str:
        return f"PIL bicubic on float32 channels to {self.image_size} x {self.image_size} (clean-fid)"

    @property
    def distance_name(self) -> str:
        """What its Frechet distance may be called: FID is Inception's alone."""
        return "FID" if self.name == "inception" else f"FD ({self.name})"

    @property
    def kernel_name(self) -> str:
        return "KID" if self.name == "inception" else f"KD ({self.name})"

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        """uint8 (H, W, 3) -> float32 (3, S, S) in [0, 255]."""
        return resize(image, self.image_size)

    @torch.inference_mode()
    def embed(self, prepared: torch.Tensor) -> torch.Tensor:
        """Prepared pictures (B, 3, S, S) -> features (B, D), on the CPU."""
        return self.network(prepared.to(self.device)).float().flatten(1).cpu()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, D), on the CPU."""
        return self.embed(torch.stack([self.prepare(image.permute(1, 2, 0).cpu().numpy()) for image in images]))

    def describe(self) -> dict[str, str]:
        """What stands beside every number measured with it."""
        return {"name": self.name, "weights_digest": self.weights_digest, "resize": self.resize}


def resize(image: np.ndarray, size: int) -> torch.Tensor:
    resizer = make_resizer("PIL", quantize_after=False, filter="bicubic", output_size=(size, size))
    return torch.from_numpy(resizer(image)).permute(2, 0, 1).contiguous()


def load_extractor(name: str, weights: str | Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """The extractor of that name.

    Args:
        name: `inception`, `squeezenet`, `dinov2`, `clip`, `vae`, or the folder or Hub id of another transformers image
            model.
        weights: `inception`: the TorchScript file; `squeezenet`: safetensors with torchvision's names; `dinov2` and
            `clip`: a local folder in place of the Hub's; `vae`: a pipeline's folder or Hub id. None fetches them, or
            takes the released model's autoencoder.
        device: where the network runs.

    Raises:
        InputError: the weights are not there and cannot be fetched, or are not what the name says.
    """
    device = torch.device(device)
    if name == "inception":
        return torchscript_extractor(name, inception_weights(weights), INCEPTION_SHA256, device)
    if name == "squeezenet":
        return squeezenet_extractor(weights, device)
    if name == "vae":
        return autoencoder_extractor(model_folder(str(weights or MODEL)), device)
    model_id = str(weights or HUB_MODELS.get(name, name))
    return transformers_extractor(Path(name).name if Path(name).is_dir() else name, model_id, device)


def torchscript_extractor(name: str, path: str | Path, sha256: str, device: torch.device | str = "cpu") -> Extractor:
    """A TorchScript file with the interface of NVIDIA's Inception: its `layers` take (B, 3, 299, 299) in [-1, 1).

    Raises:
        InputError: the file's SHA-256 is another one.
    """
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if digest != sha256:
        raise InputError(
            f"expected {name} weights with SHA-256 {sha256}, found {digest} in {path}; the file is damaged or another "
            "one, and its numbers would not be comparable. Remove it and fetch it again"
        )
    layers = torch.jit.load(str(path), map_location=device).eval().layers

    def network(images: torch.Tensor) -> torch.Tensor:
        return layers.forward((images - 128) / 128)

    return Extractor(name, digest, 299, network, torch.device(device))


def inception_weights(path: str | Path | None = None) -> Path:
    """Inception's weights: the given file, or the one in the user's cache, fetched if it is not there yet."""
    if path is not None:
        if not Path(path).is_file():
            raise InputError(f"expected Inception's weights ({INCEPTION_FILE}) in {path}, found no such file")
        return Path(path)
    cached = cache_folder() / INCEPTION_FILE
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:  # writes beside, checks the digest, and renames
            torch.hub.download_url_to_file(INCEPTION_URL, str(cached), hash_prefix=INCEPTION_SHA256)
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"FID needs Inception's weights, {INCEPTION_FILE}, and they could not be fetched ({error}). Fetch "
                f"{INCEPTION_URL} (SHA-256 {INCEPTION_SHA256}) elsewhere, then put it at {cached} or pass "
                "--inception_weights FILE; or choose another --extractor, whose distance is not called FID"
            ) from error
    return cached


def cache_folder() -> Path:
    """The user's own cache, never a shared temporary folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "animal_ldm"


def squeezenet_extractor(weights: str | Path | None, device: torch.device) -> Extractor:
    """SqueezeNet 1.1's convolutions, the last layer averaged over the picture: 512 numbers."""
    model = squeezenet1_1()
    if weights is None:
        try:
            model.load_state_dict(SqueezeNet1_1_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True))
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"SqueezeNet's weights could not be fetched ({error}); pass --extractor_weights with a safetensors "
                "file of the keys `features.*` of torchvision.models.squeezenet1_1()"
            ) from error
    else:
        if not Path(weights).is_file():
            raise InputError(f"expected SqueezeNet's weights (safetensors) in {weights}, found no such file")
        tensors = {key.removeprefix("features."): value for key, value in load_file(weights).items()}
        try:
            model.features.load_state_dict(
                {key: value for key, value in tensors.items() if not key.startswith("classifier.")}
            )
        except RuntimeError as error:
            raise InputError(f"{weights} is no SqueezeNet 1.1 of torchvision's: {error}") from error
    model = model.features.eval().to(device)
    normalize = _normalize(IMAGENET_MEAN, IMAGENET_STD, device)

    def network(images: torch.Tensor) -> torch.Tensor:
        return model(normalize(images)).mean((2, 3))

    return Extractor("squeezenet", weights_digest(model), 224, network, device)


def autoencoder_extractor(model: str, device: torch.device) -> Extractor:
    """Latents of a pipeline's own autoencoder, one number per channel and place.

    It needs no download and sees colours and layout, hardly what is in a picture: for trying things out.
    """
    from diffusers import AutoencoderKL

    try:
        vae = AutoencoderKL.from_pretrained(model, subfolder="vae").eval().to(device)
    except (OSError, ValueError) as error:
        raise InputError(
            f"expected a pipeline with an autoencoder in {model}, found none: {str(error).splitlines()[0]} Pass a "
            "pipeline's folder with --extractor_weights"
        ) from error

    def network(images: torch.Tensor) -> torch.Tensor:
        return vae.encode(images / 127.5 - 1).latent_dist.mode()

    return Extractor("vae", weights_digest(vae), vae.config.sample_size, network, device)


def transformers_extractor(name: str, model_id: str, device: torch.device) -> Extractor:
    """An image model of transformers: its image embedding (CLIP's kind), its class token, or the mean of its last map
    or tokens."""
    from transformers import AutoConfig, AutoModel
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        AutoConfig.from_pretrained(model_id)
        processor, _ = ImageProcessingMixin.get_image_processor_dict(model_id)
        mean, std = processor["image_mean"], processor["image_std"]
        size = processor.get("crop_size") or processor["size"]
        model = AutoModel.from_pretrained(model_id, dtype=torch.float32).eval().to(device)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"expected the extractor {name!r} to be inception, squeezenet, dinov2, clip, or a transformers image "
            f"model, found none at {model_id}: {str(error).splitlines()[0]} Where the Hub cannot be reached, pass a "
            "local folder with --extractor_weights"
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

    return Extractor(name, weights_digest(model), size, network, device)


def _normalize(mean, std, device) -> Callable[[torch.Tensor], torch.Tensor]:
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (mean, std))
    return lambda images: (images / 255 - mean) / std


class _Prepared(Dataset):
    """Resized pictures; resizing takes longer than most networks, so worker processes share it."""

    def __init__(self, images: Images, indices: range, size: int):
        self.images, self.indices, self.size = images, indices, size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> torch.Tensor:
        return resize(self.images[self.indices[position]], self.size)


def extract(
    images: Images,
    extractor: Extractor,
    cache: Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
    state: PartialState | None = None,
    description: str = "features",
) -> torch.Tensor:
    """Features (N, D) of all pictures, float32, where distances are computed: on the extractor's GPU, or on the CPU.

    Args:
        cache: folder that keeps them under a fingerprint of pictures, extractor and resize rule; None keeps nothing.
        workers: processes that read and resize.
        state: accelerate's state, when every process makes this call and the pictures shall be shared among them.
    """
    identity = "\n".join([images.digest(), *extractor.describe().values()]) if cache else ""
    path = cache and cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"
    # Apple's GPUs have no float64, which the distances need.
    home = extractor.device if extractor.device.type == "cuda" else torch.device("cpu")
    if path and path.is_file():
        return torch.from_numpy(np.load(path)).to(home)
    rank, processes = (state.process_index, state.num_processes) if state else (0, 1)
    mine = range(rank, len(images), processes)
    loader = DataLoader(_Prepared(images, mine, extractor.image_size), batch_size=batch_size, num_workers=workers)
    parts = []
    with tqdm(total=len(mine), desc=description, unit="picture", disable=rank > 0, leave=False) as progress:
        for batch in loader:
            parts.append(extractor.embed(batch))
            progress.update(len(batch))
    found = torch.cat(parts)
    features = torch.zeros(len(images), found.shape[1])
    features[rank::processes] = found
    if state:
        features = reduce(features.to(state.device), "sum").cpu()
    if path and rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial.npy")
        np.save(partial, features.numpy())
        os.replace(partial, path)
    return features.to(home)
