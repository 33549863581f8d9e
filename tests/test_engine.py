"""The loop, on networks whose answers are known in closed form."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from advimg.classifiers.classifier import Classifier
from advimg.engine.engine import Engine
from advimg.engine.job import Job, Result
from advimg.errors import ClassifierError, PhotoError
from advimg.images.photo import Levels
from advimg.registry import LOSSES
from advimg.settings import Settings, TargetRule
from tests.conftest import linear_classifier, random_photo, run_all, weight_of

if TYPE_CHECKING:
    from advimg.engine.step_report import StepReport

NEVER = Settings(confidence=0.999999, steps=40)
"""Settings that a small linear network never satisfies, so that the attack goes to its optimum."""


def run_one(classifier: Classifier, job: Job) -> Result:
    return Engine(classifier).attack(job)


def optimum(photo: Levels, direction: torch.Tensor, eps: int) -> Levels:
    """Return the picture in the ε-ball that a linear function with this gradient [3, h, w] is smallest at."""
    step = eps * np.sign(direction.permute(1, 2, 0).numpy())
    best: Levels = np.clip(photo - step, 0, 255).astype(np.uint8)
    return best


@pytest.mark.parametrize("eps", [1, 2, 3, 10, 100, 255])
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("attack", ["pgd", "apgd"])
def test_linear_network_is_solved_exactly(eps: int, loss: str, attack: str) -> None:
    classifier = linear_classifier(seed=eps, scale=0.0001)
    photo = random_photo(8, 8, seed=eps)
    settings = replace(NEVER, eps=eps, loss=loss, attack=attack)
    result = run_one(classifier, Job(photo=photo, target=1, settings=settings))
    weight = weight_of(classifier)
    assert np.array_equal(result.levels, optimum(photo.levels, (weight[0] - weight[1]).view(3, 8, 8), eps))


@pytest.mark.parametrize("squash", [False, True])
def test_linear_network_behind_a_resize_is_solved_exactly(squash: bool) -> None:
    classifier = linear_classifier(scale=0.0001)
    classifier = replace(classifier, preprocessing=replace(classifier.preprocessing, squash=squash))
    photo = random_photo(21, 13)
    result = run_one(classifier, Job(photo=photo, target=0, settings=replace(NEVER, eps=6)))
    weight = weight_of(classifier)
    resize_crop = classifier.preprocessing.resize_crop(21, 13)
    rows, columns = resize_crop.window
    out = torch.empty(3, rows.stop - rows.start, columns.stop - columns.start)
    direction = resize_crop.backward((weight[1] - weight[0]).view(3, 8, 8), out=out)
    expected = photo.levels.copy()
    expected[resize_crop.window] = optimum(photo.levels[resize_crop.window], direction, 6)
    assert np.array_equal(result.levels, expected)


def test_pixels_that_the_view_does_not_show_stay_as_they_are() -> None:
    classifier = linear_classifier()
    photo = random_photo(64, 8)
    result = run_one(classifier, Job(photo=photo, target=1, settings=NEVER))
    assert np.array_equal(result.levels[:, :27], photo.levels[:, :27])
    assert np.array_equal(result.levels[:, -27:], photo.levels[:, -27:])
    assert not np.array_equal(result.levels, photo.levels)


def test_stops_at_the_first_candidate_that_is_there() -> None:
    classifier = linear_classifier(scale=0.05)
    photo = random_photo(8, 8)
    present = classifier.judge(photo.levels).top1
    reports: list[StepReport] = []
    job = Job(photo=photo, target=1 - present, settings=Settings(eps=40, step_size=1, confidence=0.8, refine=0))
    result = Engine(classifier).attack(job, watch=reports.append)
    assert result.after.top1 == 1 - present
    assert result.after.confidence(1 - present) >= 0.8
    assert all(report.confidence < 0.8 for report in reports[:-1])
    assert [report.step for report in reports] == list(range(result.steps + 1))
    assert result.gradients == result.steps + 1


def test_a_photo_that_is_the_target_already_is_left_alone() -> None:
    classifier = linear_classifier(scale=1.0)
    photo = random_photo(8, 8)
    present = classifier.judge(photo.levels).top1
    result = run_one(classifier, Job(photo=photo, target=present, settings=Settings()))
    assert np.array_equal(result.levels, photo.levels)
    assert result.steps == 0


def test_confidence_zero_stops_at_top1() -> None:
    classifier = linear_classifier(classes=5, scale=0.05)
    photo = random_photo(8, 8)
    target = (classifier.judge(photo.levels).top1 + 1) % 5
    result = run_one(classifier, Job(photo=photo, target=target, settings=Settings(eps=60, step_size=1, confidence=0)))
    assert result.after.top1 == target
    assert 0 < result.steps < 60


def test_the_best_attempt_is_kept_when_the_target_is_out_of_reach() -> None:
    classifier = linear_classifier(classes=3, scale=0.001)
    photo = random_photo(8, 8)
    result = run_one(classifier, Job(photo=photo, target=2, settings=Settings(eps=1, steps=7)))
    assert result.after.confidence(2) >= result.before.confidence(2)
    assert result.steps <= 7
    assert result.gradients == 8


def test_restarts_go_on_from_random_points_and_keep_the_best() -> None:
    classifier = linear_classifier(scale=0.0001)
    photo = random_photo(8, 8)
    plain = run_one(classifier, Job(photo=photo, target=1, settings=NEVER))
    restarted = run_one(classifier, Job(photo=photo, target=1, settings=replace(NEVER, restarts=2, seed=3)))
    assert restarted.gradients == 3 * plain.gradients
    assert restarted.after.confidence(1) >= plain.after.confidence(1)


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_neighbours_and_order_do_not_matter(slots: int) -> None:
    classifier = linear_classifier(classes=4, scale=0.02)
    jobs = [
        Job(photo=random_photo(8 + seed, 12, seed), target=seed % 4, settings=Settings(eps=3 + seed, confidence=0.6))
        for seed in range(9)
    ]
    alone = {job: run_one(classifier, job) for job in jobs}
    for order in (jobs, jobs[::-1]):
        results = run_all(Engine(classifier, batch_size=slots), order)
        assert len(results) == len(jobs)
        for result in results:
            assert np.array_equal(result.levels, alone[result.job].levels)


def test_mixed_losses_share_a_pass() -> None:
    classifier = linear_classifier(classes=2, scale=0.0001)
    jobs = [Job(photo=random_photo(8, 8, 1), target=1, settings=replace(NEVER, loss=loss)) for loss in ("ce", "margin")]
    results = run_all(Engine(classifier, batch_size=2), jobs)
    assert np.array_equal(results[0].levels, results[1].levels)


class _NotFinite(torch.nn.Module):
    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return torch.full((len(picture), 2), float("nan"))


class _Constant(torch.nn.Module):
    """Sees the same in every picture and has no gradient to offer."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return torch.stack([picture.sum(dim=(1, 2, 3)) * 0, torch.ones(len(picture))], dim=1)


