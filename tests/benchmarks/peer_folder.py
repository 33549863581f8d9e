"""A folder of photos through another library: the plain script that its user would write.

The network is loaded once, as its authors publish it. Photos go in batches through the official preprocessing and the
attack, towards random classes, and each cropped tensor is saved as a PNG. ``targets.json`` says what each shall be.

    python -m tests.benchmarks.peer_folder PACKAGE PHOTOS OUT
"""

import json
import random
from pathlib import Path

import click
import torch
from torchvision.utils import save_image

from tests.benchmarks.peers import peer_named, seeded
from tests.benchmarks.photos import find_photos
from tests.referee import CROP, Normalised, open_upright, published_network

TARGETS = "targets.json"
"""In the output folder: the name of each PNG and the index of its target."""

_BATCH = 8
_HALF = (0.5, 0.5, 0.5)


@click.command()
@click.argument("package")
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("-e", "--eps", default=10, show_default=True, type=int)
@click.option("--device", default="cpu", show_default=True)
def main(package: str, photos: Path, out: Path, eps: int, device: str) -> None:
    """Attack a folder of PHOTOS with PACKAGE's default steps."""
    peer = peer_named(package)
    model = Normalised(published_network(), mean=_HALF, std=_HALF).eval().to(device)
    out.mkdir(parents=True)
    draw = random.Random(0)
    targets: dict[str, int] = {}
    paths = find_photos(photos)
    for begin in range(0, len(paths), _BATCH):
        batch = paths[begin : begin + _BATCH]
        levels = torch.stack([CROP(open_upright(path)) for path in batch]).to(device)
        wanted = [draw.randrange(1000) for _ in batch]
        adversarial = seeded(peer, model, levels, torch.tensor(wanted, device=device), eps=eps, steps=peer.steps)
        for path, picture, index in zip(batch, adversarial, wanted, strict=True):
            save_image(picture, out / f"{path.stem}.png")
            targets[f"{path.stem}.png"] = index
    (out / TARGETS).write_text(json.dumps(targets), encoding="ascii")


if __name__ == "__main__":
    main()
