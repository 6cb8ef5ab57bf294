#!/usr/bin/env bash
# How models/animal-ldm-128, released second on 2026-11-29, was trained: the UNet and the decoder of
# 2026-11-29-square-root-balance.sh trained on, the UNet in larger batches with a lower rate.
# The trainings ran with commit 9c52beb.
# usage, from the root of a checkout:
#   runs/2026-11-29-trained-on.sh PHOTOS11 PHOTOS33 SQUEEZENET.safetensors EARLIER [OUT]
# PHOTOS11: photos prepared by 2026-11-25-animal-ldm-128.sh; PHOTOS33: by 2026-11-25-autoencoder.sh. EARLIER:
# models/animal-ldm-128 as commit 9c52beb has it.
set -euo pipefail
photos=$1 photos33=$2 squeezenet=$3 earlier=$4 out=${5:-outputs/2026-11-29-trained-on}
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

# The decoder, on one core beside other work; stopped once and resumed from its checkpoint at 6,000 images.
animal-ldm train-autoencoder --data "$photos33" --output_dir "$out/autoencoder" --pretrained "$earlier/vae" --decoder_only \
    --squeezenet_weights "$squeezenet" --mixed_precision bf16 --report_to none --country FRA --batch_size 4 \
    --learning_rate 3e-4 --num_epochs 2.5 --discriminator features --discriminator_start 0 --ema_half_life 3000 \
    --validate_every 5000 --validation_images 200 --checkpoint_every 2000 --cache_dir "$out/cache"

# The UNet, on the other core, with priority. The number of images follows from the minutes.
train() {
    animal-ldm train --data "$photos" --output_dir "$out/animal-ldm-128" --fork "$earlier" --text_encoder scratch \
        --balance_classes 0.5 --snr_gamma None --batch_size 64 --learning_rate 5e-4 --num_warmup_steps 60 \
        --lr_schedule cosine --max_minutes 82 --ema_half_life 15000 --mixed_precision bf16 \
        --scheduler sde_dpm --save_dtype float16 --validate_every 25600 --checkpoint_every 25600 --country FRA \
        --cache_dir "$out/cache" "$@"
}
train --vae "$earlier/vae" --adjust_length
train --vae "$out/autoencoder" --resume  # the latents are the same, so the finished run takes the new decoder

# Two files of weights, none above 32 MB, and how the model samples.
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
settings = Sampling(
    num_inference_steps=25,
    guidance_scale=4.0,
    guidance_interval=(0.1, 0.8),
    pag_scale=5.0,
    pag_applied_layers=("mid_block", "up_blocks.0"),
)
store_sampling_defaults(folder, settings, load_pipeline(str(folder)).scheduler)
END
animal-ldm evaluate "$out/animal-ldm-128" --data "$photos" --prompts classes -n 1106 --reconstructions \
    --extractor squeezenet,runs/candidate/proxy_classifier --extractor_weights squeezenet="$squeezenet" \
    --squeezenet_weights "$squeezenet" --batch_size 8 --out "$out/evaluation"
python push_to_hub.py "$out/animal-ldm-128" --repo_id animal-ldm/animal-ldm-128 --results "$out/evaluation" \
    --seed 423432 --staged "$out/staged" --dry_run  # with the statements that the card shows
