"""One network's look at the candidates of a pass: where they stand, and which way leads on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advimg.attacks.losses import loss_named
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.engine.criterion import Criterion
from advimg.settings import LossName


class Score(NamedTuple):
    """Where what the attack is after stands among the logits of one candidate.

    Attributes:
        log_confidence: of what is wanted; of several networks, the least.
        fooled: how many networks see it.
    """

    log_confidence: float
    fooled: int

    @property
    def confidence(self) -> float:
        """How sure the network is of what is wanted, 0..1."""
        return math.exp(min(0.0, self.log_confidence))


@dataclass(frozen=True, eq=False, slots=True)
class ForwardPass:
    """What one network sees.

    Attributes:
        seen: the candidates through its view, [n, 3, crop, crop].
        logits: [n, classes], to be differentiated with respect to ``seen``.
        criteria: what it shall see in each.
        targets: the criteria' classes, [n].
        standings: where each candidate stands.
    """

    seen: Tensor
    logits: Tensor
    criteria: Sequence[Criterion]
    targets: Tensor
    standings: list[Score]

    def gradient(self, losses: Sequence[LossName], temperatures: Sequence[float]) -> Tensor:
        """Return the gradient of each candidate's own loss with respect to what was seen, [n, 3, crop, crop].

        Args:
            losses: one a candidate.
            temperatures: what each candidate's logits are divided by before.
        """
        kinds = [(loss, criterion.away) for loss, criterion in zip(losses, self.criteria, strict=True)]
        total = torch.zeros((), device=self.logits.device)
        logits = self.logits / self.logits.new_tensor(temperatures)[:, None]
        for name, away in set(kinds):
            chosen = [position for position, kind in enumerate(kinds) if kind == (name, away)]
            loss = loss_named(name, away=away)
            total = total + loss(logits[chosen], self.targets[chosen]).sum()
        (gradient,) = torch.autograd.grad(total, self.seen)
        return gradient

    def loss(self, position: int, name: LossName) -> float:
        """Return the loss of one candidate, at temperature 1."""
        loss = loss_named(name, away=self.criteria[position].away)
        one = slice(position, position + 1)
        return loss(self.logits.detach()[one], self.targets[one]).item()

    def probabilities(self, position: int) -> npt.NDArray[np.float64]:
        """Return the softmax of one candidate's logits, [classes]."""
        probabilities: npt.NDArray[np.float64] = self.logits[position].detach().cpu().double().softmax(0).numpy()
        return probabilities


def forward(
    pictures: Sequence[Tensor],
    network: GradientNetwork,
    criteria: Sequence[Criterion],
    softness: Sequence[tuple[float, float]] = (),
    alter: Callable[[Tensor], Tensor] = lambda seen: seen,
) -> ForwardPass:
    """ForwardPass at candidates through one network.

    Args:
        pictures: each [3, crop, crop].
        network: which.
        criteria: what it shall see in each.
        softness: of the network's derivatives, for each, deep in it and before; the true ones if left out.
        alter: what is done to them all, [n, 3, crop, crop], before the network is fed; differentiated with it.
    """
    seen = torch.stack(list(pictures)).requires_grad_()
    targets = torch.tensor([criterion.index for criterion in criteria], device=seen.device)
    logits = network.logits(alter(seen), softness)
    return ForwardPass(
        seen,
        logits,
        criteria,
        targets,
        _standings(logits.detach(), targets, [criterion.away for criterion in criteria]),
    )


def together(standings: Sequence[Score]) -> Score:
    """Sum up where one candidate stands with several networks; what is not finite for one is not for all."""
    values = [standing.log_confidence for standing in standings]
    least = min(values) if all(map(math.isfinite, values)) else math.nan
    return Score(least, sum(standing.fooled for standing in standings))


def _standings(logits: Tensor, targets: Tensor, away: Sequence[bool]) -> list[Score]:
    """Read off where each photo stands: the one transfer from the device in a step.

    For a photo that goes away from its class, all others together stand in the place of the target.
    """
    log_probabilities = torch.log_softmax(logits, dim=1)
    log_confidence = log_probabilities.gather(1, targets[:, None]).squeeze(1)
    top1 = logits.argmax(dim=1) == targets
    if any(away):
        leaving = torch.tensor(away, device=logits.device)
        others = log_probabilities.scatter(1, targets[:, None], float("-inf")).logsumexp(dim=1)
        log_confidence, top1 = torch.where(leaving, others, log_confidence), top1 != leaving
    pairs = torch.stack([log_confidence, top1.float()], dim=1).tolist()
    return [Score(value, int(top)) for value, top in pairs]
