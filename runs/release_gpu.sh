#!/usr/bin/env bash
# shellcheck disable=SC2317,SC2329
# The next release on one large GPU that is rented by the half hour. A plan: never run on a GPU; rehearsed on a
# CPU with 60 photos (REHEARSAL=1, runs/LOG.md).
#
# Expected of the GPU machine: Linux on x86_64, Python 3.12 with torch, no network, calls of at most ten minutes, a
# checkout of this repository at the same path in every call, 64 MiB in and 64 MiB out per call. Everything lies below
# $RELEASE_DIR, default outputs/gpu, which stays there between the calls. A stage takes nine minutes at most
# ($STAGE_SECONDS); the same call goes on with a stage that was killed, and does nothing for one that is done.
#
# The calls, each `bash runs/release_gpu.sh CALL` from the root of a checkout. After `pack`,
# `git sparse-checkout set --no-cone '/*' '!/models' '!/examples'` leaves 8 MiB of the checkout, so that a part fits
# beside it. INSTALLED is `pip list --format=freeze` of the GPU machine.
#
#   where call                                       in                                  out
#   here  pack PHOTOS SQUEEZENET INSTALLED [STATE]                                       parts/*/
#   GPU   unpack                (once per part)      a part and the SHA256SUMS beside it
#   GPU   setup; measure 23                                                              plan: minutes, images/s
#   GPU   autoencoder; collect autoencoder 0 TO                                          the autoencoder, if the rest fails
#   GPU   decoder
#   GPU   unet                                                                           stops after nine minutes
#   GPU   unet; collect model 0 TO                                                       shards 0 to 6 of the model
#   GPU   collect model 1 TO    (and 2, ...)                                             shards 7 to 13, ...
#   here  join model FROM       (all files, put into one folder)                         model/
#   here  evaluate
#
# TO is a folder that the call gives back. What `join autoencoder FROM` makes is a STATE of the next machine: after
# `unpack`, it measures again and divides the minutes among what is left.
#
# Sizes: photos33 91 MiB and photos11 62 MiB (13,336 photos of 144 px, 11,059 of 128 px), two parts each; wheels 173 MiB,
# four parts, if the machine has nothing but torch, transformers, accelerate and numpy; start 15 MiB, one part. A
# `medium` model is about 100 MB in float16, two calls of `collect`, and larger than a model that is released may be.
set -euo pipefail

work=${RELEASE_DIR:-outputs/gpu} python=${PYTHON:-python3} limit=${STAGE_SECONDS:-530}
part=${PART:-48M} shard=9M shards_per_call=7 # 7 shards and their digests: 8 files, 63 MiB
inputs=$work/inputs site=$(realpath -m "$work/site") limited=() proxy=runs/candidate/proxy_classifier

# --- on both sides: folders as parts with digests --------------------------------------------------------------------

bundle() { # SIZE TARGET FOLDER ARGUMENTS-OF-TAR...: TARGET holds FOLDER as parts of SIZE
    rm -rf "$2.partial"
    mkdir -p "$2.partial"
    tar -C "$3" --sort=name -cf - "${@:4}" | split -b "$1" -d -a 3 - "$2.partial/part"
    (cd "$2.partial" && sha256sum part* >SHA256SUMS)
    rm -rf "$2"
    mv "$2.partial" "$2"
}

unbundle() { # PARTS FOLDER: FOLDER is there whole, or not at all
    if [ -d "$2" ]; then return; fi
    if ! (cd "$1" && sha256sum --check --quiet SHA256SUMS); then
        echo "$1: not all parts are there as they were packed. Bring the others."
        return 1
    fi
    rm -rf "$2.partial"
    mkdir -p "$2.partial"
    cat "$1"/part* | tar -xf - -C "$2.partial"
    mv "$2.partial" "$2"
}

# --- here, before ----------------------------------------------------------------------------------------------------

prepared() { # NAME ARGUMENTS-OF-PREPARE...: photos as WebP of quality 90 in $inputs/NAME
    if [ -d "$inputs/$1" ]; then return; fi
    [ -f "$work/$1/preparation_report.json" ] || animal-ldm prepare "$photos" "$work/$1" "${@:2}"
    rm -rf "$inputs/$1.partial"
    python runs/release_gpu.py webp "$work/$1" "$inputs/$1.partial"
    mv "$inputs/$1.partial" "$inputs/$1"
}

