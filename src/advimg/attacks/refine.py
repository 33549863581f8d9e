"""Refinement: the least visible change that still holds the target.

Once a picture within ε is the target, the search begins anew at the photo, with another aim:

    minimise D(δ)  over  f(x + round(δ)) >= τ,  δ in the ball, the box and the mask,

where f is the log-odds of the target, log p - log(1 - p), and τ that of the confidence asked for. Networks are nearly
linear over changes that small, so each pass replaces f by its tangent, as DeepFool (arXiv:1511.04599) and FAB
(arXiv:1907.02044) do, and takes a share of the way to the least change that the tangent allows:

    g <- ∇f(x + round(δ))
    v <- μ v + (1 - μ) d / mean|d|,  d = the direction in which f rises most for what it shows, A(g)
    δ <- project((1 - η) δ + s v),  s solves f + g·(round(δ) - round(δ_before)) = min(τ + m, f + 5)

So, once the target has held, the change shrinks by the share η in each pass (by a fifth of that in the last few) and is
pushed back to where the target holds, along the directions that hold it at least cost. s is solved for the *rounded*
change, so the whole levels that are written are accounted for. m is a margin that grows while the target is missed and
shrinks while it holds.

Where changes are to be survived, f is a smooth least of the log-odds in several views, and its tangent promises more
than it keeps: as one view gains, another becomes the least. There each pass rises by more, the margin grows from the
start but to less, and η falls to 0 as the target is missed by 4, for a change shrunk too far is not regained in time.

What a change shows (D) follows three properties of the eye:

- Coarse patterns are seen sooner than fine noise: contrast sensitivity falls at high frequencies (Mannos and Sakrison
  1974), and butteraugli and SSIMULACRA2 weigh errors at several scales. D counts the blurred part of a change more.
- Lightness is seen more sharply than colour: D counts the part along the weights of luma (BT.601) more.
- A few strong pixels are seen sooner than many weak ones: D is a sum of third powers, not of squares.

The blurred part and the part along luma are taken off the gradient, which is how a quadratic D with these weights
changes the direction of steepest ascent; the third power then takes the root of what is left.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from advimg.attacks.base import Attack, Evaluation, normalise
from advimg.attacks.pgd import BALLS
from advimg.settings import Settings

_SHRINK = 0.35  # η
_MOMENTUM = 0.6  # μ
_RISE = 5.0  # the most that the log-odds are to rise in a pass
_RISE_OF_VIEWS = 8.0  # the same, of the least of several views
_COARSE = 0.9  # how much of the blurred part is taken off
_LUMA = 0.25  # and of the part along luma
_MARGIN = 6.0  # the most that m grows to: tangents promise too much, and more so where the change shrinks fast
_MARGIN_OF_VIEWS = 2.0
_MISSED = 4.0  # by how much the least of several views misses τ where the change no longer shrinks
_SETTLE = 4  # passes at the end that hardly shrink, and so end where the target holds
_ODDS = 64  # to which part of 1 log-odds are rounded
_SAMPLES = 1 << 15  # elements by which s is solved for


class Refine(Attack):
    """Refinement as above; δ and v are float levels [3, height, width], zero at the start."""

    def __init__(self, photo: Tensor, settings: Settings, eps: float, free: Tensor | None = None) -> None:
        super().__init__(photo, settings, eps, free)
        self._ball = BALLS[settings.norm]
        self._delta = torch.zeros(photo.shape, device=photo.device)
        self._direction = torch.zeros_like(self._delta)
        self._rounded = torch.zeros_like(self._delta)
        # From one half on, the target is the first class as well.
        self._wanted = log_odds(math.log(max(settings.min_confidence, 0.5)))
        self._margin = 0.1
        self._held = False
        self._views = bool(settings.changes)

    @property
    def out_of_steps(self) -> bool:
        """Whether all steps that the settings allow have been taken."""
        return self.steps >= self.settings.refine_steps

    @property
    def loss(self) -> str:
        """Cross-entropy, from whose gradient that of the log-odds follows."""
        return "ce"

    @property
    def diversified(self) -> bool:
        """Never: the file itself has to hold the target."""
        return False

    def weigh(self, log_confidences: Sequence[float]) -> list[float]:
        """Weigh views so that the gradient is that of a smooth least of their log-odds.

        f is then -log Σ exp(-f_v), whose gradient is the mean of ∇f_v = ∇log p_v / (1 - p_v) by the softmax of -f_v;
        the last factor is brought to that of the least, by which :meth:`update` multiplies.
        """
        odds = [log_odds(each) for each in log_confidences]
        least = min(odds)
        shares = [math.exp(least - each) for each in odds]
        # 1 / (1 - p) is 1 + exp(f).
        return [
            share / sum(shares) * (1 + math.exp(each)) / (1 + math.exp(least))
            for share, each in zip(shares, odds, strict=True)
        ]

    @property
    def softness(self) -> tuple[float, float]:
        """Softer at first, as in PGD, but never quite the true one."""
        return 0.4 / (1 + self.steps / 6), 0.0

    @property
    def visibility(self) -> float:
        """D of the picture that was proposed last; of two pictures the one with less of it shows less."""
        return visibility(self._rounded)

    def propose(self, out: Tensor) -> None:
        """Write x + round(δ)."""
        torch.round(self._delta, out=self._rounded)
        torch.add(self._rounded, self.photo, out=out)

    def update(self, gradient: Tensor, evaluation: Evaluation) -> None:
        """Shrink the change, and push it back to where the target holds."""
        # Coarsely rounded: the last bits depend on which photos share the pass, and the file should not. To round the
        # gradient, too, makes it worse: where the last bit decides how an element is rounded, it moves by far more.
        odds = round(log_odds(evaluation.log_confidence) * _ODDS) / _ODDS
        # The gradient is that of -log p; the gradient of the log-odds is 1 / (p - 1) times as long.
        gradient.mul_(-(1 + math.exp(odds)))
        self.keep_to_mask(gradient)
        self._held = self._held or odds >= self._wanted
        if self._held or self._views:
            most = _MARGIN_OF_VIEWS if self._views else _MARGIN
            self._margin = min(most, max(0.0, self._margin + 0.5 * (self._wanted - odds) + 0.02))
        self._direction.mul_(_MOMENTUM).add_(self._least_visible(gradient), alpha=1 - _MOMENTUM)
        rise = min(self._wanted + self._margin - odds, _RISE_OF_VIEWS if self._views else _RISE)
        if self._held:
            self._delta.mul_(1 - self._shrink(odds))
        self._delta.add_(self._direction, alpha=self._solve(gradient, rise))
        for delta, photo in self._ball.split(self._delta, self.photo):
            self._ball.project(delta, photo, self.eps * self._ball.unit)
        self.steps += 1

    def _shrink(self, odds: float) -> float:
        """Return η for this pass, where the log-odds are ``odds``."""
        shrink = _SHRINK if self.steps < self.settings.refine_steps - _SETTLE else _SHRINK / 5
        return shrink * min(1.0, max(0.0, 1 - (self._wanted - odds) / _MISSED)) if self._views else shrink

    def _least_visible(self, gradient: Tensor) -> Tensor:
        """Return the direction in which f rises most for what it shows, with a mean absolute value of 1."""
        luma = torch.tensor([0.299, 0.587, 0.114], device=gradient.device).view(3, 1, 1)
        luma /= torch.linalg.vector_norm(luma)
        direction = gradient - _LUMA * luma * (luma * gradient).sum(dim=0, keepdim=True)
        direction.sub_(_blurred(direction), alpha=_COARSE)
        self.keep_to_mask(direction)
        return normalise(direction.sign() * direction.abs().sqrt_())

    def _solve(self, gradient: Tensor, rise: float) -> float:
        """Return s: how far to go along v, so that by the tangent the log-odds change by ``rise``."""
        # Of large pictures a part is enough, spread evenly.
        stride = 1 + gradient.numel() // _SAMPLES
        while math.gcd(stride, gradient.shape[2]) > 1:  # or it would be of a few columns
            stride += 1
        slope, before, delta, direction, photo = (
            tensor.view(-1)[::stride].float()
            for tensor in (gradient, self._rounded, self._delta, self._direction, self.photo)
        )
        eps = self.eps if self.settings.norm == "linf" else 255.0
        lowest, highest = (-photo).clamp_min_(-eps), (255 - photo).clamp_max_(eps)
        wanted = rise / stride + float(slope @ before)

        def reached(s: float) -> bool:
            changed = torch.minimum(torch.maximum(delta + s * direction, lowest), highest)
            return float(slope @ changed.round_()) >= wanted

        low, high = -1.0, 1.0
        while not reached(high) and high < 1000:
            low, high = high, 2 * high
        for _ in range(10):
            middle = (low + high) / 2
            low, high = (low, middle) if reached(middle) else (middle, high)
        return high


def visibility(change: Tensor) -> float:
    """Return how much a change, in levels, [3, height, width], shows: the sum of its third powers."""
    return float(change.abs().pow_(3).sum())


def _blurred(planes: Tensor) -> Tensor:
    """Blur [3, height, width] by two means over 5x5 pixels: nearly a Gaussian of a standard deviation of 2 pixels.

    Beyond the border the planes go on as they end.
    """
    planes = functional.pad(planes[None], [4] * 4, mode="replicate")[0]
    # Sums of five neighbours by way of sums of two: five times as quick as torch's means over 5x5.
    for axis in (1, 2, 1, 2):
        length = planes.shape[axis] - 4
        two = planes.narrow(axis, 0, length + 3) + planes.narrow(axis, 1, length + 3)
        planes = (two.narrow(axis, 0, length) + two.narrow(axis, 2, length)).add_(planes.narrow(axis, 4, length))
    return planes.div_(625)


def log_odds(log_confidence: float) -> float:
    """Return log p - log(1 - p), of log p."""
    return log_confidence - math.log(max(1e-9, -math.expm1(log_confidence)))
