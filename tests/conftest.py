"""Real components of the real classes, shrunk until a picture takes milliseconds. Nothing comes over the network."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Read by huggingface_hub at import: a test that reaches for the network fails instead of passing by luck.
os.environ["HF_HUB_OFFLINE"] = "1"
# Read by PyTorch at import, here and in the processes that tests start: networks as tiny as these gain nothing from
# more threads, and several test processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torchvision.models import squeezenet1_1
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TINY_CLASSES = ["lion", "polar bear", "wolf", "zebra"]


@pytest.fixture(autouse=True)
def fresh_accelerator_state():
    """Accelerate keeps one state per process, whose device and precision cannot be changed: each test has its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def tiny_tokenizer(model_max_length: int = 24) -> CLIPTokenizer:
    """CLIP's tokenizer without a merge: every byte is a token, so any text can be encoded (514 tokens)."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=model_max_length)


def tiny_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def tiny_vae() -> AutoencoderKL:
    """(B, 3, 16, 16) pictures <-> (B, 4, 8, 8) latents."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
    ).eval()


def tiny_unet(**options) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
        **options,
    ).eval()


def tiny_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def tiny_components(prediction_type: str = "epsilon", seed: int = 0) -> dict:
    """The five components of `AnimalLDMPipeline` for 16 x 16 pictures, with random weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        return {
            "vae": tiny_vae(),
            "text_encoder": tiny_text_encoder(tokenizer),
            "tokenizer": tokenizer,
            "unet": tiny_unet(),
            "scheduler": tiny_scheduler(prediction_type),
        }


@pytest.fixture(scope="session")
def squeezenet_weights(tmp_path_factory):
    """A safetensors file with random weights of SqueezeNet 1.1's features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = squeezenet1_1().features.state_dict()
    path = tmp_path_factory.mktemp("squeezenet") / "squeezenet.safetensors"
    save_file({f"features.{key}": value for key, value in features.items()}, path)
    return path


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory) -> str:
    """A saved pipeline (epsilon, DDIM) that knows `TINY_CLASSES`. Shared by all tests: read it, do not write."""
    from animal_ldm import AnimalLDMPipeline

    folder = tmp_path_factory.mktemp("models") / "tiny"
    AnimalLDMPipeline(**tiny_components(), classes=TINY_CLASSES).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def small_disk(tmp_path):
    """Call it with a number of MiB for a folder on a disk of that size; again to change the size."""
    folder = tmp_path / "disk"

    def mount(mebibytes: int) -> Path:
        again = ["-o", f"remount,size={mebibytes}m"] if folder.exists() else ["-o", f"size={mebibytes}m"]
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", *again, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("only root may mount a small disk")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


@pytest.fixture
def library_warnings(caplog):
    """Call it for the warnings logged below "diffusers" so far, whose logger does not propagate to caplog's."""
    logging.getLogger("diffusers").addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logging.getLogger("diffusers").removeHandler(caplog.handler)


@pytest.fixture
def browser():
    """Debian's Chromium, without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'animal-ldm[browser]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def held_by_another(lock: Path) -> Iterator[subprocess.Popen]:
    """In this context another process holds the lock; then it is killed."""
    code = f"""
from pathlib import Path
from animal_ldm.locks import locked
with locked(Path({str(lock)!r}), "it"):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()
