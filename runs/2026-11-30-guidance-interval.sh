#!/usr/bin/env bash
# How models/animal-ldm-128, released second on 2026-11-30, was made: the weights of 2026-11-30-high-rate-again.sh, guided
# from 0.2 instead of 0.1 of the steps on, and rescaled.
# usage, from the root of a checkout: runs/2026-11-30-guidance-interval.sh PHOTOS11 SQUEEZENET.safetensors EARLIER [OUT]
# PHOTOS11: photos prepared by 2026-11-25-animal-ldm-128.sh. EARLIER: models/animal-ldm-128 as commit 833321a has it.
set -euo pipefail
photos=$1 squeezenet=$2 earlier=$3 out=${4:-outputs/2026-11-30-guidance-interval}
mkdir -p "$out"

cp -r "$earlier" "$out/animal-ldm-128"
python - "$out/animal-ldm-128" <<'END'
import sys

from animal_ldm.loading import load_pipeline, store_sampling_defaults
from animal_ldm.sampling import Sampling

folder = sys.argv[1]
settings = Sampling(
    num_inference_steps=25,
    guidance_scale=4.0,
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
