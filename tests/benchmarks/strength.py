"""How many files keep the promise, judged by code that is not advimg's (tests/referee.py).

Every photo is attacked towards random classes on the bundled network, the PNG is written with ``Outcome.save``, opened
again from the disk by PIL and sent through the official preprocessing and the published network. A file counts if it
is the target there, within eps of the photo and of the photo's size. Targets are seeded by the photo's name, and never
the class that the photo is taken for already.

Refinement is left out: what is counted is how soon, and how often, the target is reached.

Other libraries attack the cropped tensor. It is judged as the tensor that they hand back, and as what comes of it when
it is saved as a PNG (rounded to the nearest level) and opened like any photo.

    python -m tests.benchmarks strength --photos FOLDER
"""

import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import get_args

import click
import torch
from torchvision.utils import save_image

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.load import load_classifier
from advimg.engine.engine import Engine
from advimg.engine.job import Failed, Job, Result
from advimg.images.decode import read_photo
from advimg.outcome import outcome_of
from advimg.registry import ATTACKS
from advimg.settings import Precision, Settings
from tests.benchmarks.measure import print_machine, print_table, progress
from tests.benchmarks.peers import Peer, find_peers, seeded
from tests.benchmarks.photos import device_option, find_photos, photos_option
from tests.referee import CROP, Judge, open_upright

Targets = Mapping[Path, Sequence[int]]
"""The classes that each photo is attacked towards."""


@dataclass
class Tally:
    """What came of the files at one eps."""

    kept: list[bool] = field(default_factory=list)
    claimed: list[bool] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    gradients: list[int] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def row(self, eps: int) -> tuple[str, ...]:
        files = len(self.kept)
        confidences = [value for value, kept in zip(self.confidences, self.kept, strict=True) if kept]
        false_claims = sum(claimed and not kept for claimed, kept in zip(self.claimed, self.kept, strict=True))
        return (
            str(eps),
            f"{sum(self.kept)}/{files}",
            _per_cent(self.kept),
            str(false_claims),
            f"{mean(confidences):.3f}" if confidences else "-",
            f"{mean(self.gradients):.1f}",
            f"{median(self.gradients):g}",
            f"{median(self.latencies):.2f}",
            f"{self.seconds / files:.2f}",
        )