wheels() { # INSTALLED: what this project needs and the GPU machine lacks, for Python 3.12. Needs `pip install uv`.
    if [ -d "$inputs/wheels" ]; then return; fi
    local to=$inputs/wheels.partial platforms=()
    rm -rf "$to"
    mkdir -p "$to"
    # names as uv writes them, versions without +cu130; what is there stays wherever it satisfies, torch in any case
    awk -F== 'NF == 2 {gsub(/[_.]/, "-", $1); sub(/\+.*/, "", $2); print tolower($1) "==" $2}' "$1" |
        LC_ALL=C sort >"$work/installed"
    grep '^torch==' "$work/installed" >"$work/fixed"
    cp "$work/installed" "$work/resolved"
    uv pip compile pyproject.toml --constraints "$work/fixed" --python-version 3.12 --only-binary :all: \
        --python-platform x86_64-manylinux_2_28 --no-annotate --no-header --quiet -o "$work/resolved" >/dev/null
    LC_ALL=C sort -o "$work/resolved" "$work/resolved"
    LC_ALL=C comm -13 "$work/installed" "$work/resolved" >"$work/carried"
    for tag in _2_28 _2_27 _2_26 _2_24 _2_17 2014 _2_12 2010 _2_5 1; do # pip takes each literally
        platforms+=(--platform "manylinux${tag}_x86_64")
    done
    pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
        -d "$to" -r "$work/carried"
    # the code comes with the checkout; of the package itself its metadata are needed, which tell its version
    pip install --quiet --no-deps --no-compile --target "$work/package" .
    mv "$work"/package/*.dist-info "$to"
    rm -rf "$work/package"
    mv "$to" "$inputs/wheels"
}

pack() { # PHOTOS SQUEEZENET INSTALLED [STATE]
    local photos=$1 released=models/animal-ldm-128
    mkdir -p "$inputs" "$work/parts"
    prepared photos33 --num_classes 33 --image_size 144
    prepared photos11 --describe
    wheels "$3"
    rm -rf "$inputs/start"
    mkdir -p "$inputs/start/released"
    cp -r "$released"/{vae,model_index.json,training_report.json} "$inputs/start/released"
    cp "$2" "$inputs/start/squeezenet.safetensors"
    for name in photos33 photos11 wheels start; do
        bundle "$part" "$work/parts/$name" "$inputs/$name" .
    done
    if [ $# = 4 ]; then bundle "$part" "$work/parts/state" "$4" .; fi # folders autoencoder, decoder, unet
    du -h "$work"/parts/*/part*
}

# --- on the GPU machine ----------------------------------------------------------------------------------------------

carried() { # ARGUMENTS-OF-PYTHON...: with the carried packages
    PYTHONPATH=$PWD:$site HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 "${limited[@]}" "$python" "$@"
}

unpack() {
    local run
    for parts in "$work"/parts/*/; do
        unbundle "$parts" "$inputs/$(basename "$parts")" || true # the other parts come with the next call
    done
    for state in "$inputs"/state/*/; do
        run=$work/$(basename "$state")
        if [ -d "$state" ] && [ ! -d "$run" ]; then
            rm -rf "$run.partial"
            cp -r "$state" "$run.partial"
            mv "$run.partial" "$run"
        fi
    done
    ls "$inputs"
}

