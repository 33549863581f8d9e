"""What changes while an attack goes on: how long its steps are, how warm its loss is, and how soft its gradients."""

import math

from advimg.settings import Settings

_FIRST = 1.5
_HALVED_AFTER = 6

_WARMEST = 2.0
_COOLING = 1 / 8

_SOFTEST = 0.4
_SOFT_THROUGHOUT = 0.3
_HARD = 0.05


def step_size(settings: Settings, eps: float, step: int) -> float:
    """Return α, the length of a step, in the unit of eps.

    The usual steps on L∞ are 1.5·√eps levels at first and half of that after 6 steps, as 1 / (1 + step / 6), but never
    less than a level, or half of one at eps 1. Their sum has no bound, so that the border of the ball is in reach. On
    L2 and with ``transfer`` all steps have the same length: half and a fifth of eps.

    Args:
        settings: what was asked for.
        eps: that is tried.
        step: counted from 0.
    """
    if settings.step_size is not None:
        return settings.step_size
    if settings.transfer:
        return eps / 5
    if settings.norm == "l2":
        return eps / 2
    return max(min(1.0, eps / 2), _FIRST * math.sqrt(eps) / (1 + step / _HALVED_AFTER))


def temperature(settings: Settings, step: int) -> float:
    """Return what the logits are divided by in the loss at a step, counted from 0: 2 at first, 1 from the 8th on.

    A warm cross-entropy presses on many other classes at once, which makes the target sure in fewer steps; a cool one
    on those that are nearest to it, which takes a target that is hard to reach further. With ``transfer`` it is 1.
    """
    return 1.0 if settings.transfer else max(1.0, _WARMEST - _COOLING * step)


def softness(settings: Settings, step: int) -> tuple[float, float]:
    """Return how soft ReLU's derivative is at a step, counted from 0, deep in the network and in the layers before.

    Deep in the network it is 0.4 at first, and half of that after 6 steps, as 1 / (1 + step / 6): as steps grow
    shorter, less of what the units do changes within one, and the derivative becomes sharper. Below a twentieth, from
    step 43 on, it is the true one, 0, as it is throughout in the layers before
    (:mod:`advimg.classifiers.gradient.soft_relu`). With ``transfer`` it stays at 0.3 everywhere, for kinks
    are what networks share least.
    """
    if settings.transfer:
        return _SOFT_THROUGHOUT, _SOFT_THROUGHOUT
    soft = _SOFTEST / (1 + step / _HALVED_AFTER)
    return (soft if soft >= _HARD else 0.0), 0.0
