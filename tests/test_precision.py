"""The precision of gradients: measured, and left where it does not lead to the target."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient import precision
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.images.photo import Photo
from advimg.settings import Settings
from tests.conftest import linear_classifier, random_photo, run_all


class Clock:
    """A clock that only a network moves, so that no other work on the machine counts."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(autouse=True)
def measured_by_our_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "time", CLOCK)


class Slow(nn.Module):
    """A network whose delay, by that clock, depends on the precision of its input."""

    def __init__(self, fp32: float, bf16: Callable[[], float]) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 64, 3)
        self.delays: dict[torch.dtype, Any] = {torch.float32: lambda: fp32, torch.bfloat16: bf16}

    def forward(self, pictures: Tensor) -> Tensor:
        CLOCK.now += self.delays[pictures.dtype]()
        logits: Tensor = self.linear(pictures.flatten(1))
        return logits


def wrapped(network: nn.Module) -> Classifier:
    labels = ["a", "b", "c"]
    return Classifier.wrap(network, labels=labels, mean=(0.5,) * 3, std=(0.5,) * 3, resize=8, crop=8, device="cpu")


def impossible() -> float:
    raise RuntimeError("not implemented for 'BFloat16'")


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected", "reason"),
    [
        (0.04, lambda: 0.01, "bf16", "bf16: a pass takes"),
        (0.02, lambda: 0.04, "fp32", "fp32: a pass takes"),
        (0.02, lambda: 0.019, "fp32", "fp32: a pass takes"),  # too little to be worth it
        (0.02, impossible, "fp32", "fp32: bf16 is not possible with this network"),
        (0.0, lambda: 0.0, "fp32", "fp32: the network is small"),
    ],
)
def test_auto_is_what_was_measured_to_be_quicker(
    monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: Callable[[], float], expected: str, reason: str
) -> None:
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    engine = Engine(wrapped(Slow(fp32, bf16)))
    job = Job(photo=random_photo(8, 8), target=1, settings=Settings(steps=4, eps=1))
    result = engine.attack(job)
    assert engine.precision == expected
    assert engine.choices[0].startswith(reason)
    assert result.precision.split(", ")[0] == expected


def test_without_bf16_units_bf16_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16_units", lambda: False)
    tried: list[bool] = []

    def note() -> float:
        tried.append(True)
        return 0

    engine = Engine(wrapped(Slow(0.02, note)))
    engine.attack(Job(photo=random_photo(8, 8), target=1, settings=Settings(steps=2)))
    assert (engine.precision, tried) == ("fp32", [])
    assert engine.choices == ("fp32: bf16 is slower on this processor",)


@pytest.mark.parametrize(("usual", "low", "found"), [(2.0, 1.0, True), (1.0, 2.0, False)])
def test_the_units_are_found_or_not(monkeypatch: pytest.MonkeyPatch, usual: float, low: float, found: bool) -> None:
    measured = iter([usual, low])
    monkeypatch.setattr(precision, "_seconds", lambda *_, **__: next(measured))
    precision.has_bf16_units.cache_clear()
    assert precision.has_bf16_units() is found
    precision.has_bf16_units.cache_clear()


