"""What each part of the attack adds: files that keep the promise, with it and without it, at small eps.

Every row is the attack with one thing changed. The first rows take away what it has; the others give it what it does
not have, because it added nothing here. Pairs of photo and target are those of "strength", and judged as there.

    python -m tests.benchmarks stages --photos FOLDER
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import click

from advimg.attacks.pgd import PGD
from advimg.classifiers.load import load_classifier
from advimg.engine.engine import Engine
from advimg.settings import Settings
from tests.benchmarks.measure import print_machine, print_table, progress
from tests.benchmarks.photos import device_option, find_photos, photos_option
from tests.benchmarks.strength import attack_all, random_targets
from tests.referee import Judge

_STEP_SIZE, _SOFTNESS = (vars(PGD)[name].fget for name in ("step_size", "softness"))
"""As they are, whatever is patched."""


@dataclass(frozen=True)
class _Variant:
    """The attack with something changed."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Callable[[PGD], Any]] = field(default_factory=dict)


_VARIANTS = (
    _Variant("as it is"),
    _Variant("without momentum", {"momentum": 0.0}),
    _Variant("without soft derivatives", schedule={"softness": lambda _: (0.0, 0.0)}),
    _Variant("without the warm loss", schedule={"temperature": lambda _: 1.0}),
    _Variant("all steps half of eps", schedule={"step_size": lambda attack: attack.eps / 2}),
    _Variant("soft derivatives in all layers", schedule={"softness": lambda attack: _SOFTNESS(attack)[:1] * 2}),
    _Variant("warm throughout, at 2", schedule={"temperature": lambda _: 2.0}),
    _Variant("margin loss", {"loss": "margin"}),
    _Variant("steps half as long", schedule={"step_size": lambda attack: _STEP_SIZE(attack) / 2}),
    _Variant("another start after half of the steps", {"steps": 50, "restarts": 1}),
)


@click.command()
@photos_option
@device_option
@click.option("--targets", default=4, show_default=True, type=click.IntRange(1, 100), help="Random targets a photo.")
@click.option("-e", "--eps", "budgets", multiple=True, default=(4, 2, 1), show_default=True, type=int)
@click.option("--only", "chosen", multiple=True, type=click.Choice([variant.name for variant in _VARIANTS]))
@click.option("--seed", default=0, show_default=True, help="Of the targets.")
def benchmark(
    photos: Path | None, device: str, targets: int, budgets: Sequence[int], chosen: Sequence[str], seed: int
) -> None:
    """Show what each part of the attack adds."""
    print_machine()
    judge = Judge()
    pairs = {path: random_targets(path, judge, targets, seed) for path in find_photos(photos)}
    engine = Engine(load_classifier("efficientnet_lite0", device=device), precision="fp32")
    rows = []
    for variant in _VARIANTS:
        if chosen and variant.name not in chosen:
            continue
        cells = []
        for eps in budgets:
            progress(f"{variant.name}, eps {eps} ...")
            with _scheduled(variant):
                tally = attack_all(pairs, Settings(eps=eps, refine=0, **variant.settings), judge, engine)
            cells += [f"{sum(tally.kept)}/{len(tally.kept)}", f"{mean(tally.gradients):.1f}"]
            progress(f"  {cells[-2]}, {cells[-1]} gradients")
        rows.append((variant.name, *cells))
    asked = Settings()
    print_table(
        f"The attack with one thing changed, at most {asked.max_steps} steps, confidence asked for "
        f"{asked.min_confidence:g}",
        ("", *(column for eps in budgets for column in (f"files at eps {eps}", "gradients"))),
        rows,
    )


@contextmanager
def _scheduled(variant: _Variant) -> Iterator[None]:
    """Have steps, loss and derivatives change as a variant has it while the context lasts."""
    with ExitStack() as patches:
        for name, value in variant.schedule.items():
            patches.enter_context(patch.object(PGD, name, property(value)))
        yield
