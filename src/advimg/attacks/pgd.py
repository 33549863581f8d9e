"""Targeted projected gradient descent with momentum, in the L∞ or the L2 ball, on whole pixel levels.

Given a photo x of whole levels 0..255 and a loss L that falls as the classifier's confidence in the target rises:

    minimise L(x + round(δ))  over  ‖δ‖ <= ε,  ‖round(δ)‖ <= ε,  0 <= x + δ <= 255.

The latent δ is continuous while every picture that is evaluated has whole levels, x + round(δ); the gradient passes the
rounding straight through (arXiv:1308.3432). So what is judged is what is written, and small steps still add up.

One step (PGD: Madry et al. 2018, arXiv:1706.06083; momentum: Dong et al. 2018, arXiv:1710.06081):

    g <- ∇L / mean|∇L|
    v <- μ v + g
    δ <- project(δ - α sign(v))  on L∞,  project(δ - α v / ‖v‖)  on L2
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from advimg.attacks.base import Attack, Evaluation, normalise, pieces, whole
from advimg.registry import ATTACKS
from advimg.settings import Norm, Settings


@ATTACKS.register("pgd")
class PGD(Attack):
    """PGD as above; δ and v are float levels [3, height, width], zero at the start."""

    def __init__(self, photo: Tensor, settings: Settings, eps: float, free: Tensor | None = None) -> None:
        super().__init__(photo, settings, eps, free)
        self._ball = BALLS[settings.norm]
        self._delta = torch.zeros(photo.shape, device=photo.device)
        self._velocity = torch.zeros_like(self._delta)

    def propose(self, out: Tensor) -> None:
        """Write x + round(δ)."""
        for delta, photo, picture in pieces(self._delta, self.photo, out):
            torch.round(delta, out=picture).add_(photo)

    def update(self, gradient: Tensor, evaluation: Evaluation) -> None:  # noqa: ARG002
        """Take one step as above."""
        alpha = self.step_size * self._ball.unit
        self.keep_to_mask(normalise(gradient))
        for delta, velocity, slope, photo in self._ball.split(self._delta, self._velocity, gradient, self.photo):
            velocity.mul_(self.settings.momentum).add_(slope)
            delta.sub_(self._ball.step(velocity, alpha))
            self._ball.project(delta, photo, self.eps * self._ball.unit)
        self.steps += 1

    def restart(self) -> None:
        """Go to a random point of the ball, at rest."""
        super().restart()
        self._velocity.zero_()
        self._ball.draw(self._delta, self.photo, self.eps * self._ball.unit, self.generator)
        self.keep_to_mask(self._delta)

    def change_eps(self, eps: float) -> None:
        """Shrink δ with the ball, and rest."""
        shrunk = min(1.0, eps / self.eps)
        super().change_eps(eps)
        self._velocity.zero_()
        for delta, photo in self._ball.split(self._delta, self.photo):
            self._ball.project(delta.mul_(shrunk), photo, eps * self._ball.unit)

    @property
    def step_size(self) -> float:
        """α in the unit of eps: on L∞ 1.5·√eps, half of that after 6 steps, at least 1 level, or 0.5 at eps 1.

        The sum has no bound, so the border of the ball is in reach. Always ε/2 on L2, and ε/5 with ``transfer``.
        """
        if self.settings.step_size is not None:
            return self.settings.step_size
        if self.settings.transfer or self.settings.norm == "l2":
            return self.eps / (5 if self.settings.transfer else 2)
        return max(min(1.0, self.eps / 2), 1.5 * math.sqrt(self.eps) / (1 + self.steps / 6))

    @property
    def temperature(self) -> float:
        """The temperature of the loss: 2 at first, 1 from step 8 on; 1 with ``transfer``.

        A warm cross-entropy presses on many other classes at once and makes the target sure in fewer steps; a cool one
        presses on the nearest and takes a target that is hard to reach further.
        """
        return 1.0 if self.settings.transfer else max(1.0, 2.0 - self.steps / 8)

    @property
    def softness(self) -> tuple[float, float]:
        """How soft ReLU's derivative is: deep in the network 0.4 at first, half after 6 steps, 0 below 0.05; else 0.

        As steps grow shorter, fewer units change sides within one. With ``transfer`` it is 0.3 everywhere, for kinks
        are what networks share least.
        """
        soft = 0.4 / (1 + self.steps / 6)
        return (0.3, 0.3) if self.settings.transfer else (soft if soft >= 0.05 else 0.0, 0.0)


def project_linf(delta: Tensor, photo: Tensor, eps: float) -> Tensor:
    """Clip δ, in place, to [-eps, eps] and so that x + δ stays in 0..255; ``photo`` is x."""
    return _clip_to_box(delta.clamp_(-eps, eps), photo)


def project_l2(delta: Tensor, photo: Tensor, eps: float) -> Tensor:
    """Bring δ, in place, into the ball and x + δ into 0..255; where rounding lengthens δ, shrink it by bisection."""
    radius = eps * (1 - 1e-5)  # single precision may measure a length wrong by as much
    delta.mul_(torch.clamp(radius / torch.linalg.vector_norm(delta).clamp_min(1e-12), max=1.0))
    _clip_to_box(delta, photo)
    fits, too_long, factor = 0.0, 2.0, 1.0
    for _ in range(13):
        if float(torch.linalg.vector_norm((delta * factor).round())) > radius:
            too_long = factor
        elif (fits := factor) == 1:
            break
        factor = (fits + too_long) / 2
    return delta.mul_(fits)


def _clip_to_box(delta: Tensor, photo: Tensor) -> Tensor:
    levels = photo.to(delta.dtype)
    return torch.maximum(torch.minimum(delta, 255 - levels, out=delta), -levels, out=delta)


def draw_linf(delta: Tensor, photo: Tensor, eps: float, generator: Generator) -> Tensor:
    """Fill δ, in place, with a point drawn uniformly from the ball, projected."""
    return project_linf(delta.copy_(torch.empty(delta.shape).uniform_(-eps, eps, generator=generator)), photo, eps)


def draw_l2(delta: Tensor, photo: Tensor, eps: float, generator: Generator) -> Tensor:
    """Fill δ, in place, with a step of length eps in a direction drawn uniformly, projected."""
    delta.copy_(torch.empty(delta.shape).normal_(generator=generator))
    return project_l2(delta.mul_(eps / torch.linalg.vector_norm(delta)), photo, eps)


class Ball(NamedTuple):
    """The ball of a norm, in levels: a step along v, the projection, a random start, the unit of eps, and its parts."""

    step: Callable[[Tensor, float], Tensor]
    project: Callable[[Tensor, Tensor, float], Tensor]
    draw: Callable[[Tensor, Tensor, float, Generator], Tensor]
    unit: int
    split: Callable[..., Iterator[tuple[Tensor, ...]]]


BALLS: Mapping[Norm, Ball] = {
    "linf": Ball(lambda v, alpha: v.sign().mul_(alpha), project_linf, draw_linf, 1, pieces),
    "l2": Ball(lambda v, alpha: v * (alpha / v.norm().clamp_min(1e-12)), project_l2, draw_l2, 255, whole),
}
