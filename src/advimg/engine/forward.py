"""A forward pass of one network over the candidates of several photos, and the gradients that follow from it."""

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


class Score(NamedTuple):
    """How near the logits of one candidate are to what the attack wants.

    Attributes:
        log_confidence: of what is wanted; of several networks, the least.
        fooled: how many networks predict it.
    """

    log_confidence: float
    fooled: int

    @property
    def confidence(self) -> float:
        """The confidence of what is wanted, 0..1."""
        return math.exp(min(0.0, self.log_confidence))


@dataclass(frozen=True, eq=False, slots=True)
class ForwardPass:
    """What one network makes of n candidates.

    Attributes:
        inputs: [n, 3, crop, crop], float levels.
        logits: [n, classes], to be differentiated with respect to ``inputs``.
        criteria: what is wanted of each candidate.
        targets: the criteria's classes, [n].
        scores: of each candidate.
    """

    inputs: Tensor
    logits: Tensor
    criteria: Sequence[Criterion]
    targets: Tensor
    scores: list[Score]

    def gradient(
        self, losses: Sequence[str], temperatures: Sequence[float], weights: Sequence[float] | None = None
    ) -> Tensor:
        """Return the gradient of each candidate's own loss with respect to its input, [n, 3, crop, crop].

        Args:
            losses: the name of each candidate's.
            temperatures: what each candidate's logits are divided by before.
            weights: what each candidate's loss is multiplied by; 1 if left out.
        """
        kinds = [(loss, criterion.away) for loss, criterion in zip(losses, self.criteria, strict=True)]
        total = torch.zeros((), device=self.logits.device)
        logits = self.logits / self.logits.new_tensor(temperatures)[:, None]
        for name, away in set(kinds):
            chosen = [position for position, kind in enumerate(kinds) if kind == (name, away)]
            loss = loss_named(name, away=away)
            values = loss(logits[chosen], self.targets[chosen])
            if weights is not None:
                values = values * values.new_tensor([weights[position] for position in chosen])
            total = total + values.sum()
        (gradient,) = torch.autograd.grad(total, self.inputs)
        return gradient

    def loss(self, position: int, name: str) -> float:
        """Return the loss of one candidate, at temperature 1."""
        loss = loss_named(name, away=self.criteria[position].away)
        one = slice(position, position + 1)
        return loss(self.logits.detach()[one], self.targets[one]).item()

    def probabilities(self, position: int) -> npt.NDArray[np.float64]:
        """Return the softmax of one candidate's logits, [classes]."""
        probabilities: npt.NDArray[np.float64] = self.logits[position].detach().cpu().double().softmax(0).numpy()
        return probabilities


def forward(
    inputs: Sequence[Tensor],
    network: GradientNetwork,
    criteria: Sequence[Criterion],
    softness: Sequence[tuple[float, float]] = (),
    transform: Callable[[Tensor], Tensor] = lambda inputs: inputs,
    *,
    in_company: bool = False,
) -> ForwardPass:
    """Run candidates through one network.

    Args:
        inputs: each [3, crop, crop].
        network: which.
        criteria: what is wanted of each candidate.
        softness: of the network's derivatives, for each, deep in it and before; the true ones if left out.
        transform: applied to all inputs, [n, 3, crop, crop], before the network, and differentiated with it.
        in_company: whether the results have to be the same to the last bit, whatever other candidates share the pass.
            A single one is computed by other kernels than several, so it is given twice then.
    """
    stacked = torch.stack(list(inputs)).requires_grad_()
    count = len(stacked)
    copies = 2 if in_company and count == 1 else 1
    targets = torch.tensor([criterion.index for criterion in criteria], device=stacked.device)
    logits = network.logits(transform(stacked).repeat(copies, 1, 1, 1), list(softness) * copies)[:count]
    scores = _scores(logits.detach(), targets, [criterion.away for criterion in criteria])
    return ForwardPass(stacked, logits, criteria, targets, scores)


def least(scores: Sequence[Score]) -> Score:
    """Sum up one candidate's scores with several networks; what is not finite for one is not for all."""
    values = [score.log_confidence for score in scores]
    log_confidence = min(values) if all(map(math.isfinite, values)) else math.nan
    return Score(log_confidence, sum(score.fooled for score in scores))


def _scores(logits: Tensor, targets: Tensor, away: Sequence[bool]) -> list[Score]:
    """Read off each candidate's score: the one transfer from the device in a step.

    For an untargeted attack all other classes together stand in the place of the target.
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
