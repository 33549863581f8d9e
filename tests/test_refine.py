"""Refinement: on linear networks against the least change in closed form, and on the bundled one by other metrics."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

import advimg
from advimg.attacks.refine import Refine, visibility
from advimg.classifiers.classifier import Classifier
from advimg.engine.engine import Engine
from advimg.engine.job import Job, Result
from advimg.images.decode import photo_from_pixels
from advimg.images.mask import mask_for
from advimg.images.photo import Levels, Photo
from advimg.settings import Settings
from tests import referee
from tests.conftest import linear_classifier, random_photo, run_all, sample, weight_of

PELICAN = 144


def _shows(photo: Photo, levels: Levels) -> float:
    return float((np.abs(levels.astype(float) - photo.levels) ** 3).sum())


def _grey(side: int) -> Photo:
    return photo_from_pixels(np.full((side, side, 3), 128, dtype=np.uint8))


def _log_odds(classifier: Classifier, levels: Levels, target: int) -> float:
    confidence = classifier.judge(levels).confidence(target)
    return float(np.log(confidence / (1 - confidence)))


@pytest.mark.parametrize("seed", range(4))
def test_on_a_linear_network_the_least_change_along_the_least_visible_direction_is_found(seed: int) -> None:
    """There the gradient is the same everywhere: the optimum is s A(g), rounded, with the least s that suffices."""
    classifier = linear_classifier(size=32, scale=0.01, seed=seed)
    photo = _grey(32)
    target = 1 - classifier.judge(photo.levels).top1
    settings = Settings(eps=40, confidence=0.9, refine=40)
    result = Engine(classifier).attack(Job(photo=photo, target=target, settings=settings))
    weight = weight_of(classifier)
    slope = (weight[target] - weight[1 - target]).view(3, 32, 32).clone()
    attack = Refine(torch.full((3, 32, 32), 128, dtype=torch.uint8), settings, 40)
    direction = attack._least_visible(slope).permute(1, 2, 0).numpy()
    scales = np.arange(0.05, 40, 0.05)
    candidates = (np.clip(np.round(s * direction) + 128, 0, 255).astype(np.uint8) for s in scales)
    best = next(levels for levels in candidates if classifier.judge(levels).confidence(target) >= 0.9)
    assert result.fooled
    assert result.after.confidence(target) >= 0.9
    assert _shows(photo, result.levels) <= 1.1 * _shows(photo, best)
    assert _log_odds(classifier, result.levels, target) - np.log(9) < 0.3


def _jobs(**settings: Any) -> list[Job]:
    free = np.zeros((30, 40, 3), dtype=np.uint8)
    free[4:25, 6:36] = 255
    photos = [random_photo(40, 30, seed) for seed in range(6)]
    return [
        Job(
            photo=photo,
            target="untargeted" if number == 3 else number % 4,
            settings=replace(Settings(eps=6, steps=40), **settings),
            mask=mask_for(photo, photo_from_pixels(free)) if number % 2 else None,
        )
        for number, photo in enumerate(photos)
    ]


def _assert_promise(result: Result, classifiers: list[Classifier]) -> None:
    photo = result.job.photo
    change = result.levels.astype(int) - photo.levels
    settings = result.job.settings
    if settings.norm == "linf":
        assert np.abs(change).max() <= result.eps
    else:
        assert np.sqrt((change.astype(float) ** 2).sum()) <= result.eps * 255
    if result.job.mask is not None:
        assert not change[~result.job.mask.free].any()
    assert result.fooled == all(
        (classifier.judge(result.levels).top1 == judgement.target)
        for classifier, judgement in zip(classifiers, result.judgements, strict=True)
    )


@pytest.mark.parametrize("settings", [{}, {"norm": "l2", "eps": 2.0}, {"eps": "auto"}, {"eps": 5}, {"attack": "apgd"}])
@pytest.mark.parametrize("networks", [1, 2])
def test_the_promise_is_kept_and_the_change_shows_no_more(settings: dict[str, Any], networks: int) -> None:
    classifiers = [linear_classifier(classes=4, size=24, seed=seed, scale=0.2) for seed in range(networks)]
    engine = Engine(*classifiers, batch_size=4)
    plain = {result.job.photo.sha256: result for result in run_all(engine, _jobs(refine=0, **settings))}
    fooled = 0
    for result in run_all(engine, _jobs(**settings)):
        _assert_promise(result, classifiers)
        before = plain[result.job.photo.sha256]
        assert result.fooled == before.fooled
        assert result.eps == before.eps
        assert _shows(result.job.photo, result.levels) <= _shows(result.job.photo, before.levels)
        assert min(judgement.confidence for judgement in result.judgements) >= min(
            result.job.settings.min_confidence, min(judgement.confidence for judgement in before.judgements)
        )
        fooled += before.fooled
    assert fooled >= 4


def test_a_photo_gets_the_same_bytes_alone_and_in_company() -> None:
    classifier = linear_classifier(classes=4, size=24, scale=0.2)
    together = run_all(Engine(classifier, batch_size=3), _jobs())
    for result in together:
        assert np.array_equal(result.levels, Engine(classifier).attack(result.job).levels)


def test_the_passes_are_bounded_and_counted() -> None:
    classifier = linear_classifier(classes=4, size=24, scale=0.2)
    job = _jobs()[0]
    first = Engine(classifier).attack(replace(job, settings=replace(job.settings, refine=0)))
    result = Engine(classifier).attack(replace(job, settings=replace(job.settings, refine=7)))
    assert result.gradients == first.gradients + 8
    assert result.steps <= first.steps + 7


def test_a_photo_that_is_the_target_stays_as_it_is() -> None:
    classifier = linear_classifier(scale=1.0)
    photo = random_photo(8, 8)
    present = classifier.judge(photo.levels).top1
    result = Engine(classifier).attack(Job(photo=photo, target=present, settings=Settings()))
    assert np.array_equal(result.levels, photo.levels)
    assert result.gradients == 1


def test_with_transfer_it_is_off_unless_asked_for() -> None:
    assert Settings().refine_steps > 0
    assert Settings(transfer=True).refine_steps == 0
    assert Settings(survive="mirror").refine_steps == Settings().refine_steps
    assert Settings(transfer=True, refine=5).refine_steps == 5
    assert Settings(refine=0).refine_steps == 0


def test_the_measure_is_a_sum_of_third_powers() -> None:
    assert visibility(torch.tensor([[[1.0, -2.0]], [[0.0, 3.0]]])) == 36


def test_the_file_is_far_less_visible_at_the_same_confidence(lite0: Classifier, tmp_path: Path) -> None:
    """By CIEDE2000, which the attack does not use, and on the reopened files, judged by another network's code."""
    coffee = sample("coffee.png")
    shown = {}
    for refine in (0, None):
        path = tmp_path / f"{refine}.png"
        advimg.attack(coffee, PELICAN, model=lite0, precision="fp32", refine=refine).save(path)
        assert referee.judge(path)[0] == PELICAN
        assert referee.judge(path)[1] >= 0.9 - 1e-3
        levels, photo = referee.pixels(path), referee.pixels(coffee)
        difference: Any = deltaE_ciede2000  # untyped
        shown[refine] = float(difference(rgb2lab(photo), rgb2lab(levels)).mean())
    assert shown[None] < 0.15 * shown[0]


def test_the_file_does_not_depend_on_which_photos_share_a_pass(lite0: Classifier) -> None:
    """A network computes one picture by other kernels than several, whose last bits differ."""
    with Image.open(sample("chelsea.png")) as image:
        tiles = [image.convert("RGB").crop((40 * n, 20, 40 * n + 240, 240)) for n in range(3)]
    jobs = [
        Job(photo=photo_from_pixels(tile, source=f"{n}.png"), target=PELICAN, settings=Settings(refine=12))
        for n, tile in enumerate(tiles)
    ]
    together = run_all(Engine(lite0, precision="fp32", batch_size=3), jobs)
    for result in together:
        (alone,) = run_all(Engine(lite0, precision="fp32", batch_size=3), [result.job])
        assert np.array_equal(result.levels, alone.levels)
