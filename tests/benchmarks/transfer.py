"""How many files fool a network that took no part in making them, judged by code that is not advimg's.

Files are made on one or two of the bundled networks, by the plain attack and by ``--transfer``, written with
``Outcome.save``, opened again from the disk and shown to the published form of the third network. Targeted, a file
counts if that network sees the target; untargeted, if it no longer sees what it sees in the photo.

The photos are made of those given, mirrored and trimmed until there are enough; targets are random, seeded by the
photo's name, and never a class that one of the networks sees already.

    python -m tests.benchmarks transfer --photos FOLDER
"""

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.load import load_classifier
from advimg.engine.engine import Engine
from advimg.engine.job import Failed, Job
from advimg.images.decode import read_photo
from advimg.outcome import outcome_of
from advimg.settings import Settings
from tests.benchmarks.measure import print_machine, print_table, progress
from tests.benchmarks.photos import device_option, find_photos, make_photos, photos_option
from tests.referee import Judge

_MAKERS = (0,), (0, 1)
_WITNESS = 2


@click.command()
@photos_option
@device_option
@click.option("--count", default=48, show_default=True, type=click.IntRange(1), help="Photos.")
@click.option("-e", "--eps", "budgets", multiple=True, default=(10, 16), show_default=True, type=int)
@click.option("--steps", default=Settings().max_steps, show_default=True, type=int)
@click.option("--loss", "losses", multiple=True, default=("ce",), show_default=True, help="Of --transfer.")
@click.option("--seed", default=0, show_default=True, help="Of the targets.")
def benchmark(
    photos: Path | None,
    device: str,
    count: int,
    budgets: Sequence[int],
    steps: int,
    losses: Sequence[str],
    seed: int,
) -> None:
    """Count the files that fool a network that took no part."""
    print_machine()
    judges = [Judge(variant) for variant in (*_MAKERS[-1], _WITNESS)]
    classifiers = [load_classifier(f"efficientnet_lite{variant}", device=device) for variant in _MAKERS[-1]]
    plain = Settings(steps=steps, refine=0)
    ways = {"plain": plain}
    ways |= {f"--transfer --loss {loss}": replace(plain, transfer=True, loss=loss) for loss in losses}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "photos"
        make_photos(find_photos(photos), count, made)
        seen = {path: [int(judge.probabilities(path).argmax()) for judge in judges] for path in find_photos(made)}
        for makers in _MAKERS:
            for targeted in (True, False):
                for eps in budgets:
                    cells: list[str] = []
                    for name, way in ways.items():
                        progress(f"lite{makers}, {'targeted' if targeted else 'untargeted'}, eps {eps}, {name} ...")
                        engine = Engine(*(classifiers[maker] for maker in makers))
                        jobs = _jobs(seen, replace(way, eps=eps), targeted=targeted, seed=seed)
                        cells += _queue(engine, jobs, seen, judges, [classifiers[maker] for maker in makers])
                        progress(f"  {cells[-2]}")
                    aim = "targeted" if targeted else "untargeted"
                    rows.append((" and ".join(f"lite{maker}" for maker in makers), aim, str(eps), *cells))
    columns = [column for name in ways for column in (f"{name}: fool lite2", "fool their own")]
    print_table(
        f"Files made on one or two networks and shown to a third, {count} photos, {steps} steps",
        ("made on", "aim", "eps", *columns),
        rows,
    )


def _jobs(seen: Mapping[Path, Sequence[int]], settings: Settings, *, targeted: bool, seed: int) -> list[Job]:
    return [
        Job(
            photo=read_photo(path),
            target=_target(path, classes, seed) if targeted else "untargeted",
            settings=settings,
        )
        for path, classes in seen.items()
    ]


def _target(path: Path, seen: Sequence[int], seed: int) -> int:
    return random.Random(f"{seed} {path.name}").choice([index for index in range(1000) if index not in seen])


def _queue(
    engine: Engine,
    jobs: Sequence[Job],
    seen: Mapping[Path, Sequence[int]],
    judges: Sequence[Judge],
    makers: Sequence[Classifier],
) -> tuple[str, str]:
    """Return the share of files that fool the network that took no part, and of those that fool their own."""
    fooled: list[list[bool]] = []
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "adversarial.png"
        for end in engine.run(jobs):
            if isinstance(end, Failed):
                raise end.error
            outcome_of(end).save(png, overwrite=True)
            tops = [int(judge.probabilities(png).argmax()) for judge in judges]
            pairs = zip(tops, seen[Path(end.job.photo.source)], strict=True)
            fooled.append(
                [top == end.job.target if end.job.target != "untargeted" else top != was for top, was in pairs]
            )
    own = [all(each[: len(makers)]) for each in fooled]
    return f"{sum(each[_WITNESS] for each in fooled) / len(fooled):.0%}", f"{sum(own)}/{len(own)}"
