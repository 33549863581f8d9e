"""How small an eps suffices: ``--eps auto`` on files, beside a plain search on another library's tensors.

Ours: the PNG is written, opened again and judged by the published network; it counts at the eps of its record if it is
the target there, within that eps. Torchattacks' PGD is run with 100 steps at eps 1, then 2, and so on, with a step of a
tenth of eps and without a random start; its unrounded 224x224 tensor counts at the first eps at which it is the target.

    python -m tests.benchmarks least --photos FOLDER
"""

import importlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import click
import torch
from torch import Tensor

from advimg.classifiers.load import load_classifier
from advimg.engine.engine import Engine
from advimg.engine.job import Failed, Job
from advimg.images.decode import read_photo
from advimg.outcome import outcome_of
from advimg.settings import Settings
from tests.benchmarks.measure import print_machine, print_table, progress
from tests.benchmarks.peers import find_peers
from tests.benchmarks.photos import device_option, find_photos, photos_option
from tests.benchmarks.strength import random_targets
from tests.referee import CROP, Judge, open_upright

_STEPS = 100


@click.command()
@photos_option
@device_option
@click.option("--targets", default=4, show_default=True, type=click.IntRange(1, 100), help="Random targets a photo.")
@click.option("--seed", default=0, show_default=True, help="Of the targets.")
def benchmark(photos: Path | None, device: str, targets: int, seed: int) -> None:
    """Find the least eps for each pair of photo and target."""
    print_machine()
    peers = [peer.package for peer in find_peers()]
    judge = Judge()
    chosen = {path: random_targets(path, judge, targets, seed) for path in find_photos(photos)}
    progress("advimg ...")
    rows = [_ours(chosen, judge, device)]
    if "torchattacks" in peers:
        rows.append(_search(chosen, judge))
    print_table(
        f"The least eps, {sum(map(len, chosen.values()))} pairs of photo and target, {len(chosen)} photos",
        ("", "mean eps", "median", "at eps 1", "at eps 2", "out of reach", "gradients, mean", "median"),
        rows,
    )


def _ours(chosen: Mapping[Path, Sequence[int]], judge: Judge, device: str) -> tuple[str, ...]:
    settings = Settings(eps="auto", refine=0)
    engine = Engine(load_classifier("efficientnet_lite0", device=device), precision="fp32")
    jobs = [
        Job(photo=read_photo(path), target=index, settings=settings) for path, each in chosen.items() for index in each
    ]
    least: list[float] = []
    gradients: list[int] = []
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "adversarial.png"
        for end in engine.run(jobs):
            if isinstance(end, Failed):
                raise end.error
            outcome_of(end).save(png, overwrite=True)
            gradients.append(end.gradients)
            source = Path(end.job.photo.source)
            if judge.check(png, source, target=end.target, eps=round(end.eps)).holds:
                least.append(end.eps)
            else:
                lost += 1
    return _row("advimg --eps auto, files", least, lost, gradients)


def _search(chosen: Mapping[Path, Sequence[int]], judge: Judge) -> tuple[str, ...]:
    pairs = [(path, index) for path, each in chosen.items() for index in each]
    least: list[float] = []
    eps = 0
    while pairs and eps < Settings().max_eps:
        eps += 1
        progress(f"torchattacks, eps {eps}, {len(pairs)} pairs ...")
        short = []
        for begin in range(0, len(pairs), 8):
            some = pairs[begin : begin + 8]
            levels = torch.stack([CROP(open_upright(path)) for path, _ in some])
            wanted = torch.tensor([index for _, index in some])
            reached = judge.model(_torchattacks(judge, levels, wanted, eps)).argmax(1) == wanted
            least += [float(eps)] * int(reached.sum())
            short += [pair for pair, there in zip(some, reached.tolist(), strict=True) if not there]
        pairs = short
    return _row(
        f"Torchattacks PGD, {_STEPS} steps at each eps, tensors",
        least,
        len(pairs),
        [int(value) * _STEPS for value in least] + [eps * _STEPS] * len(pairs),
    )


def _torchattacks(judge: Judge, levels: Tensor, targets: Tensor, eps: int) -> Tensor:
    attack = importlib.import_module("torchattacks").PGD(
        judge.model, eps=eps / 255, alpha=eps / 10 / 255, steps=_STEPS, random_start=False
    )
    attack.set_mode_targeted_by_label(quiet=True)
    changed: Tensor = attack(levels, targets)
    return changed.detach()


def _row(name: str, least: Sequence[float], lost: int, gradients: Sequence[int]) -> tuple[str, ...]:
    return (
        name,
        f"{mean(least):.2f}",
        f"{median(least):g}",
        f"{sum(eps == 1 for eps in least)}",
        f"{sum(eps <= 2 for eps in least)}",
        str(lost),
        f"{mean(gradients):.1f}",
        f"{median(gradients):g}",
    )
