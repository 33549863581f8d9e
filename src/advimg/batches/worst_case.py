"""Several attacks on each photo, one after the other, until one reaches the target.

The idea of AutoAttack (Croce and Hein 2020, arXiv:2003.01690): a photo withstands only what none of several attacks
does, so that the share of photos that withstand says less about the weakness of a single attack.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

from advimg.engine.job import Failed, Job, Result


class WorstCase:
    """What came of each photo's attacks so far.

    Args:
        attacks: their names, in the order of their turns; none for the attack that jobs name, alone.
    """

    def __init__(self, attacks: Sequence[str]) -> None:
        self._attacks = tuple(attacks)
        self._ended: dict[Hashable, list[Result]] = {}

    def after(self, end: Result | Failed, key: Hashable) -> Job | Result | Failed:
        """Return what follows the end of an attack: a job for the next, or what came of them all.

        That is the first result that reaches the target, else the best attempt: that which fools the most networks, and
        of these the one that fools them most surely. It counts the passes and the seconds of all attacks. If an attack
        fails, its error is what came of them, for the photo was not put to the test.

        Args:
            end: of an attack.
            key: tells the photo, its target and its eps from others.
        """
        ended = self._ended.pop(key, [])
        if isinstance(end, Failed):
            return end
        ended.append(end)
        following = self._attacks[len(ended) :]
        if following and not end.fooled:
            self._ended[key] = ended
            return replace(end.job, settings=replace(end.job.settings, attack=following[0]))
        if len(ended) == 1:
            return end
        return replace(
            max(ended, key=_success),
            gradients=sum(result.gradients for result in ended),
            seconds=sum(result.seconds for result in ended),
        )


def _success(result: Result) -> tuple[int, float]:
    judgements = result.judgements
    return sum(each.fooled for each in judgements), min(each.confidence for each in judgements)
