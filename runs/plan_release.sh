#!/usr/bin/env bash
# A plan: never run as a whole. The next release of models/animal-ldm-128, from the photos to its card.
# usage: runs/plan_release.sh PHOTOS SQUEEZENET.safetensors [OUT]     (from the root of a checkout)
# To resume an interrupted run, give the same command again. When it has run, name it after its date and say so in
# runs/LOG.md, with everything that ran differently.
#
# GPU branch: never run. CPU branch: the settings of the released model, in a simpler order than the one that made it
# (2026-11-23-animal-ldm-128.sh): one stage after another, one decoder stage instead of two, the UNet in one piece.
set -euo pipefail
photos=$1 squeezenet=$2 out=${3:-outputs/release}
mkdir -p "$out"

if python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    # meant for half an hour on one large GPU
    autoencoder=(--preset small --num_epochs 24 --batch_size 32 --learning_rate 4e-4)
    decoder=(--num_epochs 6 --batch_size 32)
    unet=(--dropout 0.1 --num_epochs 400 --batch_size 256 --learning_rate 1e-3 --num_warmup_steps 500
          --ema_half_life 500000 --compile yes --eval_every 500000 --eval_extractor squeezenet
          --extractor_weights "$squeezenet" --validate_every 500000 --checkpoint_every 250000)
    processes=()
else
    # about four hours on four cores
    autoencoder=(--preset tiny --num_epochs 2.35 --batch_size 4 --learning_rate 5e-4 --ema_half_life 3000)
    decoder=(--num_epochs 2.7 --batch_size 4 --ema_half_life 1500)
    unet=(--num_epochs 64 --batch_size 32 --learning_rate 1.5e-3 --num_warmup_steps 200
          --ema_half_life 12000 --validate_every 80000 --checkpoint_every 10000)
    processes=(--num_cpu_threads_per_process 4)
    # glibc gives large tensors back to the system after every step; keeping them is 15 % faster
    export OMP_NUM_THREADS=4 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000
fi
resumed() { [ -d "$1/checkpoints" ] && echo --resume || true; }

# The autoencoder sees all classes, at a larger size than its crops; the text-to-image model the 11 most common.
# `prepare` resumes by itself.
[ -f "$out/photos33/preparation_report.json" ] ||
    animal-ldm prepare "$photos" "$out/photos33" --num_classes 33 --image_size 144
[ -f "$out/photos11/preparation_report.json" ] ||
    animal-ldm prepare "$photos" "$out/photos11" --num_classes 11 --image_size 128

# First latents that are accurate and easy to learn, then a decoder that makes sharp images of them.
train_autoencoder=(accelerate launch "${processes[@]}" -m animal_ldm train-autoencoder --data "$out/photos33"
    --squeezenet_weights "$squeezenet" --mixed_precision bf16 --country FRA --cache_dir "$out/cache")
[ -d "$out/autoencoder/vae" ] || "${train_autoencoder[@]}" --output_dir "$out/autoencoder" --latent_channels 8 \
    --equivariance 0.2 --kl_weight 0.1 --discriminator_weight 0 --validate_every 5000 --checkpoint_every 3000 \
    "${autoencoder[@]}" $(resumed "$out/autoencoder")
[ -d "$out/decoder/vae" ] || "${train_autoencoder[@]}" --output_dir "$out/decoder" --pretrained "$out/autoencoder" \
    --decoder_only --discriminator features --learning_rate 2e-4 --num_warmup_steps 100 --discriminator_start 0 \
    --discriminator_learning_rate 2e-4 --validate_every 2000 --validation_images 200 --checkpoint_every 1000 \
    "${decoder[@]}" $(resumed "$out/decoder")

[ -f "$out/animal-ldm-128/model_index.json" ] || accelerate launch "${processes[@]}" -m animal_ldm train \
    --data "$out/photos11" --output_dir "$out/animal-ldm-128" --vae "$out/decoder" --text_encoder scratch --unet small \
    --alignment_weight 0.5 --squeezenet_weights "$squeezenet" --balance_classes 1 --snr_gamma None --lr_schedule cosine \
    --scheduler sde_dpm --save_dtype float16 --mixed_precision bf16 --country FRA --cache_dir "$out/cache" \
    "${unet[@]}" $(resumed "$out/animal-ldm-128")

animal-ldm evaluate "$out/animal-ldm-128" --data "$out/photos11" -n 5000 --guidance_scale 3 --reconstructions \
    --extractor squeezenet --extractor_weights "$squeezenet" --out "$out/evaluation" --cache_dir "$out/cache"

# The folder as it would be uploaded; it replaces the included model once it is complete.
rm -rf "$out/staged"
animal-ldm push "$out/animal-ldm-128" --repo_id animal-ldm/animal-ldm-128 --results "$out/evaluation" \
    --data "$out/photos11" --dataset_title "Animal photos collected from public repositories" --seed 423432 \
    --staged "$out/staged" --dry_run
rm -rf models/animal-ldm-128
cp -r "$out/staged" models/animal-ldm-128

# examples/animals-mini: thirty images of every class, to try every step on
python - <<'PYTHON'
from pathlib import Path

from animal_ldm.data.captions import with_article
from animal_ldm.loading import load_pipeline
from animal_ldm.sampling import Sampling, sample_images

pipeline = load_pipeline("models/animal-ldm-128", device="cpu")
for name in pipeline.classes:
    folder = Path("examples/animals-mini/train", name.title())
    folder.mkdir(parents=True, exist_ok=True)
    prompts, seeds = [with_article(name)] * 30, range(1000, 1030)
    sampling = Sampling(num_inference_steps=25, guidance_scale=3.0)
    for number, image in enumerate(sample_images(pipeline, prompts, seeds, sampling)):
        image.save(folder / f"{number:03}.jpg", quality=85)
PYTHON
