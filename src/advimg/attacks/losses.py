"""What the attack minimises: losses of logits that fall as the target rises. Shapes: [n, classes], [n] -> [n].

For untargeted attacks each has a counterpart that falls as the class drops. To add one, write and register both
functions here and name the module in :data:`advimg.registry.LOSSES`.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from advimg.registry import LOSSES

LossFunction = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-softmax of the target."""
    return functional.cross_entropy(logits, targets, reduction="none")


def cross_entropy_of_the_others(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-softmax of all classes but the target, together.

    Not the log-softmax of the target: its gradient is zero where a network is as sure of a class as numbers can be.
    """
    others = logits.scatter(1, targets[:, None], float("-inf"))
    return logits.logsumexp(dim=1) - others.logsumexp(dim=1)


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the best other logit less the target's: negative exactly where the target is top-1.

    The loss f6 of Carlini and Wagner 2017 (arXiv:1608.04644), without its floor.
    """
    wanted = logits.gather(1, targets[:, None]).squeeze(1)
    others = logits.scatter(1, targets[:, None], float("-inf"))
    return others.amax(dim=1) - wanted


def logit(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the target's logit, negated: it never saturates (Zhao et al. 2021, arXiv:2012.11207)."""
    return -logits.gather(1, targets[:, None]).squeeze(1)


def _negated(loss: LossFunction) -> LossFunction:
    return lambda logits, targets: -loss(logits, targets)


class Loss(NamedTuple):
    """A loss that falls as the target's class rises, and the one that falls as it drops."""

    towards: LossFunction
    away: LossFunction


LOSSES.register("ce")(Loss(cross_entropy, cross_entropy_of_the_others))
LOSSES.register("margin")(Loss(margin, _negated(margin)))
LOSSES.register("logit")(Loss(logit, _negated(logit)))


def loss_named(name: str, *, away: bool) -> LossFunction:
    """Return the loss that falls as the target rises or, for an untargeted attack, as the class drops.

    Raises:
        UsageError: no such loss.
    """
    loss: Loss = LOSSES[name]
    return loss.away if away else loss.towards
