"""Targets that depend on the classifier's prediction for the photo: from probabilities [classes] to a class's index.

To add one, write a function here and name it in :data:`advimg.registry.TARGET_RULES`. "untargeted" is not among them:
it names no class to reach.
"""

from collections.abc import Callable
from random import Random

from torch import Tensor

from advimg.registry import TARGET_RULES

Rule = Callable[[Tensor, Random], int]


@TARGET_RULES.register("random")
def random_other(probabilities: Tensor, draw: Random) -> int:
    """Return any class but the predicted one, all with the same chance."""
    predicted = int(probabilities.argmax())
    return (predicted + draw.randrange(1, max(2, len(probabilities)))) % len(probabilities)


@TARGET_RULES.register("least-likely")
def least_likely(probabilities: Tensor, draw: Random) -> int:  # noqa: ARG001
    """Return the class of the lowest probability (Kurakin et al. 2017, arXiv:1607.02533)."""
    return int(probabilities.argmin())


@TARGET_RULES.register("runner-up")
def runner_up(probabilities: Tensor, draw: Random) -> int:  # noqa: ARG001
    """Return the class of the second highest probability."""
    return int(probabilities.topk(min(2, len(probabilities))).indices[-1])


def choose_target(rule: str, probabilities: Tensor, *, seed: str) -> int:
    """Return the class that a rule gives for a photo.

    Args:
        rule: its name.
        probabilities: of the classifier for the photo, [classes].
        seed: of the rule's chance, so that a photo gets the same target in any order of photos.
    """
    chosen: Rule = TARGET_RULES[rule]
    return chosen(probabilities, Random(seed))
