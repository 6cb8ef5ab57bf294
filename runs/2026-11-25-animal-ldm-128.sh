#!/usr/bin/env bash
# How models/animal-ldm-128, released on 2026-11-25, was trained: its UNet, on the latents of the 12-channel autoencoder
# (2026-11-25-autoencoder.sh), starting from the UNet of the release before (2026-11-23-animal-ldm-128.sh).
# usage, from the root of a checkout: runs/2026-11-25-animal-ldm-128.sh PHOTOS SQUEEZENET.safetensors EARLIER AUTOENCODER [OUT]
# EARLIER: models/animal-ldm-128 as commit 6183e25 has it.
set -euo pipefail
photos=$1 squeezenet=$2 earlier=$3 autoencoder=$4 out=${5:-outputs/2026-11-25}
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

animal-ldm prepare "$photos" "$out/photos11" --describe
python runs/warm_start.py "$earlier" "$autoencoder/vae" "$out/photos11" "$out/start"

# One core of two, with real-time priority. The first 80,000 images ran with --num_epochs 54; the rest, with --resume,
# had the length below, so that the cosine is a little steeper from there on.
animal-ldm train --data "$out/photos11" --output_dir "$out/unet" --vae "$autoencoder" \
    --fork "$out/start" --text_encoder scratch --balance_classes --snr_gamma None --alignment_weight 0.5 \
    --squeezenet_weights "$squeezenet" --batch_size 32 --num_epochs 48 --learning_rate 1.2e-3 --num_warmup_steps 200 \
    --lr_schedule cosine --ema_half_life 20000 --mixed_precision bf16 --scheduler sde_dpm --save_dtype float16 \
    --validate_every 40000 --checkpoint_every 20000 --country FRA --cache_dir "$out/cache"

# The training ran with commit 9009e4a, whose --fork read a made-up tokenizer: 632 of the 634 token embeddings started at
# random, the other weights of the text encoder as in EARLIER. The last --resume, which trains nothing, ran with dc3df82 or
# later: it writes the captions and the origin of the weights into the report.
cp -r "$out/unet" "$out/animal-ldm-128"
animal-ldm evaluate "$out/animal-ldm-128" --data "$out/photos11" --prompts classes -n 1106 --guidance_scale 3 \
    --reconstructions --extractor squeezenet,runs/candidate/proxy_classifier --extractor_weights squeezenet="$squeezenet" \
    --squeezenet_weights "$squeezenet" --batch_size 8 --out "$out/evaluation"
python push_to_hub.py "$out/animal-ldm-128" --repo_id animal-ldm/animal-ldm-128 --results "$out/evaluation" \
    --seed 423432 --staged "$out/staged" --dry_run  # with the statements that the card shows
