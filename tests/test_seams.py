"""What adding takes: an attack, a loss, a transform and a target rule of a test's own, each by one registration."""

from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from advimg.attacks.base import Attack, Evaluation
from advimg.attacks.losses import Loss, logit, loss_named
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.errors import UsageError
from advimg.registry import ATTACKS, LOSSES, TARGET_RULES, TRANSFORMS, Registry
from advimg.settings import Settings
from advimg.transforms.base import Transform
from tests.conftest import linear_classifier, random_photo

_REGISTRIES = (ATTACKS, LOSSES, TRANSFORMS, TARGET_RULES)


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Have the registries as they were, after each test."""
    for registry in _REGISTRIES:
        list(registry.values())  # so that all modules are imported
    before = [(dict(registry._modules), dict(registry._things)) for registry in _REGISTRIES]
    yield
    for registry, (modules, things) in zip(_REGISTRIES, before, strict=True):
        registry._modules, registry._things = modules, things


class _OneJump(Attack):
    """The fast gradient sign method (arXiv:1412.6572): one step to the border."""

    def __init__(self, photo: Tensor, settings: Settings, eps: float, free: Tensor | None = None) -> None:
        super().__init__(photo, settings, eps, free)
        self._delta = torch.zeros(photo.shape)

    def propose(self, out: Tensor) -> None:
        out.copy_(self._delta + self.photo)

    def update(self, gradient: Tensor, evaluation: Evaluation) -> None:
        assert 0 <= evaluation.confidence <= 1
        assert np.isfinite(evaluation.loss)
        moved = (self.photo - self.eps * gradient.sign()).clamp(0, 255)
        self._delta = moved - self.photo
        self.steps += 1


def test_an_attack_is_one_class_and_one_registration() -> None:
    ATTACKS.register("jump")(_OneJump)
    classifier = linear_classifier(classes=3, size=16, scale=0.05)
    photo = random_photo(16, 16)
    target = (classifier.judge(photo.levels).top1 + 1) % 3
    result = Engine(classifier).attack(
        Job(photo=photo, target=target, settings=Settings(attack="jump", eps=5, confidence=0.3, refine=0))
    )
    assert result.fooled
    assert result.gradients == 2
    assert np.abs(result.levels.astype(int) - photo.levels).max() == 5


def test_a_loss_is_one_registration() -> None:
    LOSSES.register("half")(Loss(lambda logits, targets: logit(logits, targets) / 2, logit))
    assert loss_named("half", away=False)(torch.tensor([[2.0, 4.0]]), torch.tensor([1])).tolist() == [-2.0]
    classifier = linear_classifier(classes=3, size=16, scale=0.05)
    settings = Settings(loss="half", eps=5)
    assert Engine(classifier).attack(Job(photo=random_photo(16, 16), target=1, settings=settings)).fooled


def test_a_target_rule_is_one_registration() -> None:
    TARGET_RULES.register("last")(lambda probabilities, _: len(probabilities) - 1)
    classifier = linear_classifier(classes=4, size=16, scale=0.05)
    job = Job(photo=random_photo(16, 16), target="last", settings=Settings(eps=5))
    assert Engine(classifier).attack(job).target == 3


class _Darker(Transform):
    """Halves all levels."""

    def apply(self, levels: Tensor, draw: Random) -> Tensor:  # noqa: ARG002
        return levels / 2

    def apply_to_picture(self, picture: Image.Image, draw: Random) -> Image.Image:  # noqa: ARG002
        return picture.point(lambda level: level // 2)


def test_a_transform_is_one_class_and_one_registration() -> None:
    TRANSFORMS.register("darker")(_Darker)
    classifier = linear_classifier(classes=3, size=16, scale=0.05)
    job = Job(photo=random_photo(16, 16), target=1, settings=Settings(transform="darker", eps=5, steps=20))
    result = Engine(classifier).attack(job)
    assert result.fooled
    assert result.steps >= 18  # the first 18 evaluations are of darker pictures, and judge nothing


@pytest.mark.parametrize("registry", _REGISTRIES)
def test_every_name_is_registered_by_the_module_it_names(registry: Registry) -> None:
    for name in registry:
        assert registry[name] is registry[name]
    with pytest.raises(UsageError, match=r"unknown .+ 'nothing': use "):
        registry["nothing"]


@pytest.mark.parametrize("settings", [{"attack": "nothing"}, {"loss": "nothing"}, {"transform": "nothing"}])
def test_settings_know_the_names(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"nothing.+give"):
        Settings(**settings)  # type: ignore[arg-type]
