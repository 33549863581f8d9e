"""The rules that choose a target class, alone and in the engine."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest
import torch

from advimg.attacks.target_rules import choose_target
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.images.photo import Photo
from advimg.registry import TARGET_RULES
from advimg.settings import Settings, TargetRule
from tests.batches import NEVER
from tests.conftest import linear_classifier, random_photo, run_all

RULE_NAMES: tuple[TargetRule, ...] = ("random", "least-likely", "runner-up")


@pytest.mark.parametrize(("rule", "expected"), [("least-likely", 2), ("runner-up", 3)])
def test_rules_that_go_by_rank(rule: TargetRule, expected: int) -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.05, 0.35])
    assert choose_target(rule, probabilities, seed="any") == expected


def test_random_is_any_class_but_the_present_one_with_equal_chances() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.3, 0.1])
    draw = Random(1)
    chosen = [TARGET_RULES["random"](probabilities, draw) for _ in range(3000)]
    counts = [chosen.count(index) for index in range(4)]
    assert counts[1] == 0
    assert all(900 < counts[index] < 1100 for index in (0, 2, 3))


def test_the_seed_decides_what_random_is() -> None:
    probabilities = torch.full((1000,), 0.001)
    first = choose_target("random", probabilities, seed="0 abc")
    assert choose_target("random", probabilities, seed="0 abc") == first
    assert len({choose_target("random", probabilities, seed=f"{seed} abc") for seed in range(20)}) > 15


@pytest.mark.parametrize("rule", TARGET_RULES)
def test_a_network_of_one_class_has_one_target(rule: TargetRule) -> None:
    assert choose_target(rule, torch.tensor([1.0]), seed="") == 0


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_rules_are_resolved_by_what_the_classifier_sees_in_the_photo(rule: TargetRule) -> None:
    classifier = linear_classifier(classes=30, scale=0.05)
    photos = [random_photo(9, 12, seed) for seed in range(6)]
    jobs = [Job(photo=photo, target=rule, settings=NEVER) for photo in photos]
    targets = {result.job: result.target for result in run_all(Engine(classifier, batch_size=4), jobs)}
    for job in jobs:
        order = classifier.judge(job.photo.levels).probabilities.argsort(descending=True).tolist()
        assert targets[job] != order[0]
        if rule != "random":
            assert targets[job] == order[-1 if rule == "least-likely" else 1]
    again = {result.job: result.target for result in run_all(Engine(classifier, batch_size=1), jobs[::-1])}
    assert again == targets


def test_random_depends_on_the_photo_and_the_seed() -> None:
    classifier = linear_classifier(classes=1000, scale=0.0001)

    def targets(photos: Iterable[Photo], seed: int) -> list[int]:
        settings = Settings(steps=1, seed=seed)
        engine = Engine(classifier)
        return [engine.attack(Job(photo=photo, target="random", settings=settings)).target for photo in photos]

    photos = [random_photo(8, 8, seed) for seed in range(5)]
    assert targets(photos, 0) == targets([replace(photo, source="elsewhere") for photo in photos], 0)
    present = [classifier.judge(photo.levels).top1 for photo in photos]
    assert len({(target - top1) % 1000 for target, top1 in zip(targets(photos, 0), present, strict=True)}) == 5
    assert targets(photos, 0) != targets(photos, 1)
