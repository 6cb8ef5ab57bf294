#!/usr/bin/env bash
# The road to the released model, models/animal-ldm-128, from the photos to its card, in one command.
# usage: runs/release.sh PHOTOS SQUEEZENET.safetensors [OUT]     (what it gave, and what was tried: runs/LOG.md)
# A stopped run goes on where it stood when the same command is given again.
set -euo pipefail
photos=$1 squeezenet=$2 out=${3:-outputs/release}
mkdir -p "$out"

if python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    # planned for half an hour of one large GPU; not yet run
    autoencoder=(--preset small --num_epochs 24 --batch_size 32 --learning_rate 4e-4)
    decoder=(--num_epochs 6 --batch_size 32)
    unet=(--dropout 0.1 --num_epochs 400 --batch_size 256 --learning_rate 1e-3 --num_warmup_steps 500
          --ema_half_life 500000 --compile --eval_every 500000 --eval_extractor squeezenet --eval_weights "$squeezenet"
          --validate_every 500000 --checkpoint_every 250000)
    processes=()
else
    # about four hours of four cores: what the model that is there now was made with, but for what runs/LOG.md tells
    autoencoder=(--preset tiny --num_epochs 2.35 --batch_size 4 --learning_rate 5e-4 --ema_half_life 3000)
    decoder=(--num_epochs 2.7 --batch_size 4 --ema_half_life 1500)
    unet=(--num_epochs 64 --batch_size 32 --learning_rate 1.5e-3 --num_warmup_steps 200
          --ema_half_life 12000 --validate_every 80000 --checkpoint_every 10000)
    processes=(--num_cpu_threads_per_process 4)
    # glibc gives large tensors back to the system after every step; keeping them is 15 % faster
    export OMP_NUM_THREADS=4 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000
fi
resumed() { [ -d "$1/checkpoints" ] && echo --resume || true; }

# The autoencoder sees all classes, larger than its crops; the text-to-image model the 11 most common.
[ -d "$out/photos33" ] || animal-ldm prepare "$photos" "$out/photos33" --num_classes 33 --image_size 144
[ -d "$out/photos11" ] || animal-ldm prepare "$photos" "$out/photos11"

# First latents that hold the picture and are easy to learn, then a decoder that draws them sharply.
train_autoencoder=(accelerate launch "${processes[@]}" -m animal_ldm.training.autoencoder --data "$out/photos33"
    --perceptual_weights "$squeezenet" --mixed_precision bf16 --country FRA --cache_dir "$out/cache")
[ -d "$out/autoencoder/vae" ] || "${train_autoencoder[@]}" --output_dir "$out/autoencoder" --latent_channels 8 \
    --equivariance 0.2 --kl_weight 0.1 --discriminator_weight 0 --validate_every 5000 --checkpoint_every 3000 \
    "${autoencoder[@]}" $(resumed "$out/autoencoder")
[ -d "$out/decoder/vae" ] || "${train_autoencoder[@]}" --output_dir "$out/decoder" --pretrained "$out/autoencoder" \
    --decoder_only --discriminator features --learning_rate 2e-4 --num_warmup_steps 100 --discriminator_start 0 \
    --discriminator_learning_rate 2e-4 --validate_every 2000 --validation_images 200 --checkpoint_every 1000 \
    "${decoder[@]}" $(resumed "$out/decoder")

[ -f "$out/animal-ldm-128/model_index.json" ] || accelerate launch "${processes[@]}" train_text_to_image.py \
    --data "$out/photos11" --output_dir "$out/animal-ldm-128" --vae "$out/decoder" --text_encoder scratch --unet small \
    --alignment_weight 0.5 --perceptual_weights "$squeezenet" --balance_classes --snr_gamma None --lr_schedule cosine \
    --scheduler sde_dpm --save_dtype float16 --mixed_precision bf16 --country FRA --cache_dir "$out/cache" \
    "${unet[@]}" $(resumed "$out/animal-ldm-128")

animal-ldm evaluate "$out/animal-ldm-128" --data "$out/photos11" -n 5000 --guidance_scale 3 --reconstructions \
    --extractor squeezenet --extractor_weights "$squeezenet" --out "$out/evaluation"

rm -rf models/animal-ldm-128
python push_to_hub.py "$out/animal-ldm-128" --repo_id animal-ldm/animal-ldm-128 --results "$out/evaluation" \
    --data "$out/photos11" --seed 423432 --staged models/animal-ldm-128 --dry_run

# Thirty pictures of every class, drawn by the model, for those who want to try the whole road on something small.
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
    pictures = pipeline([with_article(name)] * 30, num_inference_steps=25, guidance_scale=3.0, generator=generators).images
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number:03}.jpg", quality=85)
PYTHON
