"""Auto-PGD: projected gradient descent that chooses its own step size (Croce and Hein 2020, arXiv:2003.01690).

The problem is that of :mod:`advimg.attacks.pgd`, as is the rounding. One step, with the step length η and α = 0.75:

    z <- project(δ_k - η sign(∇L))        on L∞; on L2 along ∇L / ‖∇L‖
    δ_{k+1} <- project(δ_k + α (z - δ_k) + (1 - α) (δ_k - δ_{k-1}))

η is 2ε at first. Some of each start's N steps are checkpoints, at first far apart, then nearer. At a checkpoint η is
halved, and the search goes on from the best point so far, if since the last checkpoint

    1. the loss fell in fewer than 75 % of the steps, or
    2. η was not halved at the last checkpoint and the best loss has not become less.

The momentum and the usual steps of the settings do not apply; a step size that is given is the first η.
"""

import math

import torch
from torch import Tensor

from advimg.attacks.base import Attack, Evaluation, normalise
from advimg.attacks.pgd import BALLS
from advimg.registry import ATTACKS
from advimg.settings import Settings

_ALPHA = 0.75
_RHO = 0.75


@ATTACKS.register("apgd")
class APGD(Attack):
    """Auto-PGD as above; all points are latent perturbations, float levels [3, height, width]."""

    def __init__(self, photo: Tensor, settings: Settings, eps: float, free: Tensor | None = None) -> None:
        super().__init__(photo, settings, eps, free)
        self._ball = BALLS[settings.norm]
        self._checkpoints = checkpoints(settings.max_steps)
        self._best_loss = self._best_loss_before = math.inf
        self._last_loss = -math.inf  # the first loss is no fall
        self._fell = self._reviewed = 0
        self._delta = torch.zeros(photo.shape, device=photo.device)
        self._previous, self._best, self._best_gradient = (torch.zeros_like(self._delta) for _ in range(3))
        self._begin()

    def propose(self, out: Tensor) -> None:
        """Write x + round(δ)."""
        torch.round(self._delta, out=out).add_(self.photo)

    def update(self, gradient: Tensor, evaluation: Evaluation) -> None:
        """Review the step size at checkpoints, and take one step as above."""
        loss = evaluation.loss
        self.keep_to_mask(normalise(gradient))
        if loss < self._best_loss:
            self._best_loss = loss
            self._best.copy_(self._delta)
            self._best_gradient.copy_(gradient)
        self._fell += loss < self._last_loss
        self._last_loss = loss
        if self.steps in self._checkpoints and self._review():
            self._step_size /= 2
            self._delta.copy_(self._best)
            self._previous.copy_(self._best)
            gradient = self._best_gradient
        forward = self._project(self._delta - self._ball.step(gradient, self._step_size))
        alpha = _ALPHA if self.steps else 1.0
        inertia = self._delta - self._previous
        self._previous.copy_(self._delta)
        self._delta.lerp_(forward, alpha).add_(inertia, alpha=1 - alpha)
        self._project(self._delta)
        self.steps += 1

    def restart(self) -> None:
        """Go to a random point of the ball, with the first step size."""
        super().restart()
        self._ball.draw(self._delta, self.photo, self.eps * self._ball.unit, self.generator)
        self.keep_to_mask(self._delta)
        self._begin()

    def change_eps(self, eps: float) -> None:
        """Shrink δ with the ball, and begin with the first step size."""
        self._delta.mul_(min(1.0, eps / self.eps))
        super().change_eps(eps)
        self._project(self._delta)
        self._begin()

    def _begin(self) -> None:
        """Begin a start at the present point."""
        self._step_size = (self.settings.step_size or 2 * self.eps) * self._ball.unit
        self._previous.copy_(self._delta)
        self._best_loss = self._best_loss_before = math.inf
        self._last_loss = -math.inf
        self._fell = self._reviewed = 0
        self._halved = True

    def _review(self) -> bool:
        """Return whether to halve the step size at this checkpoint."""
        seldom = self._fell < _RHO * (self.steps - self._reviewed)
        stuck = not self._halved and self._best_loss == self._best_loss_before
        self._reviewed, self._fell, self._best_loss_before = self.steps, 0, self._best_loss
        self._halved = seldom or stuck
        return self._halved

    def _project(self, delta: Tensor) -> Tensor:
        return self._ball.project(delta, self.photo, self.eps * self._ball.unit)


def checkpoints(steps: int) -> frozenset[int]:
    """Return at which of so many steps the step size is reviewed: ⌈p_j N⌉ (section 3 of the paper)."""
    before, now, reviewed = 0.0, 0.22, set()
    while now <= 1:
        reviewed.add(math.ceil(round(now * steps, 6)))  # 0.57 · 100 is 57.000000000000007
        before, now = now, now + max(now - before - 0.03, 0.06)
    return frozenset(reviewed)
