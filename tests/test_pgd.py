"""The mathematics of the attack, on numbers alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advimg.attacks.base import Evaluation, normalise
from advimg.attacks.losses import loss_named
from advimg.attacks.pgd import BALLS, PGD, project_linf
from advimg.settings import Settings

_UNSEEN = Evaluation(fooled=False, log_confidence=0.0, compute_loss=lambda: 0.0)
"""PGD goes by the gradient alone."""


@st.composite
def _cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    count = draw(st.integers(1, 40))
    photo = torch.tensor(draw(st.lists(st.integers(0, 255), min_size=count, max_size=count)), dtype=torch.uint8)
    floats = st.floats(-600, 600, width=32)
    delta = torch.tensor(draw(st.lists(floats, min_size=count, max_size=count)), dtype=torch.float32)
    return delta, photo, draw(st.integers(1, 255))


@given(_cases())
def test_projection_stays_in_the_ball_and_in_range(case: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    delta, photo, eps = case
    projected = project_linf(delta.clone(), photo, eps)
    assert projected.abs().max() <= eps
    moved = projected + photo
    assert moved.min() >= 0
    assert moved.max() <= 255


@given(_cases())
def test_candidate_is_whole_levels_within_eps(case: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    delta, photo, eps = case
    attack = PGD(photo, Settings(eps=eps, step_size=1), eps)
    for _ in range(3):
        attack.update(delta.clone(), _UNSEEN)
    candidate = torch.empty_like(delta)
    attack.propose(candidate)
    assert torch.equal(candidate, candidate.round())
    assert (candidate - photo.float()).abs().max() <= eps
    assert candidate.min() >= 0
    assert candidate.max() <= 255
    assert torch.equal(candidate, candidate.to(torch.uint8).float())


@given(_cases())
def test_projection_is_the_nearest_point(case: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    delta, photo, eps = case
    levels = photo.float()
    nearest = torch.maximum(torch.minimum(delta, (255 - levels).clamp(max=eps)), (-levels).clamp(min=-eps))
    assert torch.equal(project_linf(delta.clone(), photo, eps), nearest)


def test_projection_of_a_projection_is_itself() -> None:
    delta, photo = torch.randn(1000) * 50, torch.randint(0, 256, (1000,), dtype=torch.uint8)
    once = project_linf(delta, photo, 7).clone()
    assert torch.equal(project_linf(once.clone(), photo, 7), once)


def test_a_step_is_the_formula() -> None:
    """Two steps of length 2: v = g / mean|g|, then v = 0.75 v + g / mean|g|; each moves δ by -2 sign(v)."""
    photo = torch.full((3,), 100, dtype=torch.uint8)
    attack = PGD(photo, Settings(eps=10, step_size=2, momentum=0.75), 10)
    moved = []
    for gradient in ([3.0, 1.0, 0.0], [-1.0, -1.0, 1.0]):  # normalised [2.25, 0.75, 0] and [-1, -1, 1]
        attack.update(torch.tensor(gradient), _UNSEEN)
        candidate = torch.empty(3)
        attack.propose(candidate)
        moved.append((candidate - photo).tolist())
    assert moved == [[-2, -2, 0], [-4, 0, -2]]


def test_normalise_divides_by_the_mean_absolute_value() -> None:
    assert normalise(torch.tensor([1.0, -3.0])).tolist() == [0.5, -1.5]


def test_normalise_leaves_a_gradient_of_zeros() -> None:
    assert normalise(torch.zeros(4)).tolist() == [0.0] * 4


def test_random_start_fills_the_ball_and_obeys_the_seed() -> None:
    photo = torch.full((3, 50, 50), 128, dtype=torch.uint8)
    starts = [
        BALLS["linf"].draw(torch.zeros(photo.shape), photo, 10, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert 9.9 < starts[0].abs().max() <= 10
    assert abs(float(starts[0].mean())) < 0.3


def test_cross_entropy_is_the_negative_log_softmax() -> None:
    logits, targets = torch.randn(5, 7), torch.tensor([0, 6, 3, 3, 1])
    expected = torch.stack([-torch.log(torch.softmax(row, 0)[t]) for row, t in zip(logits, targets, strict=True)])
    torch.testing.assert_close(loss_named("ce", away=False)(logits, targets), expected)


@pytest.mark.parametrize("target", range(4))
def test_margin_is_negative_exactly_where_the_target_is_top1(target: int) -> None:
    logits = torch.randn(200, 4, generator=torch.Generator().manual_seed(target))
    losses = loss_named("margin", away=False)(logits, torch.full((200,), target))
    assert torch.equal(losses < 0, logits.argmax(dim=1) == target)
    row = [value for index, value in enumerate(logits[0].tolist()) if index != target]
    assert float(losses[0]) == pytest.approx(max(row) - float(logits[0, target]))
