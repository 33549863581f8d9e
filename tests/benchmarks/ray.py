"""What Ray costs, and what a second actor brings: one process, one actor, two actors, each of one thread.

The seconds are those from the first photo to the last file; starting Ray and loading the network are not in them. The
three take turns. Goals: one actor at most 3 % slower than this process, two actors at least 1.8 times as fast as one.

    python -m tests.benchmarks ray
"""

import shutil
import tempfile
from functools import partial
from pathlib import Path

import click
import torch

import advimg
from tests.benchmarks.measure import Spread, print_machine, print_table, progress, ratios
from tests.benchmarks.photos import find_photos, make_photos, photos_option

_SIDE = 64
"""Of the network's input, in pixels: what is not the network is a larger part than usual."""


@click.command()
@photos_option
@click.option("--count", default=200, show_default=True, type=click.IntRange(2), help="Photos in the batch.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each.")
def benchmark(photos: Path | None, count: int, rounds: int) -> None:
    """Time a batch in this process, by one actor and by two."""
    print_machine()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photos(find_photos(photos), count, folder / "photos")
        (folder / "quick.toml").write_text(f'model = "efficientnet_lite0"\ninput_size = {_SIDE}\n')
        run = partial(_seconds, folder)
        seconds: dict[str, list[float]] = {"this process": [], "one actor": [], "two actors": []}
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds} ...")
            seconds["this process"].append(run(on=None, device="cpu"))
            seconds["one actor"].append(run(on="ray:local", device="cpu"))
            seconds["two actors"].append(run(on="ray:local", device=["cpu", "cpu"]))
    print_table(
        f"{count} photos, lite0 at {_SIDE}x{_SIDE}, a thread each; median (quartiles), ratios within a round",
        ("who", "photos/s", "as fast as this process", "as fast as one actor"),
        [
            (
                who,
                Spread.of([count / each for each in own]).text(2),
                ratios(seconds["this process"], own).text(3),
                ratios(seconds["one actor"], own).text(3),
            )
            for who, own in seconds.items()
        ],
    )


def _seconds(folder: Path, *, on: str | None, device: str | list[str]) -> float:
    """Return the seconds of a batch without its start."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    model = str(folder / "quick.toml")
    stats = advimg.batch(
        folder / "photos", "random", out_dir=out, model=model, device=device, on=on, steps=10, perturbation=False
    )
    if stats.failures:
        raise click.ClickException(f"{len(stats.failures)} photos failed, the first with: {stats.failures[0][1]}")
    return stats.seconds
