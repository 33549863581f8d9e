"""Auto-PGD: its checkpoints and its step size; its optimum in closed form is in ``test_engine`` and ``test_l2``."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from advimg.attacks.apgd import APGD, checkpoints
from advimg.attacks.base import Evaluation
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.images.decode import photo_from_pixels
from advimg.images.mask import mask_for
from advimg.settings import Settings
from tests.conftest import linear_classifier, random_photo, run_all


def test_the_checkpoints_are_those_of_the_paper() -> None:
    """For 100 steps: 22, then intervals of 19, 16, 13, 10, 7 and at last 6."""
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(10)) == [3, 5, 6, 7, 8, 9, 10]


def _moves(losses: Sequence[float], steps: int = 100) -> list[float]:
    """Return how far a pixel moves at each step, where the gradient is the same throughout and the losses are these."""
    photo = torch.full((1, 1, 1), 128, dtype=torch.uint8)
    attack = APGD(photo, Settings(attack="apgd", eps=100, step_size=0.5, steps=steps), 100)
    places = [0.0]
    for loss in losses:
        attack.update(
            torch.ones(1, 1, 1), Evaluation(fooled=False, log_confidence=0.0, compute_loss=partial(float, loss))
        )
        places.append(float(attack._delta))
    return [before - after for before, after in pairwise(places)]


def test_while_the_loss_falls_steps_keep_their_length() -> None:
    """With α = 0.75 the momentum settles at 0.75 η + 0.25 of the last move: η."""
    moves = _moves([-float(step) for step in range(60)])
    assert moves[0] == pytest.approx(0.5)
    assert moves[-1] == pytest.approx(0.5)


def test_a_loss_that_does_not_fall_halves_the_step_at_the_next_checkpoint_and_returns_to_the_best_point() -> None:
    losses = [-float(step) for step in range(6)] + [0.0] * 20
    moves = _moves(losses)
    assert moves[21] == pytest.approx(0.5)
    # At step 22 back to the best point, after 5 moves of about 0.5 each, and from there half a step.
    place = sum(moves[:23])
    assert place == pytest.approx(sum(moves[:5]) + 0.75 * 0.25)
    assert moves[23] < 0.3


def test_with_restarts_masks_and_several_eps_the_promise_is_kept() -> None:
    classifier = linear_classifier(classes=3, size=16, scale=0.05)
    photo = random_photo(20, 16)
    free = np.zeros((16, 20, 3), dtype=np.uint8)
    free[3:14, 4:18] = 255
    mask = mask_for(photo, photo_from_pixels(free))
    jobs = [
        Job(photo=photo, target=1, settings=Settings(attack="apgd", eps="auto", confidence=0.9), mask=mask),
        Job(photo=photo, target=2, settings=Settings(attack="apgd", eps=2, steps=8, restarts=2, confidence=0.9999)),
        Job(photo=photo, target="untargeted", settings=Settings(attack="apgd", norm="l2", eps=0.5)),
        Job(photo=photo, target=1, settings=Settings(attack="apgd", eps=8, transfer=True, steps=20)),
    ]
    together = {result.job: result for result in run_all(Engine(classifier, batch_size=3), jobs)}
    assert together[jobs[0]].fooled
    assert not (together[jobs[0]].levels != photo.levels).any(axis=2)[free[:, :, 0] == 0].any()
    assert np.abs(together[jobs[1]].levels.astype(int) - photo.levels).max() <= 2
    assert together[jobs[1]].gradients == 27
    for job, result in together.items():
        assert np.array_equal(result.levels, Engine(classifier).attack(job).levels)
