"""The target of an attack, as people write it: a class, or the rule that chooses one."""

from collections.abc import Mapping

from advimg.errors import UsageError
from advimg.labels import Labels
from advimg.registry import TARGET_RULES
from advimg.settings import TargetRule


def read_target(text: str | int, labels: Labels, others: Mapping[str, Labels] | None = None) -> int | TargetRule:
    """Read a class's name or index, ``random``, ``least-likely``, ``runner-up`` or ``untargeted``.

    Args:
        text: what was written.
        labels: of the first classifier; an index is one of its.
        others: of the other classifiers of the attack, by their names.

    Raises:
        UsageError: the text is empty; one of them has no such class, or has other classes than the first, where a rule
            chooses the target.
    """
    if not str(text).strip():
        raise UsageError("the target is empty; give the name of a class (is a variable unset?)")
    word = str(text).strip().lower().replace("_", "-")
    rules: tuple[TargetRule, ...] = (*TARGET_RULES, "untargeted")
    rule = next((rule for rule in rules if rule == word), None)
    if rule is None:
        return find_class(text, labels, others)
    for name, names in (others or {}).items():
        if rule != "untargeted" and names.names != labels.names:
            raise UsageError(f"{name} has other classes than the first model; give -t the name of a class they share")
    return rule


def find_class(text: str | int, labels: Labels, others: Mapping[str, Labels] | None = None) -> int:
    """Return the index of a class as :meth:`advimg.labels.Labels.find` does, if other classifiers have it, too.

    Raises:
        UsageError: one of them has no such class.
    """
    index = labels.find(text)
    for name, names in (others or {}).items():
        try:
            names.counterpart(index, labels[index])
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None
    return index


def is_new_word(text: str | int, labels: Labels) -> bool:
    """Tell whether a target is a word that no class has: no rule, no index, no name of a class."""
    word = str(text).strip().lower().replace("_", "-")
    return word not in ("", "untargeted", *TARGET_RULES) and labels.lacks(str(text))


def target_slug(target: int | TargetRule, labels: Labels) -> str:
    """Return the target's part of a file's name: ``german_shepherd``, ``least_likely``."""
    return labels.slug(target) if isinstance(target, int) else target.replace("-", "_")
