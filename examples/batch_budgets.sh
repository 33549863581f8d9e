#!/usr/bin/env bash
# How small can the change be? Attack every photo of a folder with several budgets, one process a budget, and print
# what share of the files holds.
#
#   examples/batch_budgets.sh PHOTOS OUT TARGET [further options of `advimg batch`]
#   examples/batch_budgets.sh holiday/ robustness/ random --model efficientnet_lite0 --recursive
#
# OUT/eps1, OUT/eps2, … hold the results, each with its journal, so a run that was stopped can be started again.
# EPS="1 2 3" chooses the budgets. The exit code is the worst of all: 1 (some photos failed), else 3 (some files do not
# show the target), else 0.
set -u

if [ "$#" -lt 3 ]; then
    echo "usage: $0 PHOTOS OUT TARGET [options]" >&2
    exit 2
fi
photos=$1 out=$2 target=$3
shift 3

# A number out of summary.json.
count() {
    sed -n "s/^  \"$2\": \([0-9]*\),*$/\1/p" "$1/summary.json"
}

worst=0
table=""
for eps in ${EPS:-1 2 4 8}; do
    advimg batch "$photos" --target "$target" --eps "$eps" --out-dir "$out/eps$eps" --quiet "$@"
    code=$?
    case $code in
        0) ;;
        3) [ "$worst" -eq 0 ] && worst=3 ;;
        1) worst=1 ;;
        *) exit "$code" ;; # wrong usage, or interrupted
    esac
    [ -e "$out/eps$eps/summary.json" ] || continue
    table+=$(printf '%5s %10s %8s' "$eps" "$(count "$out/eps$eps" verified)" "$(count "$out/eps$eps" total)")$'\n'
done
printf '%5s %10s %8s\n%s' eps verified of "$table"
exit "$worst"
