"""What adding takes: an attack, a loss, a transform and a target rule of a test's own, each by one registration."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from advimg.attacks.base import Evaluation
from advimg.attacks.losses import Loss, logit, loss_named
from advimg.changes import number
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.errors import UsageError
from advimg.registry import ATTACKS, LOSSES, TARGET_RULES, TRANSFORMS, Registry
from advimg.settings import Settings
from advimg.transforms.base import Transform
from tests.attacks import Shifted
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


class _OneJump(Shifted):
    """The fast gradient sign method (arXiv:1412.6572): one step to the border."""

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


@dataclass(frozen=True, slots=True)
class _Darker(Transform):
    """Multiplies all levels by a factor."""

    factor: float = number(0.5, above=0, at_most=1)

    def apply(self, picture: Image.Image) -> Image.Image:
        return picture.point(lambda level: int(level * self.factor))

    def pull_back(self, gradient: Tensor, picture: Image.Image) -> Tensor:  # noqa: ARG002
        return gradient * self.factor


def test_a_transform_is_one_class_and_one_registration() -> None:
    TRANSFORMS.register("darker")(_Darker)
    classifier = linear_classifier(classes=3, size=16, scale=0.1)
    photo = random_photo(16, 16)
    settings = Settings(survive="darker,mirror+darker:0.5-0.75", eps=12)
    assert settings.survive == "darker:0.5,mirror+darker:0.5-0.75"
    result = Engine(classifier).attack(Job(photo=photo, target=1, settings=settings))
    assert result.fooled
    (judgement,) = result.judgements
    factors = {"darker:0.5": 0.5, "mirror+darker:0.5": 0.5, "mirror+darker:0.75": 0.75, "mirror+darker:0.625": 0.625}
    assert [each.change for each in judgement.survives] == list(factors)
    for each in judgement.survives:
        levels = np.floor(result.levels * factors[each.change]).astype(np.uint8)
        seen = classifier.judge(levels[:, ::-1].copy() if "mirror" in each.change else levels)
        assert seen.top1 == 1
        assert each.confidence == pytest.approx(seen.confidence(1), abs=1e-6)
    plain = Engine(classifier).attack(Job(photo=photo, target=1, settings=Settings(eps=12)))
    assert classifier.judge(plain.levels // 2).confidence(1) < 0.9


def test_a_transform_s_limits_and_form_are_told_from_its_fields() -> None:
    with pytest.raises(UsageError, match="unknown change 'darker'"):
        Settings(survive="darker:0.5")
    TRANSFORMS.register("darker")(_Darker)
    with pytest.raises(UsageError, match="the factor must be above 0 and at most 1"):
        Settings(survive="darker:2")
    with pytest.raises(UsageError, match="write darker:FACTOR"):
        Settings(survive="darker:0.5:1")
    with pytest.raises(UsageError, match=r"unknown change 'nothing': use jpeg, .*noise, darker, web"):
        Settings(survive="nothing")


@pytest.mark.parametrize("registry", _REGISTRIES)
def test_every_name_is_registered_by_the_module_it_names(registry: Registry) -> None:
    for name in registry:
        assert registry[name] is registry[name]
    with pytest.raises(UsageError, match=r"unknown .+ 'nothing': use "):
        registry["nothing"]


@pytest.mark.parametrize("settings", [{"attack": "nothing"}, {"loss": "nothing"}, {"survive": "nothing"}])
def test_settings_know_the_names(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"nothing.+(give|use) \w+, "):
        Settings(**settings)  # type: ignore[arg-type]
