#!/usr/bin/env bash
# Attack a folder of photos on many nodes of a Slurm cluster, then merge the results.
#
#   PHOTOS=photos OUT=illusions TARGET=pelican examples/slurm_array.sh     on the login node: submits both jobs
#   SHARDS=16 sbatch --array=3,7 examples/slurm_array.sh                   only tasks 3 and 7 again, of 16
#
# Each task of the array attacks its share of the photos (--shard) in a folder of its own below OUT. The tasks do not
# know of each other: any of them may start later, be stopped, or be submitted again, and then goes on where it was.
# PHOTOS and OUT have to be on a file system that all nodes see, at the same place.
#
# To change: the lines with #SBATCH, which have to fit the cluster (partition, account, GPUs, hours); 0-15 is 16 shards,
# and 0-15%4 lets four run at once. Every option of advimg can also be set in the environment, such as
# ADVIMG_MODEL=resnet50 or ADVIMG_EPS=4. If advimg is in a virtual environment, activate it before submitting: jobs get
# the environment of the shell that submits them.

#SBATCH --job-name=advimg
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --time=08:00:00
#SBATCH --output=advimg-%A_%a.log
# Two minutes before its time is over a task is told to end: what is complete is written, and the rest is left.
#SBATCH --signal=B:TERM@120
set -euo pipefail

photos=${PHOTOS:-photos} out=${OUT:-illusions} target=${TARGET:-pelican}

if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    # exec, so that the signal reaches advimg and not a shell that waits for it.
    exec advimg batch "$photos" --recursive --target "$target" --out-dir "$out" \
        --shard "$((SLURM_ARRAY_TASK_ID + 1))/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}"
fi

array=$(sbatch --parsable "$0")
array=${array%%;*} # without the name of the cluster
# afterany, and not afterok: where a photo failed or a task ran out of time, the merge says what is missing.
sbatch --dependency="afterany:$array" --job-name=advimg-merge --output=advimg-merge-%j.log \
    --wrap "$(printf 'advimg merge %q' "$out")"
echo "task $array, then advimg merge $out" >&2