@pytest.mark.parametrize("given", ["fp32", "bf16"])
def test_what_was_given_is_not_measured(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advimg.engine.engine.chosen", lambda *_: pytest.fail("measured"))
    engine = Engine(linear_classifier(classes=3), precision=given)
    engine.attack(Job(photo=random_photo(8, 8), target=1, settings=Settings(steps=2)))
    assert (engine.precision, engine.choices) == (given, ())


def test_a_copy_in_bf16_agrees_with_the_network_it_was_made_of(lite0: Classifier) -> None:
    network = GradientNetwork(lite0, "fp32")
    low = network.in_bf16()
    seen = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        exact, rough = network.logits(seen), low.logits(seen)
    assert (network.precision, low.precision) == ("fp32", "bf16")
    assert exact.dtype == rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert (exact - rough).abs().max() < 0.1 * exact.abs().max()


# Leaving bf16 where it does not lead to the target.


def lying(engine: Engine) -> None:
    """Let the gradient networks in bf16 always believe in success."""
    for network in engine._networks:
        honest = network.logits
        network.logits = lambda seen, *_, honest=honest: honest(seen) * 1e-3 + torch.tensor([-9.0, 9.0])  # type: ignore[method-assign]


def test_a_photo_whose_success_is_refused_again_and_again_goes_on_in_fp32() -> None:
    classifier = linear_classifier(scale=0.05)
    job = Job(photo=_seen_as(classifier, 0), target=1, settings=Settings(eps=40, step_size=1))
    engine = Engine(classifier, precision="bf16")
    lying(engine)
    result = engine.attack(job)
    assert result.fooled
    assert result.after.confidence(1) >= 0.9
    assert result.precision == "bf16, then fp32"


def test_what_was_refused_is_not_taken_for_the_best() -> None:
    """Where the target cannot be reached, the result is as good as in fp32."""
    classifier = linear_classifier(scale=0.0005)
    job = Job(photo=_seen_as(classifier, 0), target=1, settings=Settings(eps=2, steps=20))
    engine = Engine(classifier, precision="bf16")
    lying(engine)
    result = engine.attack(job)
    assert result.after.confidence(1) == pytest.approx(Engine(classifier).attack(job).after.confidence(1))
    assert result.after.confidence(1) > result.before.confidence(1)


def _seen_as(classifier: Classifier, index: int) -> Photo:
    photos = (random_photo(8, 8, seed) for seed in range(100))
    return next(photo for photo in photos if classifier.judge(photo.levels).top1 == index)


def test_a_photo_that_is_not_there_after_half_of_its_steps_goes_on_in_fp32() -> None:
    """Of a network in which bf16 sees no difference between pictures; fp32 does."""
    classifier = linear_classifier(scale=0.02)
    photo = random_photo(8, 8)
    target = 1 - classifier.judge(photo.levels).top1
    engine = Engine(classifier, precision="bf16", batch_size=4)
    (network,) = engine._networks
    network.logits = lambda seen, *_: (seen * 0).sum((1, 2, 3), keepdim=False)[:, None].expand(-1, 2)  # type: ignore[method-assign]
    settings = Settings(eps=16, steps=60)
    slow = Job(photo=photo, target=target, settings=settings)
    others = [Job(photo=random_photo(8, 8, seed), target=target, settings=settings) for seed in range(1, 4)]
    for result in run_all(engine, [slow, *others]):
        assert result.fooled
        assert result.precision == "bf16, then fp32"
        assert result.steps >= 31


def test_a_photo_in_fp32_among_those_in_bf16_gets_the_bytes_it_gets_alone() -> None:
    classifier = linear_classifier(classes=4, size=8, scale=0.0005)
    settings = Settings(steps=25)
    jobs = [Job(photo=random_photo(8, 8, seed), target=seed % 4, settings=settings) for seed in range(6)]
    together = {result.job: result for result in run_all(Engine(classifier, precision="bf16", batch_size=3), jobs)}
    for job in jobs:
        alone = Engine(classifier, precision="bf16").attack(job)
        assert np.array_equal(alone.levels, together[job].levels)
        assert alone.precision == together[job].precision


def test_fp32_is_not_split_into_two_groups() -> None:
    sizes: list[int] = []
    classifier = linear_classifier(classes=4, size=8, scale=0.0001)
    engine = Engine(classifier, precision="fp32", batch_size=4)
    (network,) = engine._networks
    honest = network.logits

    def counted(seen: Tensor, softness: Sequence[tuple[float, float]] = ()) -> Tensor:
        sizes.append(len(seen))
        return honest(seen)

    network.logits = counted  # type: ignore[method-assign]
    steps = (4, 8, 8, 8)
    jobs = [Job(photo=random_photo(8, 8, n), target=1, settings=Settings(eps=1, steps=s)) for n, s in enumerate(steps)]
    run_all(engine, jobs)
    assert sizes == [4] * 5 + [3] * 4
