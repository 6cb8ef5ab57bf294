#!/usr/bin/env bash
# How models/animal-ldm-128, released on 2026-11-23, was trained: its stages in the order in which they ran.
# usage: PATH/TO/THIS/2026-11-23-animal-ldm-128.sh PHOTOS SQUEEZENET.safetensors [OUT]
#
# Check out 92332d9 to run this (git worktree add ../animal-ldm-92332d9 92332d9; call it there): the options are those of
# that commit, which holds the finished model and the code of a4cda85. The stages themselves ran while the code was being
# written. By the dates of the commits and the options in the reports: stage 1 between 66a671f and 1e0a43b, stages 2 and
# 3 on about fc2f536, stages 4 and 5 on about aa4635e, the rest on a4cda85. Figures, and what else was tried: runs/LOG.md.
#
# RECONSTRUCTED afterwards; never run in one piece. The commands themselves were not kept.
#   from models/animal-ldm-128/training_report.json: all arguments of stages 2 and 4 and of the last parts of stages 1
#     and 5, images and seconds of each part of the UNet's training, threads of each stage's last part
#   from runs/LOG.md: the parts of stage 1, what ran side by side and on which cores, the evaluation
#   from runs/release.sh of that day (git show a4cda85:runs/release.sh): preparing, the MALLOC_ variables, push, examples
#   assumed, and marked with "assumed" below: what none of these tell
# Checked: parsed by the code of 92332d9, the last commands of stages 1, 2, 4 and 5 give the arguments in the report,
# except for names of folders and files and --resume of stage 4.
# Not reproduced: stage 4 was stopped and resumed at least once; where is not recorded. Later code, bf16 and other
# machines change the last bits, so expect a model like the released one, not the same file.
set -euo pipefail
photos=$1 squeezenet=$2 out=${3:-outputs/2026-11-23}
mkdir -p "$out"
# glibc gives large tensors back to the system after every step; keeping them is 15 % faster
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

# stopped_at IMAGES FOLDER COMMAND ...: run COMMAND until FOLDER holds the checkpoint after IMAGES images, then kill it.
# (assumed: how the parts were ended is not recorded; that the next one started from this checkpoint is.)
stopped_at() {
    local checkpoint pid
    checkpoint=$2/checkpoints/images-$(printf %010d "$1").pt
    setsid "${@:3}" &
    pid=$!
    while kill -0 "$pid" 2>/dev/null && [ ! -f "$checkpoint" ]; do sleep 1; done
    kill -KILL -- "-$pid" 2>/dev/null || true
    wait "$pid" || true
    [ -f "$checkpoint" ]
}

# The autoencoder sees all classes, at a larger size than its crops; the text-to-image model the 11 most common.
# 12,002 + 1,334 and 9,953 + 1,106 photos.
animal-ldm prepare "$photos" "$out/photos33" --num_classes 33 --image_size 144
animal-ldm prepare "$photos" "$out/photos11"

# --- Stage 1: the autoencoder, 28,208 images, 45 minutes on four threads, in three parts ------------------------------
autoencoder=(env OMP_NUM_THREADS=4 accelerate launch --num_cpu_threads_per_process 4 -m animal_ldm.training.autoencoder
    --data "$out/photos33" --output_dir "$out/autoencoder" --preset tiny --latent_channels 8 --batch_size 4
    --learning_rate 5e-4 --kl_weight 0.1 --equivariance 0.2 --ema_half_life 3000 --perceptual_weights "$squeezenet"
    --mixed_precision bf16 --validate_every 5000 --checkpoint_every 3000 --country FRA --cache_dir "$out/cache")
# to 6,000 images: planned for 31,208 (which is 2.6 epochs), and before the coarse L1 existed
# (assumed: that the arguments the log does not name, in this part and the next, are those of the last part)
stopped_at 6000 "$out/autoencoder" "${autoencoder[@]}" --num_epochs 2.6 --coarse_weight 0
# to 18,000 images: with the coarse L1; the discriminator was to start at 19,745 (which is 0.7 of this length)
stopped_at 18000 "$out/autoencoder" "${autoencoder[@]}" --num_epochs 2.35 --discriminator_start 0.7 --resume
# to the end: without a discriminator
"${autoencoder[@]}" --num_epochs 2.35 --discriminator_weight 0 --resume