@click.command()
@photos_option
@device_option
@click.option("--targets", default=4, show_default=True, type=click.IntRange(1, 100), help="Random targets a photo.")
@click.option("-e", "--eps", "budgets", multiple=True, default=(10, 4, 2, 1), show_default=True, type=int)
@click.option("--slots", default=8, show_default=True, type=click.IntRange(1), help="Photos that share a pass.")
@click.option("--seed", default=0, show_default=True, help="Of the targets.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(get_args(Precision)))
@click.option("--confidence", default=None, type=float, help="At which to stop; the default of `attack` if not given.")
@click.option("--attack", "attacks", multiple=True, default=("pgd",), type=click.Choice(list(ATTACKS)))
@click.option("--peers/--no-peers", default=True, help="Whether to compare other libraries.")
def benchmark(
    photos: Path | None,
    device: str,
    targets: int,
    budgets: Sequence[int],
    slots: int,
    seed: int,
    precision: Precision,
    confidence: float | None,
    attacks: Sequence[str],
    peers: bool,
) -> None:
    """Count the files that keep the promise, at several eps."""
    print_machine()
    others = find_peers() if peers else []
    judge = Judge()
    chosen = {path: random_targets(path, judge, targets, seed) for path in find_photos(photos)}
    classifier = load_classifier("efficientnet_lite0", device=device)
    engine = Engine(classifier, precision=precision, batch_size=slots)
    for attack in attacks:
        _print_ours(
            chosen, budgets, judge, engine, classifier, Settings(attack=attack, confidence=confidence, refine=0)
        )
    if others:
        _print_peers(others, chosen, budgets, judge)


def random_targets(path: Path, judge: Judge, count: int, seed: int) -> list[int]:
    """Return so many classes that the photo is not taken for, seeded by its name."""
    present = int(judge.probabilities(path).argmax())
    others = [index for index in range(1000) if index != present]
    return random.Random(f"{seed} {path.name}").sample(others, count)


def _print_ours(
    targets: Targets,
    budgets: Sequence[int],
    judge: Judge,
    engine: Engine,
    classifier: Classifier,
    settings: Settings,
) -> None:
    rows = []
    for eps in budgets:
        progress(f"{settings.attack} at eps {eps} ...")
        rows.append(attack_all(targets, replace(settings, eps=eps), judge, engine).row(eps))
    print_table(
        f"advimg {settings.attack}, {classifier.name}, {len(targets)} photos, {engine.batch_size} a pass, "
        f"{classifier.device.type}, {engine.precision}, confidence asked for"
        f" {settings.min_confidence:g}, at most {settings.max_steps} steps; files on disk, judged independently",
        (
            "eps",
            "files kept",
            "share",
            "false claims",
            "mean confidence of kept",
            "mean gradients",
            "median",
            "median s, start to verdict",
            "s a file, all together",
        ),
        rows,
    )
    click.echo("A false claim is a file that advimg says is verified and the judge does not.")


def attack_all(targets: Targets, settings: Settings, judge: Judge, engine: Engine) -> Tally:
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for seconds, result in _timed(engine.run(_jobs(targets, settings))):
            outcome = outcome_of(result)
            png = outcome.save(Path(folder) / "adversarial.png", overwrite=True)
            check = judge.check(png, Path(outcome.record.source), target=result.target, eps=round(result.eps))
            tally.kept.append(check.holds)
            tally.claimed.append(outcome.record.fooled)
            tally.confidences.append(check.confidence)
            tally.gradients.append(result.gradients)
            tally.latencies.append(result.seconds)
            tally.seconds += seconds
    return tally


def _jobs(targets: Targets, settings: Settings) -> Iterator[Job]:
    for path, indices in targets.items():
        photo = read_photo(path)
        for index in indices:
            yield Job(photo=photo, target=index, settings=settings)


def _timed(ends: Iterator[Result | Failed]) -> Iterator[tuple[float, Result]]:
    """Yield each result with the seconds that it was waited for, so that saving and judging do not count."""
    while True:
        began = time.perf_counter()
        end = next(ends, None)
        if end is None:
            return
        if isinstance(end, Failed):
            raise end.error
        yield time.perf_counter() - began, end


def _print_peers(peers: Sequence[Peer], targets: Targets, budgets: Sequence[int], judge: Judge) -> None:
    rows = []
    for peer in peers:
        for eps in budgets:
            progress(f"{peer.package} at eps {eps} ...")
            rows.append(_peer_row(peer, targets, eps, judge))
    print_table(
        "Other libraries' targeted PGD, default settings, cpu, on the cropped tensor",
        ("library, steps", "eps", "tensors that are the target", "share", "PNG files that are", "share"),
        rows,
    )


def _peer_row(peer: Peer, targets: Targets, eps: int, judge: Judge) -> tuple[str, ...]:
    tensors: list[bool] = []
    files: list[bool] = []
    for path, indices in targets.items():
        wanted = torch.tensor(indices)
        levels = CROP(open_upright(path)).expand(len(indices), -1, -1, -1).clone()
        adversarial = seeded(peer, judge.model, levels, wanted, eps=eps, steps=peer.steps)
        with torch.inference_mode():
            tensors += (judge.model(adversarial).argmax(1) == wanted).tolist()
        with tempfile.TemporaryDirectory() as folder:
            png = Path(folder) / "adversarial.png"
            for picture, index in zip(adversarial, indices, strict=True):
                save_image(picture, png)
                files.append(int(judge.probabilities(png).argmax()) == index)
    return (
        f"{peer.package}, {peer.steps}",
        str(eps),
        f"{sum(tensors)}/{len(tensors)}",
        _per_cent(tensors),
        f"{sum(files)}/{len(files)}",
        _per_cent(files),
    )


def _per_cent(values: Sequence[bool]) -> str:
    return f"{mean(values):.0%}"
