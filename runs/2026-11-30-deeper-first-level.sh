#!/usr/bin/env bash
# How the UNet of models/animal-ldm-128, released third on 2026-11-30, was trained: that of 2026-11-30-high-rate-again.sh,
# with a second layer at 16 x 16 latents; released is the mean of the weights before (0.3) and after the training (0.7).
# Autoencoder and text encoder were taken over, the latter trained on. The training ran with commit 4f9e0b1.
# usage, from the root of a checkout: runs/2026-11-30-deeper-first-level.sh PHOTOS11 SQUEEZENET.safetensors EARLIER [OUT]
# PHOTOS11: photos prepared by 2026-11-25-animal-ldm-128.sh. EARLIER: models/animal-ldm-128 as commit 4f9e0b1 has it.
set -euo pipefail
photos=$1 squeezenet=$2 earlier=$3 out=${4:-outputs/2026-11-30-deeper-first-level}
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

python runs/grow.py "$earlier" "$out/start" --deeper 0

# Both cores for one process, without a pause.
OMP_NUM_THREADS=2 animal-ldm train --data "$photos" --output_dir "$out/run" --vae "$earlier/vae" --fork "$out/start" \
    --text_encoder scratch --balance_classes 0.5 --snr_gamma None --batch_size 64 --learning_rate 7e-4 --num_warmup_steps 200 \
    --lr_schedule cosine --max_minutes 106 --adjust_length --ema_half_life 15000 --mixed_precision bf16 \
    --scheduler sde_dpm --save_dtype float16 --samples_per_class 1 --validate_every 110000 --checkpoint_every 51200 \
    --country FRA --cache_dir "$out/cache"

python runs/mean.py "$out/start" "$out/run" "$out/animal-ldm-128" 0.7
python - "$out/animal-ldm-128" <<'END'
import sys

from animal_ldm.loading import load_pipeline, store_sampling_defaults
from animal_ldm.sampling import Sampling

folder = sys.argv[1]
settings = Sampling(
    num_inference_steps=25,
    guidance_scale=4.5,
    guidance_rescale=0.3,
    guidance_interval=(0.2, 0.8),
    pag_scale=5.0,
    pag_applied_layers=("mid_block", "up_blocks.0"),
)
store_sampling_defaults(folder, settings, load_pipeline(folder).scheduler)
END
OMP_NUM_THREADS=1 python -m torch.distributed.run --standalone --nproc_per_node=2 -m animal_ldm evaluate "$out/animal-ldm-128" \
    --data "$photos" --prompts classes -n 1106 --reconstructions --extractor squeezenet,runs/candidate/proxy_classifier \
    --extractor_weights squeezenet="$squeezenet" --squeezenet_weights "$squeezenet" --batch_size 16 --out "$out/evaluation"
python push_to_hub.py "$out/animal-ldm-128" --repo_id animal-ldm/animal-ldm-128 --results "$out/evaluation" \
    --seed 423432 --staged "$out/staged" --dry_run  # with the statements that the card shows