setup() {
    if [ ! -d "$site" ]; then
        rm -rf "$site.partial"
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site.partial" \
            "$inputs"/wheels/*.whl
        cp -r "$inputs"/wheels/*.dist-info "$site.partial"
        mv "$site.partial" "$site"
    fi
    carried -m pip check || echo "If something fails, the packages above may be the reason."
    carried -c 'import torch, animal_ldm.training.autoencoder, animal_ldm.training.text_to_image as _
print("torch", torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "without a GPU")'
}

train() { # COMMAND FOLDER ARGUMENTS...: begin it, or go on with it, for as long as a stage may take
    if [ -f "$2/training_report.json" ]; then return; fi
    local arguments=("$1" --output_dir "$2" "${@:3}" --squeezenet_weights "$inputs/start/squeezenet.safetensors"
        --report_to none --cache_dir "$work/cache" --checkpoints_total_limit 1
        --validate_every 1000000000 ${COUNTRY:+--country "$COUNTRY"})
    if [ -d "$2/checkpoints" ]; then arguments+=(--resume); fi
    limited=(timeout --signal=KILL "$limit")
    if ! carried -m animal_ldm "${arguments[@]}"; then
        echo "$2 is not finished. If its $limit seconds were over, the same call goes on with it."
        return 1
    fi
    limited=()
}

if [ "${REHEARSAL:-}" = "" ]; then
    autoencoder_options=(--batch_size 32 --learning_rate 4e-4 --ema_half_life 10000)
    decoder_options=(--batch_size 32)
    unet_options=(--unet medium --dropout 0.15 --batch_size 256 --learning_rate 1e-3 --num_warmup_steps 500
        --ema_half_life 500000 --compile yes --eval_images 1024)
else # any value: sizes for a CPU
    autoencoder_options=(--batch_size 2 --learning_rate 4e-4 --validation_images 4)
    decoder_options=(--batch_size 2 --validation_images 4)
    unet_options=(--unet tiny --dropout 0.15 --batch_size 8 --learning_rate 1e-3 --ema_half_life 100 --eval_images 11
        --samples_per_class 1 --num_inference_steps 2)
fi
# as runs/2026-11-25-autoencoder.sh and runs/2026-11-25-animal-ldm-128.sh, but for the second half of the UNet's training:
# without alignment, as runs/2026-11-25-own-proportions.sh. Classes go by the root of their sizes, which was not tried.
autoencoder_options+=(--data "$inputs/photos33" --pretrained "$inputs/start/released" --kl_weight 0.05 --equivariance 0.2
    --discriminator features --discriminator_start 0)
decoder_options+=(--data "$inputs/photos33" --decoder_only --learning_rate 2e-4 --num_warmup_steps 100
    --discriminator features --discriminator_start 0 --discriminator_learning_rate 2e-4)
unet_options+=(--data "$inputs/photos11" --text_encoder scratch --balance_classes 0.5 --snr_gamma None --alignment_weight 0.5
    --alignment_end 0.5 --lr_schedule cosine --scheduler sde_dpm --save_dtype float16 --eval_every 1000000000 --eval_extractor "$proxy")

measure() { # MINUTES of training in all
    local minutes=${MEASURE_MINUTES:-1}
    [ -f "$work/measured/autoencoder/training_report.json" ] || rm -rf "$work/measured/autoencoder"
    train train-autoencoder "$work/measured/autoencoder" "${autoencoder_options[@]}" --max_minutes "$minutes"
    [ -f "$work/measured/unet/training_report.json" ] || rm -rf "$work/measured/unet"
    train train "$work/measured/unet" "${unet_options[@]}" --vae "$inputs/start/released" --max_minutes "$minutes"
    carried runs/release_gpu.py plan "$work/measured" "$1" >"$work/plan.partial"
    mv "$work/plan.partial" "$work/plan"
}

planned() { # STAGE: its minutes, and a checkpoint about every minute
    if [ ! -f "$work/plan" ]; then echo "There is no plan: measure first." && return 1; fi
    read -ra length < <(sed -n "s/^$1 //p" "$work/plan")
}

autoencoder() {
    planned autoencoder
    train train-autoencoder "$work/autoencoder" "${autoencoder_options[@]}" "${length[@]}"
}

decoder() {
    planned decoder
    train train-autoencoder "$work/decoder" "${decoder_options[@]}" --pretrained "$work/autoencoder" "${length[@]}"
}

unet() {
    planned unet
    train train "$work/unet" "${unet_options[@]}" --vae "$work/decoder" "${length[@]}"
}

collect() { # NAME CALL TO: shards of a run, or of `model`, the best UNet with all reports
    local first=$(($2 * shards_per_call)) shards=$work/shards/$1
    if [ "$2" = 0 ]; then
        local what=("$1")
        if [ "$1" = model ]; then
            rm -rf "$work/model"
            carried runs/release_gpu.py best "$work/unet" "$work/model"
            what=(model unet/training.html unet/samples autoencoder/training.html decoder/training.html
                autoencoder/samples decoder/samples plan)
        elif [ -f "$work/$1/training_report.json" ]; then # a finished run needs no checkpoint
            what=(--exclude "$1/checkpoints" "$1")
        fi
        bundle "$shard" "$shards" "$work" "${what[@]}"
    fi
    mkdir -p "$3"
    local all=("$shards"/part*)
    cp "$shards/SHA256SUMS" "${all[@]:first:shards_per_call}" "$3"
    echo "$1: shards $first to $((first + shards_per_call - 1)) of ${#all[@]}"
}

# --- here, after -----------------------------------------------------------------------------------------------------

join() { # NAME FROM
    unbundle "$2" "$work/back/$1"
}

evaluate() { # [ARGUMENTS...]
    local weights=$inputs/start/squeezenet.safetensors
    animal-ldm evaluate "$work/back/model/model" --data "$work/photos11" --prompts classes -n "${SAMPLES:-1106}" \
        --reconstructions --extractor "squeezenet,$proxy" --extractor_weights "squeezenet=$weights" --squeezenet_weights "$weights" \
        --out "$work/evaluation" "$@"
}

"$@"; exit # one line: a call that runs does not mind a new version of this file
