#!/usr/bin/env bash
# How models/animal-ldm-128, released fourth on 2026-11-30, was trained: UNet and text encoder of the release before
# trained on without the photos of 2026-11-30-photos-left-out.txt. The training ran with commit 13b45f4.
# usage, from the root of a checkout: runs/2026-11-30-photos-with-animals.sh PHOTOS11 SQUEEZENET.safetensors EARLIER [OUT]
# PHOTOS11: photos prepared by 2026-11-25-animal-ldm-128.sh. EARLIER: models/animal-ldm-128 as commit 13b45f4 has it.
set -euo pipefail
photos=$1 squeezenet=$2 earlier=$3 out=${4:-outputs/2026-11-30-photos-with-animals}
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

# The names of prepared photos are digests, so the list holds wherever the same photos are prepared.
mkdir -p "$out"
cp -r "$photos" "$out/photos"
grep -v -F -f <(sed 's/.*/"file_name": "&"/' runs/2026-11-30-photos-left-out.txt) "$photos/train/metadata.jsonl" \
    > "$out/photos/train/metadata.jsonl"

# On one core; on the other one a decoder was trained that is not released (see the log).
animal-ldm train --data "$out/photos" --output_dir "$out/animal-ldm-128" --vae "$earlier/vae" --fork "$earlier" \
    --text_encoder scratch --balance_classes 0.5 --snr_gamma None --batch_size 64 --learning_rate 6e-4 --num_warmup_steps 200 \
    --lr_schedule cosine --max_minutes 100 --adjust_length --ema_half_life 15000 --mixed_precision bf16 \
    --scheduler sde_dpm --save_dtype float16 --samples_per_class 1 --validate_every 80000 --checkpoint_every 51200 \
    --country FRA --cache_dir "$out/cache"

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
    guidance_rescale=0.3,
    guidance_interval=(0.2, 0.8),
    pag_scale=5.0,
    pag_applied_layers=("mid_block", "up_blocks.0"),
)
store_sampling_defaults(folder, settings, load_pipeline(str(folder)).scheduler)
END
OMP_NUM_THREADS=1 python -m torch.distributed.run --standalone --nproc_per_node=2 -m animal_ldm evaluate "$out/animal-ldm-128" \
    --data "$photos" --prompts classes -n 1106 --reconstructions --extractor squeezenet,runs/candidate/proxy_classifier \
    --extractor_weights squeezenet="$squeezenet" --squeezenet_weights "$squeezenet" --batch_size 16 --out "$out/evaluation"
python push_to_hub.py "$out/animal-ldm-128" --repo_id animal-ldm/animal-ldm-128 --results "$out/evaluation" \
    --seed 423432 --staged "$out/staged" --dry_run  # with the statements that the card shows