# --- Stages 2 and 3, side by side -------------------------------------------------------------------------------------
decoder=(env OMP_NUM_THREADS=1 taskset -c 3 accelerate launch --num_cpu_threads_per_process 1
    -m animal_ldm.training.autoencoder --data "$out/photos33" --decoder_only --batch_size 4 --learning_rate 2e-4
    --num_warmup_steps 100 --discriminator_start 0 --discriminator_learning_rate 2e-4 --ema_half_life 1500
    --perceptual_weights "$squeezenet" --mixed_precision bf16 --validation_images 200 --checkpoint_every 1000
    --country FRA --cache_dir "$out/cache")
unet=(train_text_to_image.py --data "$out/photos11" --output_dir "$out/unet" --text_encoder scratch
    --unet small --batch_size 32 --balance_classes --snr_gamma None --alignment_weight 0.5
    --perceptual_weights "$squeezenet" --learning_rate 1.5e-3 --num_warmup_steps 200 --lr_schedule cosine
    --ema_half_life 12000 --mixed_precision bf16 --validate_every 80000 --save_dtype float16 --checkpoint_every 10000
    --country FRA --cache_dir "$out/cache")
# Three cores for the UNet, ahead of all other processes; this needs root. The decoder has the fourth.
# (In the log for stage 3. Assumed for stages 5 and 4, of which the log tells three threads and one core.)
three_cores=(env OMP_NUM_THREADS=3 nice -n -10 taskset -c 0-2 chrt -f 1 accelerate launch
    --num_cpu_threads_per_process 3)

# Stage 2: the decoder only, patch discriminator, 18,004 images, 70 minutes on one core
# (the option --discriminator did not exist yet; patches were the only kind)
"${decoder[@]}" --pretrained "$out/autoencoder" --output_dir "$out/decoder_patches" --num_epochs 1.5 \
    --discriminator patches --validate_every 2000 &
stage2=$!
# Stage 3: the UNet on the latents of stage 1, 338,432 images, 84 minutes
# (assumed: --scheduler, here the default; it changes only the sample grids)
"${three_cores[@]}" "${unet[@]}" --vae "$out/autoencoder" --num_epochs 34
wait "$stage2"
# The third try was released from here: a copy of "$out/unet" took over the decoder of stage 2 and
# --scheduler euler_ancestral with --resume. The model below does not descend from that copy.

# --- Stages 4 and 5, side by side -------------------------------------------------------------------------------------
# Stage 4: the decoder of stage 2 continues with the feature discriminator, 14,404 images, 73 minutes on one core
"${decoder[@]}" --pretrained "$out/decoder_patches" --output_dir "$out/decoder_features" --num_epochs 1.2 \
    --discriminator features --validate_every 1000 &
stage4=$!
# Stage 5: the UNet continues to 636,992 images, 73 minutes
# (assumed: --vae and --scheduler of this part; weights do not depend on them, for all decoders share the latents)
"${three_cores[@]}" "${unet[@]}" --vae "$out/autoencoder" --num_epochs 64 --resume
wait "$stage4"
# ... and takes over the new decoder and the scheduler: no training, 3 seconds, four threads.
OMP_NUM_THREADS=4 accelerate launch --num_cpu_threads_per_process 4 "${unet[@]}" --vae "$out/decoder_features" \
    --num_epochs 64 --scheduler sde_dpm --resume

# --- Evaluation and card ----------------------------------------------------------------------------------------------
# (assumed: the copy. The evaluation names the folder animal-ldm-128, the training report another.)
cp -r "$out/unet" "$out/animal-ldm-128"
animal-ldm evaluate "$out/animal-ldm-128" --data "$out/photos11" -n 5000 --guidance_scale 3 --reconstructions \
    --extractor squeezenet --extractor_weights "$squeezenet" --out "$out/evaluation"

# The card was later rendered anew from the same figures (d72501c); weights and samples stayed.
rm -rf models/animal-ldm-128
python push_to_hub.py "$out/animal-ldm-128" --repo_id animal-ldm/animal-ldm-128 --results "$out/evaluation" \
    --data "$out/photos11" --seed 423432 --staged models/animal-ldm-128 --dry_run

# examples/animals-mini: thirty images of every class
python - <<'PYTHON'
from pathlib import Path

import torch

from animal_ldm import AnimalLDMPipeline
from animal_ldm.data.captions import with_article

pipeline = AnimalLDMPipeline.from_pretrained("models/animal-ldm-128")
for name in pipeline.classes:
    folder = Path("examples/animals-mini/train", name.title())
    folder.mkdir(parents=True, exist_ok=True)
    generators = [torch.Generator().manual_seed(1000 + number) for number in range(30)]
    images = pipeline([with_article(name)] * 30, num_inference_steps=25, guidance_scale=3.0, generator=generators).images
    for number, image in enumerate(images):
        image.save(folder / f"{number:03}.jpg", quality=85)
PYTHON
