"""How steps and loss change while an attack goes on."""

import pytest
import torch

from advimg.attacks.pgd import PGD
from advimg.settings import Settings


def _at(settings: Settings, step: int, eps: float = 10) -> PGD:
    """Return an attack before the step of this number."""
    attack = PGD(torch.zeros(3, 1, 1, dtype=torch.uint8), settings, eps)
    attack.steps = step
    return attack


def test_steps_are_long_at_first_and_never_below_a_level() -> None:
    lengths = [_at(Settings(), step, 16).step_size for step in range(100)]
    assert lengths[0] == pytest.approx(6)
    assert lengths[6] == pytest.approx(3)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == 1


def test_a_step_is_never_below_half_of_the_least_eps() -> None:
    assert _at(Settings(), 1000, 1).step_size == 0.5


@pytest.mark.parametrize("eps", [1, 2, 16, 64, 255])
def test_the_border_is_in_reach(eps: int) -> None:
    assert sum(_at(Settings(), step, eps).step_size for step in range(Settings().max_steps)) >= eps


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        (Settings(step_size=0.5), 0.5),
        (Settings(norm="l2", eps=16), 8),
        (Settings(transfer=True), 3.2),
        (Settings(transfer=True, norm="l2", eps=16), 3.2),
    ],
)
def test_other_steps_keep_their_length(settings: Settings, length: float) -> None:
    assert [_at(settings, step, 16).step_size for step in (0, 1, 50)] == pytest.approx([length] * 3)


def test_the_temperature_falls_from_two_to_one() -> None:
    assert [_at(Settings(), step).temperature for step in (0, 4, 8, 9, 1000)] == [2, 1.5, 1, 1, 1]
    assert _at(Settings(transfer=True), 0).temperature == 1


def test_derivatives_are_soft_at_first_and_true_in_the_end() -> None:
    deep, early = zip(*(_at(Settings(), step).softness for step in range(100)), strict=True)
    assert deep[:7:6] == pytest.approx([0.4, 0.2])
    assert list(deep) == sorted(deep, reverse=True)
    assert deep[41] > 0.05
    assert deep[43] == 0
    assert set(early) == {0}


def test_with_transfer_derivatives_are_soft_throughout() -> None:
    assert {_at(Settings(transfer=True), step).softness for step in range(100)} == {(0.3, 0.3)}
