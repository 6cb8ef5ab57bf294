"""A wider or deeper UNet that starts as (nearly) the same function (Net2Net, arXiv 1511.05641).

usage: python runs/grow.py PIPELINE OUT [--widths 64 192 256] [--deeper 0]      then: animal-ldm train --fork OUT …

A level is widened by copies of some of its channels, spread evenly so that each group of a norm keeps its channels. A
layer that reads a copied channel divides the weight between the copies, with noise that cancels, so that training can
tell them apart. The norms see copied channels twice, so the output changes a little (by a tenth from 64, 128, 192 to
64, 192, 256 channels). The first width may grow by a whole factor. A level is deepened by one layer on the way down
and one on the way up, which pass on what they get until they are trained, so the output does not change. Text encoder,
tokenizer and autoencoder are copied.
"""

import argparse
import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from animal_ldm.loading import load_pipeline

NOISE = 0.1  # in standard deviations of the weight


def copies(old: int, new: int) -> torch.Tensor:
    """Which old channel each of `new` channels is, in order, the copies spread evenly: (new,)."""
    return torch.div(torch.arange(new) * old, new, rounding_mode="floor")


class Growth:
    """Maps channels of the old UNet to channels of the new one, by the widths of its levels."""

    def __init__(self, widths: dict[int, int], head: int) -> None:
        self.widths, self.head = widths, head

    def channels(self, sizes: list[int]) -> torch.Tensor:
        """Map of tensors concatenated from `sizes` old channels."""
        maps, start = [], 0
        for size in sizes:
            maps.append(start + copies(size, self.widths.get(size, size)))
            start += size
        return torch.cat(maps)

    def heads(self, size: int) -> torch.Tensor:
        """Map of the channels of attention heads: whole heads are copied."""
        chosen = copies(size // self.head, self.widths.get(size, size) // self.head)
        return (chosen[:, None] * self.head + torch.arange(self.head)).flatten()


def spread(weight: torch.Tensor, out: torch.Tensor | None, into: torch.Tensor | None) -> torch.Tensor:
    """Rows copied by `out`; columns copied by `into` and divided among the copies, with noise that cancels."""
    if out is not None:
        weight = weight[out]
    if into is None or len(into) == weight.shape[1]:
        return weight
    times = torch.bincount(into)[into]
    shape = (1, -1) + (1,) * (weight.dim() - 2)
    grown = weight[:, into] / times.view(shape)
    noise = torch.randn(grown.shape) * NOISE * weight.std()
    mean = torch.zeros_like(weight).index_add_(1, into, noise) / torch.bincount(into).view(shape)
    return grown + noise - mean[:, into]


# Which rows and columns a layer's weight has depends on what the layer is in diffusers' UNet2DConditionModel.
def part_maps(growth: Growth, name: str, module: nn.Module, concatenated: dict[str, list[int]]):
    """Maps of a layer's outputs and inputs; None keeps them."""
    weight = module.weight
    rows = weight.shape[0]
    columns = weight.shape[1] if weight.dim() > 1 else 0
    last = name.rsplit(".", 1)[-1]
    block = name.rsplit(".", 1)[0]
    if name.startswith(("time_embedding", "add_embedding")):
        return None, None
    if last in ("to_q", "to_k", "to_v"):
        cross = "attn2" in name and last != "to_q"
        return growth.heads(rows), None if cross else growth.channels([columns])
    if name.endswith("to_out.0"):
        return growth.channels([rows]), growth.heads(columns)
    if name.endswith("ff.net.0.proj"):  # hidden values and their gates
        return growth.channels([columns] * (rows // columns)), growth.channels([columns])
    if name.endswith("ff.net.2"):
        return growth.channels([rows]), growth.channels([rows] * (columns // rows))
    if last == "time_emb_proj":  # scale and shift
        return growth.channels([rows // 2] * 2), None
    if last == "norm1" and "resnets" in name:
        return growth.channels(concatenated.get(block, [rows])), None
    if last in ("conv1", "conv_shortcut") and "resnets" in name:
        return growth.channels([rows]), growth.channels(concatenated.get(block, [columns]))
    return growth.channels([rows]), growth.channels([columns]) if columns else None


def finer_frequencies(weight: torch.Tensor, times: int) -> torch.Tensor:
    """Columns of the layer that reads the sinusoidal timestep, for `times` as many frequencies.

    The new ones count for nothing.

    (out, cosines and sines of n frequencies) -> (out, those of times * n), for n frequencies 10000^(-i/n).
    """
    halves = weight.unflatten(1, (2, -1, 1))
    return torch.cat([halves, halves.new_zeros(*halves.shape[:-1], times - 1)], -1).flatten(1)


def layers_of(unet: UNet2DConditionModel) -> list[int]:
    """Layers of each level on the way down; the way up has one more."""
    layers = unet.config.layers_per_block
    return [layers] * len(unet.config.block_out_channels) if isinstance(layers, int) else list(layers)


def skips(unet: UNet2DConditionModel) -> dict[str, list[int]]:
    """Channels of the two tensors that each residual block of the way up concatenates."""
    widths, layers = unet.config.block_out_channels, layers_of(unet)
    stack = [widths[0]]
    for level, width in enumerate(widths):
        stack += [width] * layers[level] + ([width] if level < len(widths) - 1 else [])
    found, hidden = {}, widths[-1]
    for block, width in enumerate(reversed(widths)):
        for layer in range(layers[-1 - block] + 1):
            found[f"up_blocks.{block}.resnets.{layer}"] = [hidden, stack.pop()]
            hidden = width
    return found


@torch.no_grad()
def grow(unet: UNet2DConditionModel, widths: list[int]) -> UNet2DConditionModel:
    old_widths, heads = unet.config.block_out_channels, unet.config.attention_head_dim
    if widths[0] % old_widths[0]:
        raise ValueError(f"expected a multiple of {old_widths[0]} as the first width, found {widths[0]}")
    head = old_widths[-1] // heads[-1]
    changes = {
        "block_out_channels": widths,
        "attention_head_dim": [width // head for width in widths],
        "time_embedding_dim": unet.time_embedding.linear_2.out_features,
    }
    new = UNet2DConditionModel.from_config({**unet.config, **changes})
    growth = Growth(dict(zip(old_widths, widths, strict=True)), head)
    concatenated, state = skips(unet), dict(unet.state_dict())
    for name, module in unet.named_modules():
        if getattr(module, "weight", None) is None:
            continue
        out, into = part_maps(growth, name, module, concatenated)
        state[f"{name}.weight"] = spread(module.weight, out, into)
        if module.bias is not None and out is not None:
            state[f"{name}.bias"] = module.bias[out]
    first = "time_embedding.linear_1.weight"
    state[first] = finer_frequencies(state[first], widths[0] // old_widths[0])
    new.load_state_dict(state)
    return new


@torch.no_grad()
def deepen(unet: UNet2DConditionModel, level: int) -> UNet2DConditionModel:
    """One more layer at `level`, last on the way down and second on the way up, where its skip connections meet."""
    layers = layers_of(unet)
    up_name = re.escape(f"up_blocks.{len(layers) - 1 - level}")
    layers[level] += 1
    new = UNet2DConditionModel.from_config({**unet.config, "layers_per_block": layers})
    state = new.state_dict()
    for name, value in unet.state_dict().items():
        moved = re.fullmatch(rf"({up_name}\.(?:resnets|attentions)\.)([1-9]\d*)(\..+)", name)
        state[f"{moved[1]}{int(moved[2]) + 1}{moved[3]}" if moved else name] = value
    new.load_state_dict(state)
    down, up = new.down_blocks[level], new.up_blocks[-1 - level]
    for block, added in ((down, layers[level] - 1), (up, 1)):
        last = [block.resnets[added].conv2]
        if hasattr(block, "attentions"):
            last.append(block.attentions[added].proj_out)
        for layer in last:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    shortcut = up.resnets[1].conv_shortcut  # of what comes from below, without the skip connection
    nn.init.dirac_(shortcut.weight)
    nn.init.zeros_(shortcut.bias)
    return new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline")
    parser.add_argument("out", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", help="new channels of every level")
    parser.add_argument("--deeper", type=int, nargs="*", default=[], help="levels that get one more layer, after that")
    given = parser.parse_args()
    torch.manual_seed(423432)
    pipeline = load_pipeline(given.pipeline, "cpu")
    grown = grow(pipeline.unet, given.widths) if given.widths else pipeline.unet
    for level in given.deeper:
        grown = deepen(grown, level)
    latents = torch.randn(4, grown.config.in_channels, grown.config.sample_size, grown.config.sample_size)
    hidden = torch.randn(4, 16, grown.config.cross_attention_dim)
    timesteps = torch.tensor([10, 300, 600, 990])
    before, after = (network(latents, timesteps, hidden).sample for network in (pipeline.unet, grown))
    print(f"relative change of the output: {((after - before).norm() / before.norm()).item():.3f}")
    pipeline.register_modules(unet=grown)
    pipeline.save_pretrained(given.out)


if __name__ == "__main__":
    main()
