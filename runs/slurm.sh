#!/usr/bin/env bash
# Never run on a cluster. Train on the GPUs of one or two machines of a Slurm cluster; the job goes on where it was when
# Slurm puts it back into the queue, and when it is given again.
# usage, from the root of a checkout: sbatch [--nodes=2] runs/slurm.sh DATA OUTPUT_DIR [ARGUMENTS of `animal-ldm train`...]
#
# DATA and OUTPUT_DIR lie on a disk that all machines see. The environment with the package has to be active in the shell
# that submits. --batch_size is that of all GPUs together, and must be a multiple of their number. Add --account and
# --partition as the cluster wants them.
#SBATCH --job-name=animal-ldm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
data=$1 output_dir=$2
arguments=(--data "$data" --output_dir "$output_dir" --mixed_precision bf16 --compile yes "${@:3}")
if [ -d "$output_dir/checkpoints" ]; then arguments+=(--resume); fi

machines=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
main=${machines%%$'\n'*}
# the machines are expected to have no network: components come from folders or from the Hub's cache
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
# one launcher per machine, which knows its rank from Slurm: that variable is expanded there
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'accelerate launch --config_file "runs/accelerate_$1x8.yaml" \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$2" --main_process_port "$3" -m animal_ldm train "${@:4}"' \
    - "$SLURM_JOB_NUM_NODES" "$main" $((20000 + SLURM_JOB_ID % 20000)) "${arguments[@]}"
