"""What the attack minimises: losses of logits that fall as the target rises. Shapes: [n, classes], [n] -> [n].

To add one, write a function here, enter it in LOSSES and name it in ``settings.LossName``.
"""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional

from advimg.settings import LossName

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-softmax of the target."""
    return functional.cross_entropy(logits, targets, reduction="none")


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


LOSSES: Mapping[LossName, Loss] = {"ce": cross_entropy, "margin": margin, "logit": logit}
