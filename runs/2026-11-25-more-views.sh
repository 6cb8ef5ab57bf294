#!/usr/bin/env bash
# How the UNet of models/animal-ldm-128, released on 2026-11-25 at night, was trained: that of the evening's release
# (2026-11-25-wider-unet.sh) with two more views of every training photo and dropout, on the same latents and captions.
# usage, from the root of a checkout: runs/2026-11-25-more-views.sh SOURCE PHOTOS11 SQUEEZENET.safetensors EARLIER [OUT]
# SOURCE: the photos. PHOTOS11: photos prepared by 2026-11-25-animal-ldm-128.sh. EARLIER: models/animal-ldm-128 as commit
# c59e42e has it.
set -euo pipefail
source=$1 photos=$2 squeezenet=$3 earlier=$4 out=${5:-outputs/2026-11-25-views}
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

python runs/views.py "$source" "$photos" "$out/photos11-views"
cp -r "$earlier" "$out/start"
python - "$out/start" <<'END'
import json
import sys
from pathlib import Path

from animal_ldm.loading import seal

folder = Path(sys.argv[1])
path = folder / "unet" / "config.json"
path.write_text(json.dumps(json.loads(path.read_text()) | {"dropout": 0.1}, indent=2) + "\n")
seal(folder)
END

# One core of two, with real-time priority.
animal-ldm train --data "$out/photos11-views" --output_dir "$out/animal-ldm-128" --vae "$earlier" \
    --fork "$out/start" --text_encoder scratch --balance_classes --snr_gamma None --alignment_weight 0.5 \
    --squeezenet_weights "$squeezenet" --batch_size 32 --num_epochs 10 --learning_rate 6e-4 --num_warmup_steps 200 \
    --lr_schedule cosine --ema_half_life 15000 --mixed_precision bf16 --scheduler sde_dpm --save_dtype float16 \
    --validate_every 25000 --checkpoint_every 25000 --country FRA --cache_dir "$out/cache"
