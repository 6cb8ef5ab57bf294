"""Low-rank adaptation of a trained UNet (LoRA, Hu et al. 2021, arXiv 2106.09685), for few photos."""

# diffusers adds the methods of adapters to its models dynamically, and annotates what it saves too narrowly.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from pathlib import Path

from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from ..errors import InputError
from ..files import whole_file
from ..loading import LORA_FILE

# The layers that are adapted: attention, feed-forward and convolutions. A small UNet has attention at its lowest
# resolution alone, so that attention by itself would change layouts but not textures.
LAYERS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
    "conv1", "conv2", "time_emb_proj",
)  # fmt: skip


def add_lora(unet: UNet2DConditionModel, rank: int, base: str | None) -> None:
    """Freeze `unet` and add a LoRA, which changes nothing until it is trained.

    Args:
        base: the pipeline that `unet` belongs to; it is noted in the saved file.

    Raises:
        InputError: peft is not installed.
    """
    try:
        from peft import LoraConfig  # an optional dependency
    except ImportError as error:
        raise InputError("--lora_rank needs peft. Install it with `pip install animal-ldm[lora]`.") from error
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LAYERS)))
    unet.peft_config["default"].base_model_name_or_path = base  # add_adapter clears it


def save_lora(unet: UNet2DConditionModel, folder: str | Path) -> None:
    """Write `pytorch_lora_weights.safetensors`, for `AnimalLDMPipeline.load_lora_weights(folder)`."""
    from peft import get_peft_model_state_dict  # an optional dependency

    metadata = unet.peft_config["default"].to_dict()
    metadata["target_modules"] = sorted(metadata["target_modules"])  # a set: its order changes from run to run
    with whole_file(Path(folder, LORA_FILE)) as partial:
        StableDiffusionPipeline.save_lora_weights(
            partial.parent,
            unet_lora_layers=get_peft_model_state_dict(unet),
            unet_lora_adapter_metadata=metadata,
            weight_name=partial.name,
        )
