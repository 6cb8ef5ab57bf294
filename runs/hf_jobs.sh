#!/usr/bin/env bash
# Never run on the Hub's machines. Train there (`hf jobs`): photos from a dataset repository, mounted as a volume; results
# and checkpoints in a bucket, which outlives the job.
# usage: runs/hf_jobs.sh DATASET BUCKET MINUTES [ARGUMENTS of `animal-ldm train`...]
#   DATASET  you/photos, as `animal-ldm push --dataset` wrote it; mounted read-only
#   BUCKET   you/runs, made before with `hf buckets create you/runs`
#   MINUTES  of training. The job may take 20 minutes more, for the installation and the copies.
# SOURCE, needed, is what pip installs, such as git+https://github.com/you/animal-ldm. FLAVOR (a100-large) and IMAGE
# (python:3.12) can be set in the environment; DRY_RUN=1 prints the job instead. Give the same command again after a
# failure: it resumes.
#
# The training writes on the machine's own disk, because a checkpoint is renamed once it is whole and a mounted bucket is
# object storage. A copy goes to the bucket every two minutes and at the end.
set -euo pipefail
dataset=$1 bucket=$2 minutes=$3
: "${SOURCE:?what pip installs, such as git+https://github.com/you/animal-ldm}"
# expanded in the job
# shellcheck disable=SC2016
job='set -eu
pip install -q "$SOURCE"
mkdir /out
hf buckets sync "hf://buckets/$BUCKET" /out
save() { hf buckets sync /out "hf://buckets/$BUCKET" --delete --exclude "*.partial*"; }
(while sleep 120; do save || true; done) &
saving=$! resume= status=0
if [ -d /out/checkpoints ]; then resume=--resume; fi
animal-ldm train --data /data --output_dir /out --max_minutes "$MINUTES" --mixed_precision bf16 --cache_dir /tmp/cache \
    $resume "$@" || status=$?
kill "$saving"
save
exit "$status"'
hf jobs run --detach ${DRY_RUN:+--dry-run} --name animal-ldm --flavor "${FLAVOR:-a100-large}" \
    --timeout "$((minutes + 20))m" --volume "hf://datasets/$dataset:/data:ro" --secrets HF_TOKEN \
    --env "MINUTES=$minutes" --env "SOURCE=$SOURCE" --env "BUCKET=$bucket" \
    "${IMAGE:-python:3.12}" bash -c "$job" - "${@:4}"
