#!/usr/bin/env bash
# How a UNet was made from that of models/animal-ldm-128, but not released: trained against its own samples twice, first
# against plain ones, then against guided ones. It ran as an earlier form of against_samples.py: 256 samples were held out
# to watch, and the first training was two, of 6 minutes (3e-5) and 20 (4e-5), at a constant rate for 0.6 of each.
# usage, from the root of a checkout: runs/2026-11-30-against-samples.sh PHOTOS11 SQUEEZENET.safetensors EARLIER [OUT]
# PHOTOS11: photos prepared by 2026-11-25-animal-ldm-128.sh. EARLIER: models/animal-ldm-128 as commit b6392c9 has it.
set -euo pipefail
photos=$1 squeezenet=$2 earlier=$3 out=${4:-outputs/2026-11-30-against-samples}
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000
mkdir -p "$out"

against() { python runs/against_samples.py "$@"; }
both() {  # parts of the samples, a core each
    OMP_NUM_THREADS=1 against sample "$@" --part 0 & local other=$!
    OMP_NUM_THREADS=1 against sample "$@" --part 1
    wait $other
}

both "$earlier" "$photos" "$out/plain" -n 4000 --plain
OMP_NUM_THREADS=2 against train "$earlier" "$photos" "$out/first" --samples "$out"/plain.*.pt --minutes 26 \
    --learning_rate 4e-5 --cache_dir "$out/cache"
both "$out/first" "$photos" "$out/guided" -n 1600
OMP_NUM_THREADS=2 against train "$out/first" "$photos" "$out/animal-ldm-128" --samples "$out"/guided.*.pt --minutes 27 \
    --learning_rate 3e-5 --cache_dir "$out/cache"
python - "$out/animal-ldm-128" <<'END'
import sys

from animal_ldm.loading import load_pipeline, store_sampling_defaults
from animal_ldm.sampling import Sampling

folder = sys.argv[1]
settings = Sampling(
    num_inference_steps=25,
    guidance_scale=6.0,
    guidance_rescale=0.3,
    guidance_interval=(0.2, 0.8),
    pag_scale=7.0,
    pag_applied_layers=("mid_block", "up_blocks.0"),
)
store_sampling_defaults(folder, settings, load_pipeline(folder).scheduler)
END
OMP_NUM_THREADS=1 python -m torch.distributed.run --standalone --nproc_per_node=2 -m animal_ldm evaluate "$out/animal-ldm-128" \
    --data "$photos" --prompts classes -n 1106 --reconstructions --extractor squeezenet,runs/candidate/proxy_classifier \
    --extractor_weights squeezenet="$squeezenet" --squeezenet_weights "$squeezenet" --batch_size 16 --out "$out/evaluation"
