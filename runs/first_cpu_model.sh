#!/usr/bin/env bash
# The first model, on a CPU of four cores in about two hours: photos -> autoencoder -> text-to-image model -> pictures.
# usage: runs/first_cpu_model.sh PHOTOS SQUEEZENET.safetensors   (figures: runs/LOG.md)
set -euo pipefail
photos=$1 squeezenet=$2 out=outputs/first_cpu_model
export OMP_NUM_THREADS=3
# glibc gives large tensors back to the system after every step; keeping them is 15 % faster here
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

# the autoencoder sees all 33 classes, larger than its crops; the text-to-image model the 11 most common
animal-ldm prepare "$photos" $out/photos33 --num_classes 33 --image_size 144
animal-ldm prepare "$photos" $out/photos11

accelerate launch --num_cpu_threads_per_process 3 -m animal_ldm.training.autoencoder \
    --data $out/photos33 --output_dir $out/autoencoder --preset tiny --perceptual_weights "$squeezenet" \
    --num_epochs 2 --batch_size 8 --learning_rate 6e-4 --discriminator_start 0.7 --mixed_precision bf16 \
    --validate_every 8000 --checkpoint_every 2000 --country FRA --cache_dir $out/cache

accelerate launch --num_cpu_threads_per_process 3 train_text_to_image.py \
    --data $out/photos11 --output_dir $out/model --vae $out/autoencoder --text_encoder scratch --unet tiny \
    --num_epochs 25 --batch_size 64 --learning_rate 8e-4 --num_warmup_steps 200 --lr_schedule cosine \
    --ema_half_life 20000 --mixed_precision bf16 \
    --validate_every 50000 --checkpoint_every 10000 --country FRA --cache_dir $out/cache

animal-ldm generate "a zebra" -n 8 --seed 1 --model $out/model --out $out/zebra.png
