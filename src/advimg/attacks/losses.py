"""What the attack minimises: losses of logits that fall as the target rises. Shapes: [n, classes], [n] -> [n].

To go away from a class, each has a counterpart that falls as the class falls. To add one, write both functions here,
enter them in LOSSES and AWAY and name them in ``settings.LossName``.
"""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional

from advimg.settings import LossName

Loss = Callable[[Tensor, Tensor], Tensor]


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


def _negated(loss: Loss) -> Loss:
    return lambda logits, targets: -loss(logits, targets)


AWAY: Mapping[LossName, Loss] = {
    "ce": cross_entropy_of_the_others,
    "margin": _negated(margin),
    "logit": _negated(logit),
}
LOSSES: Mapping[LossName, Loss] = {"ce": cross_entropy, "margin": margin, "logit": logit}


def loss_named(name: LossName, *, away: bool) -> Loss:
    """Return the loss that falls as the target rises or, going away from it, as it falls."""
    return (AWAY if away else LOSSES)[name]
