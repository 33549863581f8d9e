"""Targets that depend on what the classifier sees in the photo: from probabilities [classes] to the index of a class.

To add one, write a function here, enter it in RULES and name it in ``settings.TargetRule``. The rule "untargeted" is
not among them: it names no class that shall be seen.
"""

from collections.abc import Callable, Mapping
from random import Random

from torch import Tensor

from advimg.settings import TargetRule

Rule = Callable[[Tensor, Random], int]


def random_other(probabilities: Tensor, draw: Random) -> int:
    """Return any class but the present one, all with the same chance."""
    present = int(probabilities.argmax())
    return (present + draw.randrange(1, max(2, len(probabilities)))) % len(probabilities)


def least_likely(probabilities: Tensor, draw: Random) -> int:  # noqa: ARG001
    """Return the class that the classifier thinks of last (Kurakin et al. 2017, arXiv:1607.02533)."""
    return int(probabilities.argmin())


def runner_up(probabilities: Tensor, draw: Random) -> int:  # noqa: ARG001
    """Return the class behind the present one."""
    return int(probabilities.topk(min(2, len(probabilities))).indices[-1])


RULES: Mapping[TargetRule, Rule] = {
    "random": random_other,
    "least-likely": least_likely,
    "runner-up": runner_up,
}


def choose_target(rule: TargetRule, probabilities: Tensor, *, seed: str) -> int:
    """Return the class that a rule means for a photo in which the classifier sees ``probabilities``.

    Args:
        rule: which.
        probabilities: [classes].
        seed: what the rule's chance depends on, so that a photo gets the same target in any order of photos.
    """
    return RULES[rule](probabilities, Random(seed))