def _wrapped(network: torch.nn.Module) -> Classifier:
    return Classifier.wrap(
        network, labels=["a", "b"], mean=(0, 0, 0), std=(1, 1, 1), resize=8, crop=8, device="cpu", name="odd"
    )


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ClassifierError, match="not finite"):
        run_one(_wrapped(_NotFinite()), Job(photo=random_photo(8, 8), target=1, settings=Settings()))


def test_a_network_without_a_gradient_ends_with_the_photo() -> None:
    photo = random_photo(8, 8)
    result = run_one(_wrapped(_Constant()), Job(photo=photo, target=0, settings=Settings(steps=3)))
    assert np.array_equal(result.levels, photo.levels)
    assert result.after.top1 == 1


def test_output_of_another_shape_is_an_error() -> None:
    with pytest.raises(ClassifierError, match="one logit for each of 2 labels"):
        run_one(_wrapped(torch.nn.Flatten()), Job(photo=random_photo(8, 8), target=1, settings=Settings()))


def test_a_photo_too_long_and_thin_is_refused() -> None:
    photo = random_photo(10000, 3)
    with pytest.raises(PhotoError, match="10000x3"):
        Classifier.wrap(
            torch.nn.Flatten(), labels=["a"], mean=(0, 0, 0), std=(1, 1, 1), device="cpu"
        ).preprocessing.check_size(*photo.size, source="thin.png")


