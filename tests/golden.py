"""Reference attacks: the bytes that forty of them write, so that a change of the code can be shown to change none.

    python -m tests.golden record FILE     write down what the attacks give now
    python -m tests.golden check FILE      run them again and name what differs

The attacks run through the command line, on the bundled network and scikit-image's photos, on one thread. Their bytes
depend on the processor and on the versions of torch, numpy and Pillow, so both commands are for one machine and one
environment. ``test_golden.py`` holds those of a linear network, which are the same everywhere, against a file.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image

from advimg.cli import run
from tests.conftest import sample

_MODEL = ("-m", "efficientnet_lite0")
_ATTACK = ("--no-figure", "-O", "out", "--refine", "0", "--json")
_BATCH = ("-O", "out", "--refine", "0", "--json")

_CASES: dict[str, tuple[str, ...]] = {
    **{
        f"linf eps {eps}": ("attack", "coffee.png", "-t", "pelican", "-e", str(eps), *_MODEL, *_ATTACK)
        for eps in (1, 2, 4, 10, 16)
    },
    "confidence 0.99": ("attack", "cat.png", "-t", "pelican", "--confidence", "0.99", *_MODEL, *_ATTACK),
    "index": ("attack", "cat.png", "-t", "144", "-e", "4", *_MODEL, *_ATTACK),
    "plain pgd": ("attack", "cat.png", "-t", "zebra", "--momentum", "0", "--step-size", "1", *_MODEL, *_ATTACK),
    "margin": ("attack", "cat.png", "-t", "zebra", "-e", "4", "--loss", "margin", *_MODEL, *_ATTACK),
    "logit": ("attack", "cat.png", "-t", "zebra", "-e", "4", "--loss", "logit", *_MODEL, *_ATTACK),
    "untargeted": ("attack", "cat.png", "--untargeted", "-e", "2", *_MODEL, *_ATTACK),
    "untargeted margin": ("attack", "cat.png", "--untargeted", "-e", "2", "--loss", "margin", *_MODEL, *_ATTACK),
    "untargeted logit": ("attack", "cat.png", "--untargeted", "-e", "2", "--loss", "logit", *_MODEL, *_ATTACK),
    "random": ("attack", "cat.png", "-t", "random", "--seed", "3", *_MODEL, *_ATTACK),
    "least likely": ("attack", "cat.png", "-t", "least-likely", *_MODEL, *_ATTACK),
    "runner-up": ("attack", "cat.png", "-t", "runner-up", "-e", "1", *_MODEL, *_ATTACK),
    "l2": ("attack", "coffee.png", "-t", "pelican", "--norm", "l2", *_MODEL, *_ATTACK),
    "l2 eps 1.5": ("attack", "cat.png", "-t", "zebra", "--norm", "l2", "-e", "1.5", *_MODEL, *_ATTACK),
    "l2 untargeted": ("attack", "cat.png", "--untargeted", "--norm", "l2", "-e", "0.5", *_MODEL, *_ATTACK),
    "auto": ("attack", "coffee.png", "-t", "pelican", "-e", "auto", *_MODEL, *_ATTACK),
    "auto confident": ("attack", "cat.png", "-t", "zebra", "-e", "auto", "--confidence", "0.9", *_MODEL, *_ATTACK),
    "auto bounded": ("attack", "noise.png", "-t", "zebra", "-e", "auto", "--max-eps", "3", *_MODEL, *_ATTACK),
    "mask": ("attack", "cat.png", "-t", "zebra", "--mask", "mask.png", *_MODEL, *_ATTACK),
    "mask l2": ("attack", "cat.png", "-t", "zebra", "--mask", "mask.png", "--norm", "l2", *_MODEL, *_ATTACK),
    "mask auto": ("attack", "cat.png", "-t", "zebra", "--mask", "mask.png", "-e", "auto", *_MODEL, *_ATTACK),
    "ensemble": ("attack", "cat.png", "-t", "zebra", "-e", "4", *_MODEL, "-m", "efficientnet_lite1", *_ATTACK),
    "ensemble untargeted": (
        *("attack", "cat.png", "--untargeted", "-e", "4"),
        *(*_MODEL, "-m", "efficientnet_lite1", *_ATTACK),
    ),
    "check on": ("attack", "cat.png", "-t", "zebra", *_MODEL, "--check-on", "efficientnet_lite1", *_ATTACK),
    "transfer": ("attack", "cat.png", "-t", "zebra", "--transfer", "--steps", "20", *_MODEL, *_ATTACK),
    "transfer ensemble": (
        *("attack", "cat.png", "-t", "zebra", "--transfer", "--steps", "12", "--seed", "5"),
        *(*_MODEL, "-m", "efficientnet_lite1", *_ATTACK),
    ),
    "transfer l2": (
        *("attack", "cat.png", "-t", "zebra", "--transfer", "--steps", "10", "--norm", "l2", *_MODEL, *_ATTACK),
    ),
    "restarts": (
        *("attack", "noise.png", "-t", "zebra", "-e", "1", "--steps", "5", "--restarts", "2"),
        *("--confidence", "0.999", *_MODEL, *_ATTACK),
    ),
    "restarts l2": (
        *("attack", "noise.png", "-t", "zebra", "--norm", "l2", "-e", "0.3", "--steps", "5", "--restarts", "2"),
        *("--confidence", "0.999", *_MODEL, *_ATTACK),
    ),
    "not reached": ("attack", "noise.png", "-t", "zebra", "-e", "1", "--steps", "2", *_MODEL, *_ATTACK),
    "alpha": ("attack", "alpha.png", "-t", "zebra", "--amplify", "20", *_MODEL, *_ATTACK),
    "portrait": ("attack", "portrait.jpg", "-t", "zebra", "-e", "4", *_MODEL, *_ATTACK),
    "bf16": ("attack", "coffee.png", "-t", "pelican", "--precision", "bf16", *_MODEL, *_ATTACK),
    "no metadata": ("attack", "coffee.png", "-t", "pelican", "--no-metadata", *_MODEL, *_ATTACK),
    "own preprocessing": ("attack", "cat.png", "-t", "zebra", "--resize", "240", *_MODEL, *_ATTACK),
    "batch of 8": ("batch", "tiles", "-t", "pelican", "-t", "random", "-e", "4", *_MODEL, *_BATCH),
    "batch table": ("batch", "--targets", "pairs.csv", *_MODEL, "--batch-size", "3", *_BATCH),
    "batch auto": ("batch", "tiles", "-t", "runner-up", "-e", "auto", *_MODEL, *_BATCH),
    "batch transfer": ("batch", "tiles", "-t", "pelican", "--transfer", "--steps", "6", *_MODEL, *_BATCH),
    "batch check on": ("batch", "tiles", "-t", "zebra", *_MODEL, "--check-on", "efficientnet_lite1", *_BATCH),
    "sweep": ("sweep", "tiles", "-t", "random", "-e", "1,2", *_MODEL, "-O", "out", "--refine", "0", "--json"),
    "sweep l2": (
        "sweep",
        "tiles",
        "--untargeted",
        "--norm",
        "l2",
        "-e",
        "0.5,1",
        *_MODEL,
        "-O",
        "out",
        "--refine",
        "0",
        "--json",
    ),
    "classify": ("classify", "cat.png", "coffee.png", *_MODEL, "-m", "efficientnet_lite1", "--json"),
}
_VARYING = (
    "seconds",
    "outputs",
    "out_dir",
    "source",
    "adversarial_sha256",
    "outputs_sha256",
    "stamps",
    "amplify",
    "tried_with",
    "per_second",
)


def main() -> None:
    """Record the reference, or check against it."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=["record", "check"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="only the attacks whose names contain this")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # Before the folder is changed to that of the attacks.
    file = given.file.resolve()
    names = [name for name in _CASES if given.only in name]
    got = {name: _outcome(_CASES[name]) for name in names}
    if given.command == "record":
        file.write_text(json.dumps(got, indent=1, sort_keys=True) + "\n", encoding="ascii")
        print(f"{len(got)} attacks written to {file}")
        return
    expected = json.loads(file.read_text(encoding="ascii"))
    differing = [line for name in names for line in differences(expected.get(name), got[name], name)]
    print("\n".join(differing) or f"all {len(names)} attacks give what they gave")
    sys.exit(bool(differing))


