#!/usr/bin/env bash
# How the UNet of models/animal-ldm-128, released on 2026-11-30, was made: that of 2026-11-29-wider-first-level.sh, trained
# on with the same high rate; released is the mean of both. Autoencoder and text encoder were taken over, the latter
# trained on. The training ran with commit 665675a.
# usage, from the root of a checkout: runs/2026-11-30-high-rate-again.sh PHOTOS11 SQUEEZENET.safetensors EARLIER [OUT]
# PHOTOS11: photos prepared by 2026-11-25-animal-ldm-128.sh. EARLIER: models/animal-ldm-128 as commit 665675a has it.
set -euo pipefail
photos=$1 squeezenet=$2 earlier=$3 out=${4:-outputs/2026-11-30-high-rate-again}
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

# Both cores for one process. Paused for four minutes in all to measure its speed, which does not change a step but the
# length that --adjust_length chooses. The result keeps the settings that EARLIER samples with.
OMP_NUM_THREADS=2 animal-ldm train --data "$photos" --output_dir "$out/run" --vae "$earlier/vae" --fork "$earlier" \
    --text_encoder scratch --balance_classes 0.5 --snr_gamma None --batch_size 64 --learning_rate 7e-4 --num_warmup_steps 200 \
    --lr_schedule cosine --max_minutes 106 --adjust_length --ema_half_life 15000 --mixed_precision bf16 \
    --scheduler sde_dpm --save_dtype float16 --validate_every 110000 --checkpoint_every 51200 --country FRA \
    --cache_dir "$out/cache"

python runs/mean.py "$earlier" "$out/run" "$out/animal-ldm-128"
OMP_NUM_THREADS=1 python -m torch.distributed.run --standalone --nproc_per_node=2 -m animal_ldm evaluate "$out/animal-ldm-128" \
    --data "$photos" --prompts classes -n 1106 --reconstructions --extractor squeezenet,runs/candidate/proxy_classifier \
    --extractor_weights squeezenet="$squeezenet" --squeezenet_weights "$squeezenet" --batch_size 16 --out "$out/evaluation"
python push_to_hub.py "$out/animal-ldm-128" --repo_id animal-ldm/animal-ldm-128 --results "$out/evaluation" \
    --seed 423432 --staged "$out/staged" --dry_run  # with the statements that the card shows