def test_only_the_network_s_own_gradient_is_taken() -> None:
    """The classifier's parameters get no gradient and stay as they were."""
    classifier = linear_classifier()
    before = weight_of(classifier).clone()
    run_one(classifier, Job(photo=random_photo(8, 8), target=1, settings=NEVER))
    assert torch.equal(weight_of(classifier), before)
    assert all(parameter.grad is None for parameter in classifier.network.parameters())


def test_the_untouched_network_wins_over_the_gradient_network() -> None:
    """A gradient network that always believes in success does not end the attack."""
    classifier = linear_classifier(scale=0.0001)
    engine = Engine(classifier)
    liar = torch.tensor([[-9.0, 9.0]])
    (network,) = engine._networks
    honest = network.logits
    network.logits = lambda seen, *_: honest(seen) * 0.001 + liar  # type: ignore[method-assign]
    result = engine.attack(Job(photo=random_photo(8, 8), target=1, settings=Settings(steps=4, confidence=0.9)))
    assert result.gradients == 5
    assert result.after.confidence(1) < 0.9


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_of_two_classes_untargeted_is_towards_the_other(loss: str) -> None:
    classifier = linear_classifier(scale=0.02)
    photo = random_photo(8, 8)
    other = 1 - classifier.judge(photo.levels).top1
    settings = Settings(eps=12, loss=loss)
    away = run_one(classifier, Job(photo=photo, target="untargeted", settings=settings))
    towards = run_one(classifier, Job(photo=photo, target=other, settings=settings))
    assert away.fooled
    assert away.target == other
    assert np.array_equal(away.levels, towards.levels)


def test_untargeted_ends_with_the_class_that_is_there() -> None:
    classifier = linear_classifier(classes=7, scale=0.05)
    photo = random_photo(8, 8)
    present = classifier.judge(photo.levels).top1
    result = run_one(classifier, Job(photo=photo, target="untargeted", settings=Settings(eps=40, confidence=0.8)))
    assert result.fooled
    assert result.target == result.after.top1 != present
    assert result.after.confidence(present) <= 0.2


def test_untargeted_out_of_reach_names_the_class_that_came_nearest() -> None:
    classifier = linear_classifier(classes=7, scale=1.0)
    photo = random_photo(8, 8)
    present = classifier.judge(photo.levels).top1
    result = run_one(classifier, Job(photo=photo, target="untargeted", settings=Settings(eps=1, steps=3)))
    assert not result.fooled
    assert result.after.top1 == present
    assert result.target == result.after.top(2)[1].index
    assert result.after.confidence(present) <= result.before.confidence(present)


def test_with_and_without_a_target_share_a_pass() -> None:
    classifier = linear_classifier(classes=4, scale=0.02)
    rules: list[int | TargetRule] = [0, "untargeted", "runner-up", "untargeted", 3]
    jobs = [
        Job(photo=random_photo(9, 8, seed), target=rule, settings=Settings(eps=8, confidence=0.6))
        for seed, rule in enumerate(rules)
    ]
    alone = {job: run_one(classifier, job) for job in jobs}
    for result in run_all(Engine(classifier, batch_size=5), jobs):
        assert np.array_equal(result.levels, alone[result.job].levels)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("aim", ["untargeted", 2])
def test_a_network_whose_softmax_is_saturated_is_no_obstacle(loss: str, aim: int | TargetRule) -> None:
    """Logits multiplied by 100: the confidence is 1 to the last digit, and its gradient nothing."""
    quiet = linear_classifier(classes=4, size=8, scale=0.5)
    sure = Classifier.wrap(
        nn.Sequential(quiet.network, Times(100)),
        labels=quiet.labels.names,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        resize=8,
        crop=8,
        device="cpu",
    )
    photo = next(
        photo
        for photo in (random_photo(8, 8, seed) for seed in range(100))
        if sure.judge(photo.levels).confidence(0) == 1
    )
    result = run_one(sure, Job(photo=photo, target=aim, settings=Settings(eps=60, loss=loss, refine=0)))
    assert result.fooled
    assert result.after.confidence(result.target) >= 0.9
    assert result.gradients <= 30


class Times(nn.Module):
    """Multiplies logits."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * self.factor
