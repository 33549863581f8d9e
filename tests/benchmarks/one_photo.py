"""What one photo costs from the shell, and where the time goes.

One photo at 0.2, 2 and 12 megapixels, ResNet-50. Its weights are random, for speed does not depend on them; so the
target is seldom reached, and exit code 3 is as right as 0. The first table measures whole processes (the memory is the
most that the process ever held), the second the phases inside one. The goals: at most 1.6 GB at 12 megapixels, and at
0.2 megapixels a step that is nothing but the gradient.

The photo is the largest of the folder, made larger or smaller; one that was made larger is smoother than a photo.

    python -m tests.benchmarks one_photo --photos FOLDER
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import click
from PIL import Image, ImageOps

from tests.benchmarks.measure import Spread, advimg_command, print_machine, print_table, progress, run_process
from tests.benchmarks.photos import device_option, find_photos, photos_option

MODEL = "resnet50:IMAGENET1K_V1"
TARGET = "pelican"
STEPS = 7

_MEGAPIXELS = (0.2, 2, 12)
_EXIT_CODES = (0, 3)
# In a process of its own: this one stays small, or it could not tell its children's memory from its own.
_MAKE_WEIGHTS = """
import sys, torch, torchvision
torch.manual_seed(0)
torch.save(torchvision.models.resnet50(weights=None).state_dict(), sys.argv[1])
"""


@click.command()
@photos_option
@device_option
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Processes at each size.")
def benchmark(photos: Path | None, device: str, rounds: int) -> None:
    """Time and weigh `advimg attack` on one photo at three sizes."""
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "weights.pth"
        progress("making weights and photos ...")
        run_process([sys.executable, "-c", _MAKE_WEIGHTS, str(weights)])
        sizes = {megapixels: _photo_of(photos, megapixels, folder) for megapixels in _MEGAPIXELS}
        rows = [_import_row(rounds)]
        rows += [_process_row(photo, weights, folder, device, rounds) for photo in sizes.values()]
        print_table(
            f"Whole processes: attack -m {MODEL} --steps {STEPS} --no-figure --device {device}, "
            f"median (quartiles) of {rounds}; goal at 12 MP: peak at most 1.60 GB",
            ("photo", "seconds", "peak GB", "gradients"),
            rows,
        )
        # Only now: it imports torch, and this process would no longer be small.
        from tests.benchmarks.phases import print_phases

        print_phases(list(sizes.values()), weights, device)


def _photo_of(photos: Path | None, megapixels: float, folder: Path) -> Path:
    """Make a JPEG of about so many megapixels."""
    source = max(find_photos(photos), key=_pixels)
    with Image.open(source) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    scale = math.sqrt(megapixels * 1e6 / (picture.width * picture.height))
    path = folder / f"photo_{megapixels:g}mp.jpg"
    size = (round(picture.width * scale), round(picture.height * scale))
    picture.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    return path


def _pixels(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.width * picture.height


def _import_row(rounds: int) -> tuple[str, str, str, str]:
    progress("importing torch and torchvision ...")
    runs = [run_process([sys.executable, "-c", "import torch, torchvision"]) for _ in range(rounds)]
    return "import torch, torchvision", Spread.of([run.seconds for run in runs]).text(2), _gigabytes(runs[0].peak), "-"


def _process_row(photo: Path, weights: Path, folder: Path, device: str, rounds: int) -> tuple[str, str, str, str]:
    progress(f"attacking {describe(photo)} ...")
    output = folder / "output"
    output.mkdir(exist_ok=True)
    command = [*advimg_command(), "attack", str(photo), "-t", TARGET, "-m", MODEL, "--weights", str(weights)]
    command += ["--steps", str(STEPS), "--confidence", "0.9", "--no-figure", "--json", "--force", "-O", str(output)]
    command += ["--device", device]
    runs = [run_process(command, expect=_EXIT_CODES) for _ in range(rounds)]
    peaks = [run.peak for run in runs if run.peak is not None]
    return (
        describe(photo),
        Spread.of([run.seconds for run in runs]).text(2),
        _gigabytes(max(peaks, default=None)),
        str(json.loads(runs[0].stdout)["gradients"]),
    )


def describe(photo: Path) -> str:
    """Return a photo's megapixels, width and height."""
    with Image.open(photo) as picture:
        return f"{picture.width * picture.height / 1e6:.1f} MP, {picture.width}x{picture.height}"


def _gigabytes(peak: int | None) -> str:
    return "not told" if peak is None else f"{peak / 1e9:.2f}"
