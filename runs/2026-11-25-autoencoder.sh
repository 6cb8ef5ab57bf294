#!/usr/bin/env bash
# The autoencoder of the next release, with 12 latent channels, as it was trained: with the code and the option names of
# commit c539e57, with runs/widen_latents.py copied in and adapted (it is tidied here; its random numbers differ in order).
# usage: runs/2026-11-25-autoencoder.sh PHOTOS SQUEEZENET.safetensors START_VAE OUT
# START_VAE: an AutoencoderKL with 8 channels, of which channels 1 and 6 carry nothing (runs/LOG.md). One core, 1.9 hours.
set -euo pipefail
photos=$1 squeezenet=$2 start=$3 out=$4
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000
animal-ldm prepare "$photos" "$out/photos33" --num_classes 33 --image_size 144
python runs/widen_latents.py "$out/photos33" "$start" "$out/start12" 12 0,2,3,4,5,7
python -m animal_ldm.training.autoencoder --data "$out/photos33" --output_dir "$out/autoencoder12" \
    --pretrained "$out/start12" --perceptual_weights "$squeezenet" --mixed_precision bf16 --report_to none --country FRA \
    --batch_size 4 --learning_rate 4e-4 --num_epochs "$(python -c 'print(48000 / 12002)')" --kl_weight 0.05 \
    --discriminator features --discriminator_start 0 --equivariance 0.2 --ema_half_life 3000 \
    --validate_every 5000 --validation_images 200 --checkpoint_every 2000
