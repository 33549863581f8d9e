"""The second table of the benchmark ``one_photo``: the time of each phase of an attack, inside one process.

Timed around the public pieces of the engine, with a preprocessing whose two directions are timed;
a step's arithmetic is what is left of the state's own methods when they are taken off.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from advimg.attacks.base import Evaluation
from advimg.classifiers.ensemble import Ensemble
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.load import load_classifier
from advimg.classifiers.preprocessing import Preprocessing, ResizeCrop
from advimg.engine.attack_state import AttackState
from advimg.engine.forward import Score, forward
from advimg.engine.job import Job
from advimg.images.decode import read_photo
from advimg.images.encode import encode_png
from advimg.outcome import outcome_of
from advimg.settings import Settings
from tests.benchmarks.measure import Stopwatch, print_table, progress
from tests.benchmarks.one_photo import MODEL, STEPS, TARGET, describe

_REPEATS = 5
_ONCE = (
    "decode",
    "load the classifier",
    "build the gradient network",
    "before-verdict",
    "set up the attack",
    "encode the PNG",
    "save it: encode, write, reopen, compare",
    "encode the perturbation's picture",
)
_SEE, _NETWORK, _BACK = "a step: view forward", "a step: network forward and backward", "a step: view gradient"
_ARITHMETIC, _WHOLE = "a step: arithmetic", "a step, all together"
_EACH_STEP = (_SEE, _NETWORK, _BACK, _ARITHMETIC, _WHOLE)


@dataclass(frozen=True, eq=False)
class _TimedResizeCrop(ResizeCrop):
    """A view's differentiable form that is timed whenever it is used."""

    watch: Stopwatch

    def forward(self, window: Tensor) -> Tensor:
        return self.watch.time(_SEE, partial(super().forward, window))

    def backward(self, seen: Tensor, out: Tensor) -> Tensor:
        return self.watch.time(_BACK, partial(super().backward, seen, out))


@dataclass(frozen=True, kw_only=True)
class _TimedPreprocessing(Preprocessing):
    """A view whose differentiable form is timed."""

    watch: Stopwatch

    def resize_crop(self, width: int, height: int, device: torch.device | str = "cpu") -> _TimedResizeCrop:
        resize_crop = super().resize_crop(width, height, device)
        return _TimedResizeCrop(resize_crop.axes, self.watch)

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name != "watch"}


def print_phases(photos: Sequence[Path], weights: Path, device: str) -> None:
    """Measure the phases of an attack on each photo, and print them as one table."""
    columns = []
    for photo in photos:
        progress(f"timing the phases of {describe(photo)} ...")
        columns.append(_phases(photo, weights, device))
    rows = [(name, *(f"{1000 * column[name]:.1f}" for column in columns)) for name in _ONCE + _EACH_STEP]
    rows.append(("the network's share of a step", *(f"{column[_NETWORK] / column[_WHOLE]:.0%}" for column in columns)))
    print_table(
        f"Phases in one process, median milliseconds ({STEPS} steps, {_REPEATS} of all else)",
        ("phase", *map(describe, photos)),
        rows,
    )


def _phases(path: Path, weights: Path, device: str) -> dict[str, float]:
    classifier = load_classifier(MODEL, weights=weights, device=device)  # the first of a process warms up
    watch = Stopwatch(classifier.device)
    photo = watch.time("decode", lambda: read_photo(path), _REPEATS)
    classifier = watch.time(
        "load the classifier", lambda: load_classifier(MODEL, weights=weights, device=device), _REPEATS
    )
    # Of a new classifier each time: what was made for one is kept.
    network = watch.time("build the gradient network", lambda: GradientNetwork(replace(classifier)), _REPEATS)
    watch.time("before-verdict", lambda: classifier.judge(photo.levels), _REPEATS)
    job = Job(photo=photo, target=classifier.labels.find(TARGET), settings=Settings(steps=STEPS))
    timed = replace(classifier, preprocessing=_TimedPreprocessing(**asdict(classifier.preprocessing), watch=watch))
    ensemble = Ensemble([timed])
    ensemble.judge_photo(photo)  # which the state asks for, once a photo
    state = watch.time("set up the attack", lambda: AttackState(job, ensemble), _REPEATS)
    for _ in range(STEPS):
        _step(state, network, watch)
    _save(state, watch)
    return _medians(watch.seconds)


def _step(state: AttackState, network: GradientNetwork, watch: Stopwatch) -> None:
    """Take one step as the engine does."""
    (views,) = watch.time("see", state.inputs)  # of the one network; the file itself is the only view

    def gradient() -> tuple[Tensor, Score]:
        each = forward(views, network, state.criteria, [state.attack.softness])
        return each.gradient([state.job.settings.loss], [state.attack.temperature]), each.scores[0]

    slopes, score = watch.time(_NETWORK, gradient)
    watch.time("keep", lambda: state.keep_if_best(fooled=0, log_confidence=score.log_confidence))
    evaluation = Evaluation(fooled=False, log_confidence=score.log_confidence, compute_loss=lambda: 0.0)

    def step() -> None:
        state.gather([slopes])
        state.step([score], evaluation)

    watch.time("step", step)


def _save(state: AttackState, watch: Stopwatch) -> None:
    levels = state.best_levels()
    outcome = outcome_of(state.result(state.attempt(levels, state.judge(levels), steps=state.best_steps)))
    watch.time("encode the PNG", outcome.png, _REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adversarial.png"
        watch.time("save it: encode, write, reopen, compare", lambda: outcome.save(path, overwrite=True), _REPEATS)
    watch.time("encode the perturbation's picture", lambda: encode_png(outcome.perturbation()), _REPEATS)


def _medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    steps = zip(*(seconds[name] for name in ("see", "keep", "step", _SEE, _BACK, _NETWORK)), strict=True)
    arithmetic, whole = [], []
    for see, keep, step, view, view_back, network in steps:
        arithmetic.append(see + keep + step - view - view_back)
        whole.append(see + keep + step + network)
    return {name: median(values) for name, values in {**seconds, _ARITHMETIC: arithmetic, _WHOLE: whole}.items()}
