#!/usr/bin/env bash
# How models/animal-ldm-128, released on 2026-11-25 at night, was trained: the UNet of 2026-11-25-wider-unet.sh after more
# views of every photo (`git show b6aa479:runs/2026-11-25-more-views.sh`, not released), then on every photo equally often
# and without alignment; the decoder by itself. The commit was f7c6e0d: later ones draw other noise.
# usage, from the root of a checkout:
#   runs/2026-11-25-own-proportions.sh PHOTOS11 PHOTOS33 SQUEEZENET.safetensors EARLIER VIEWS [OUT]
# PHOTOS11: photos prepared by 2026-11-25-animal-ldm-128.sh; PHOTOS33: by 2026-11-25-autoencoder.sh. EARLIER:
# models/animal-ldm-128 as commit c59e42e has it. VIEWS: the model of 2026-11-25-more-views.sh.
set -euo pipefail
photos=$1 photos33=$2 squeezenet=$3 earlier=$4 views=$5 out=${6:-outputs/2026-11-25-own-proportions}
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

# The decoder, on one core beside other work. The first 8,000 images ran with the length 36,000, the rest with --resume.
animal-ldm train-autoencoder --data "$photos33" --output_dir "$out/autoencoder" --pretrained "$earlier" --decoder_only \
    --squeezenet_weights "$squeezenet" --mixed_precision bf16 --report_to none --country FRA --batch_size 4 \
    --learning_rate 3e-4 --num_epochs "$(python -c 'print(30000 / 12002)')" --discriminator features \
    --discriminator_start 0 --ema_half_life 3000 --validate_every 5000 --validation_images 200 \
    --checkpoint_every 2000 --cache_dir "$out/cache"

# The UNet, on the other core, with real-time priority: 125,024 images at a constant rate with dropout 0.1 (of VIEWS), then
# 181,152 without dropout, from the averaged weights.
train() {
    animal-ldm train --data "$photos" --text_encoder scratch --snr_gamma None --batch_size 32 --learning_rate 6e-4 \
        --num_warmup_steps 200 --ema_half_life 15000 --mixed_precision bf16 --scheduler sde_dpm --save_dtype float16 \
        --validate_every 25000 --checkpoint_every 25000 --country FRA --cache_dir "$out/cache" "$@"
}
train --output_dir "$out/first" --vae "$earlier" --fork "$views" --num_epochs 12.5614  # stopped at a checkpoint of 20 epochs
cp -r "$out/first" "$out/start"
python - "$out/start" <<'END'
import json
import sys
from pathlib import Path

from animal_ldm.loading import seal

folder = Path(sys.argv[1])
path = folder / "unet" / "config.json"
path.write_text(json.dumps(json.loads(path.read_text()) | {"dropout": 0.0}, indent=2) + "\n")
seal(folder)
END
train --output_dir "$out/animal-ldm-128" --vae "$earlier" --fork "$out/start" --num_epochs 18.2 --lr_schedule cosine
# The latents are the same, so the finished run takes the new decoder.
train --output_dir "$out/animal-ldm-128" --vae "$out/autoencoder" --fork "$out/start" --num_epochs 18.2 \
    --lr_schedule cosine --resume

# Two files of weights, none above 32 MB.
python - "$out/animal-ldm-128" <<'END'
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from animal_ldm.loading import load_pipeline, seal, store_sampling_defaults
from animal_ldm.sampling import Sampling

folder = Path(sys.argv[1])
unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float16)
(folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
unet.save_pretrained(folder / "unet", max_shard_size="30MB")
seal(folder)
settings = Sampling(num_inference_steps=25, guidance_scale=3.0, guidance_interval=(0.1, 0.8))
store_sampling_defaults(folder, settings, load_pipeline(str(folder)).scheduler)
END
animal-ldm evaluate "$out/animal-ldm-128" --data "$photos" --prompts classes -n 1106 --guidance_scale 3 --guidance_interval 0.1 0.8 \
    --reconstructions --extractor squeezenet,runs/candidate/proxy_classifier --extractor_weights squeezenet="$squeezenet" \
    --squeezenet_weights "$squeezenet" --batch_size 8 --out "$out/evaluation"
python push_to_hub.py "$out/animal-ldm-128" --repo_id animal-ldm/animal-ldm-128 --results "$out/evaluation" \
    --seed 423432 --staged "$out/staged" --dry_run  # with the statements that the card shows
