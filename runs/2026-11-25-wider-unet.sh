#!/usr/bin/env bash
# How the UNet of models/animal-ldm-128, released on 2026-11-25 in the evening, was trained: that of the morning's release
# (2026-11-25-animal-ldm-128.sh), widened from 64, 128, 192 to 64, 192, 256 channels, on the same latents and captions.
# usage, from the root of a checkout: runs/2026-11-25-wider-unet.sh PHOTOS11 SQUEEZENET.safetensors EARLIER [OUT]
# PHOTOS11: photos prepared by 2026-11-25-animal-ldm-128.sh. EARLIER: models/animal-ldm-128 as commit 7f60f79 has it.
set -euo pipefail
photos=$1 squeezenet=$2 earlier=$3 out=${4:-outputs/2026-11-25-wider}
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

python runs/grow.py "$earlier" "$out/start" --widths 64 192 256

# One core of two, with real-time priority.
animal-ldm train --data "$photos" --output_dir "$out/animal-ldm-128" --vae "$earlier" \
    --fork "$out/start" --text_encoder scratch --balance_classes --snr_gamma None --alignment_weight 0.5 \
    --squeezenet_weights "$squeezenet" --batch_size 32 --num_epochs 18 --learning_rate 8e-4 --num_warmup_steps 100 \
    --lr_schedule cosine --ema_half_life 12000 --mixed_precision bf16 --scheduler sde_dpm --save_dtype float16 \
    --validate_every 20000 --checkpoint_every 20000 --country FRA --cache_dir "$out/cache"

# Two files of weights, none above 32 MB.
python - "$out/animal-ldm-128" <<'END'
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from animal_ldm.loading import seal

folder = Path(sys.argv[1])
unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float16)
(folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
unet.save_pretrained(folder / "unet", max_shard_size="30MB")
seal(folder)
END
animal-ldm evaluate "$out/animal-ldm-128" --data "$photos" --prompts classes -n 1106 --guidance_scale 3 \
    --reconstructions --extractor squeezenet,runs/candidate/proxy_classifier --extractor_weights squeezenet="$squeezenet" \
    --squeezenet_weights "$squeezenet" --batch_size 8 --out "$out/evaluation"
python push_to_hub.py "$out/animal-ldm-128" --repo_id animal-ldm/animal-ldm-128 --results "$out/evaluation" \
    --seed 423432 --staged "$out/staged" --dry_run  # with the statements that the card shows