def differences(expected: object, got: object, where: str) -> Iterator[str]:
    """Yield a line for each value in which two trees of JSON values differ."""
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in sorted(expected.keys() | got.keys()):
            yield from differences(expected.get(key), got.get(key), f"{where} / {key}")
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for number, (one, other) in enumerate(zip(expected, got, strict=True)):
            yield from differences(one, other, f"{where} / {number}")
    elif expected != got:
        yield f"{where}: {expected!r} before, {got!r} now"


def _outcome(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command in a new folder and return its exit code, its records and the hashes of its pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        _write_photos(folder)
        printed = folder / "printed"
        code = _captured(arguments, printed)
        records = [json.loads(line) for line in printed.read_text(encoding="utf-8").splitlines()]
        pictures = sorted(path for path in folder.glob("out/**/*.png") if path.name != "sweep.png")
        os.chdir("/")
        return {
            "exit": code,
            "records": sorted((_lasting(record) for record in records), key=json.dumps),
            "files": {str(path.relative_to(folder)): _hashed(path.read_bytes()) for path in pictures},
            "pixels": {str(path.relative_to(folder)): _hashed(_pixels(path)) for path in pictures},
        }


def _captured(arguments: Sequence[str], printed: Path) -> int:
    """Run a command with stdout in a file and without stderr."""
    out, err = os.dup(1), os.dup(2)
    try:
        with printed.open("wb") as file, Path(os.devnull).open("wb") as nothing:
            sys.stdout.flush()
            os.dup2(file.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            code = run(list(arguments))
            sys.stdout.flush()
    finally:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
    return code


def _lasting(record: Any) -> Any:
    """Return a record without what differs between runs."""
    if isinstance(record, list):
        return [_lasting(each) for each in record]
    kept = {key: value for key, value in record.items() if key not in _VARYING}
    return kept | {"source": Path(record["source"]).name} if "source" in record else kept


def _write_photos(folder: Path) -> None:
    with Image.open(sample("chelsea.png")) as image:
        cat = image.convert("RGB")
    with Image.open(sample("coffee.png")) as image:
        coffee = image.convert("RGB")
    cat.save(folder / "cat.png")
    coffee.save(folder / "coffee.png")
    portrait = coffee.crop((200, 0, 380, 400))
    portrait.save(folder / "portrait.jpg", quality=92)
    noise = np.random.default_rng(0).integers(0, 256, (200, 260, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    transparent = cat.crop((0, 0, 300, 240))
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    transparent.save(folder / "alpha.png")
    mask = Image.new("L", cat.size)
    mask.paste(255, (80, 40, 360, 280))
    mask.save(folder / "mask.png")
    (folder / "tiles").mkdir()
    for number in range(8):
        source = (cat, coffee)[number % 2]
        left, top = 20 * number, 6 * number
        source.crop((left, top, left + 260 - 8 * number, top + 200 + 8 * number)).save(
            folder / "tiles" / f"tile{number}.png"
        )
    rows = ["path,target,eps", "cat.png,zebra,4", "cat.png,pelican,", "coffee.png,random,2", "tiles/tile1.png,144,auto"]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="ascii")


def _pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return np.asarray(image).tobytes()


def _hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    main()
