#!/usr/bin/env bash
# Attack every photo of a folder towards one class, one process a photo.
#
#   examples/attack_folder.sh PHOTOS OUT TARGET [further options of `advimg attack`]
#   examples/attack_folder.sh holiday/ illusions/ pelican --eps 4 --model efficientnet_lite0
#
# dog.jpg becomes dog_jpg_adversarial.png. Photos whose result is there already are passed over, so a run that was
# stopped can be started again. OUT/records.jsonl holds one record a photo. The exit code speaks of the photos of this
# run: 0 if every file was verified, else 3 (some not reached) or 1 (some failed).
set -u
shopt -s nocasematch

if [ "$#" -lt 3 ]; then
    echo "usage: $0 PHOTOS OUT TARGET [options]" >&2
    exit 2
fi
photos=$1 out=$2 target=$3
shift 3
if [ ! -d "$photos" ]; then
    echo "$photos is not a folder" >&2
    exit 1
fi
mkdir -p "$out" || exit 1

worst=0
for photo in "$photos"/*; do
    case $photo in
        *.jpg | *.jpeg | *.png | *.webp | *.bmp | *.tif | *.tiff | *.gif) ;;
        *) continue ;;
    esac
    name=$(basename "$photo")
    result="$out/${name//./_}_adversarial.png"
    [ -e "$result" ] && continue
    advimg attack "$photo" --target "$target" --output "$result" --no-figure --quiet --json "$@" >>"$out/records.jsonl"
    code=$?
    case $code in
        0) echo "verified     $name" >&2 ;;
        3) echo "not reached  $name" >&2 ;;
        130) exit 130 ;;
        *) echo "failed       $name" >&2 ;;
    esac
    # 1 (failed) outweighs 3 (not reached), which outweighs 0.
    if [ "$code" -eq 3 ] && [ "$worst" -eq 0 ]; then
        worst=3
    elif [ "$code" -ne 0 ] && [ "$code" -ne 3 ]; then
        worst=1
    fi
done
exit "$worst"
