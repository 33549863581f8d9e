#!/usr/bin/env bash
# Attack a folder on several models, one batch a model; then check every file with `advimg verify`, as somebody would
# who was handed them, which names those that do not hold.
#
#   examples/attack_and_verify.sh PHOTOS OUT TARGET MODEL[,MODEL...] [further options of `advimg batch`]
#   examples/attack_and_verify.sh holiday/ fooled/ random efficientnet_lite0,resnet50 --eps 4 --recursive
#
# OUT/MODEL holds the results of a model, with its journal, so a run that was stopped can be started again. A photo that
# fails, or a model, does not stop the others. The exit code is the worst of all: 1 (something failed), else 3 (some
# files do not hold), else 0.
set -u

if [ "$#" -lt 4 ]; then
    echo "usage: $0 PHOTOS OUT TARGET MODEL[,MODEL...] [options]" >&2
    exit 2
fi
photos=$1 out=$2 target=$3
IFS=, read -r -a models <<<"$4"
shift 4

worst=0
# 1 (failed) outweighs 3 (does not hold), which outweighs 0; what else there is, wrong usage or Ctrl-C, ends it all.
note() {
    case $1 in
        0) ;;
        1) worst=1 ;;
        3) [ "$worst" -eq 1 ] || worst=3 ;;
        *) exit "$1" ;;
    esac
}

given=()
for model in "${models[@]}"; do
    results="$out/${model//[^[:alnum:]]/_}"
    advimg batch "$photos" --target "$target" --model "$model" --out-dir "$results" --quiet "$@"
    note "$?"
    [ -e "$results/results.jsonl" ] && given+=(--model "$model")
done
if [ "${#given[@]}" -gt 0 ]; then
    advimg verify "$out" "${given[@]}"
    note "$?"
fi
exit "$worst"
