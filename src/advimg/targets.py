"""What a picture shall be taken for, as people write it: a class, or the rule that chooses one."""

from typing import get_args

from advimg.labels import Labels
from advimg.settings import TargetRule


def read_target(text: str | int, labels: Labels) -> int | TargetRule:
    """Read a class's name or index, ``random``, ``least-likely``, ``runner-up`` or ``untargeted``.

    Raises:
        UsageError: no such class.
    """
    rules: tuple[TargetRule, ...] = get_args(TargetRule)
    word = str(text).strip().lower().replace("_", "-")
    return next((rule for rule in rules if rule == word), None) or labels.find(text)


def target_slug(target: int | TargetRule, labels: Labels) -> str:
    """Return the target's part of a file's name: ``german_shepherd``, ``least_likely``."""
    return labels.slug(target) if isinstance(target, int) else target.replace("-", "_")
