"""Train an image classifier from scratch on the prepared photos: a judge that has no part in training the model.

    python runs/proxy_classifier.py PHOTOS OUT [--images N]

PHOTOS is a prepared dataset of 144 px or more. A residual network (He et al. 2015, arXiv 1512.03385) of half of
ResNet-18's width sees random 128 px crops, flipped, recoloured and partly erased; every class counts the same. OUT is
a transformers model folder, so `animal-ldm evaluate --extractor OUT` measures with its features.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

from animal_ldm.data.prepared import load_split

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def read(split, size=None):
    images = np.stack([split.image(i) for i in range(len(split))])
    if size:
        margin = (images.shape[1] - size) // 2
        images = images[:, margin : margin + size, margin : margin + size]
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def normalise(images):
    return (images.float() / 255 - 0.5) / 0.25


def augment(images, generator, size=128):
    out = torch.empty(len(images), 3, size, size)
    for i, image in enumerate(images):
        scale = torch.empty(()).uniform_(0.35, 1.0, generator=generator).item()
        ratio = np.exp(torch.empty(()).uniform_(-0.25, 0.25, generator=generator).item())
        side = image.shape[-1]
        h = min(side, int(side * (scale / ratio) ** 0.5))
        w = min(side, int(side * (scale * ratio) ** 0.5))
        top = int(torch.randint(side - h + 1, (), generator=generator))
        left = int(torch.randint(side - w + 1, (), generator=generator))
        crop = normalise(image[None, :, top : top + h, left : left + w])
        crop = F.interpolate(crop, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
        if torch.rand((), generator=generator) < 0.5:
            crop = crop.flip(-1)
        if torch.rand((), generator=generator) < 0.8:
            gain = torch.empty(3, 1, 1).uniform_(0.85, 1.15, generator=generator)
            contrast = torch.empty(()).uniform_(0.6, 1.4, generator=generator)
            shift = torch.empty(()).uniform_(-0.6, 0.6, generator=generator)
            crop = (crop - crop.mean()) * contrast * gain + crop.mean() + shift
        if torch.rand((), generator=generator) < 0.15:
            crop = crop.mean(0, keepdim=True).expand(3, -1, -1).clone()
        if torch.rand((), generator=generator) < 0.25:
            b = int(torch.randint(24, 64, (), generator=generator))
            y, x = torch.randint(size - b, (2,), generator=generator).tolist()
            crop[:, y : y + b, x : x + b] = 0
        out[i] = crop
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("out")
    parser.add_argument("--images", type=int, default=360_000)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    train, validation = (load_split(arguments.photos, name) for name in ("train", "validation"))
    classes = sorted(set(train.labels))
    number = {name: i for i, name in enumerate(classes)}
    images, held_out = read(train), normalise(read(validation, 128))
    labels = torch.tensor([number[name] for name in train.labels])
    held_labels = torch.tensor([number[name] for name in validation.labels])
    weights = (1 / torch.bincount(labels).double().sqrt())[labels]  # between every photo and every class alike
    torch.manual_seed(arguments.seed)
    model = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 2, 2], layer_type="basic",
            num_labels=len(classes), id2label=dict(enumerate(classes)), label2id=number,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), arguments.learning_rate, weight_decay=0.05)
    steps = arguments.images // arguments.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.learning_rate, steps, pct_start=0.1)
    out = Path(arguments.out)
    state = out / "state.pt"
    first = 0
    history = []
    if state.is_file():
        saved = torch.load(state)
        model.load_state_dict(saved["model"]), optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        first, history = saved["step"], saved["history"]
    out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + step)
        chosen = torch.multinomial(weights, arguments.batch_size, replacement=True, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(augment(images[chosen], generator)).logits
        loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            model.eval()
            with torch.no_grad():
                guesses = torch.cat([model(part).logits.argmax(1) for part in held_out.split(128)])
            model.train()
            accuracy = (guesses == held_labels).float().mean().item()
            history.append({"images": (step + 1) * arguments.batch_size, "loss": loss.item(), "accuracy": accuracy})
            speed = (step + 1 - first) * arguments.batch_size / (time.time() - started)
            print(history[-1], f"{speed:.0f} images/s", flush=True)
            parts = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
            torch.save({**parts, "step": step + 1, "history": history}, out / "state.partial")
            os.replace(out / "state.partial", state)
    model.eval().save_pretrained(out)
    ConvNextImageProcessor(size={"shortest_edge": 128}, image_mean=MEAN, image_std=STD).save_pretrained(out)
    (out / "history.json").write_text(json.dumps(history, indent=1))
    state.unlink()


if __name__ == "__main__":
    main()
