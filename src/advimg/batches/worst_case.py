"""Several attacks on each photo, one after the other, until one reaches the target.

The idea of AutoAttack (Croce and Hein 2020, arXiv:2003.01690): a photo withstands only what none of several attacks
does, so that the share of photos that withstand says less about the weakness of a single attack.

Only one attempt is kept, and later counts know no other: for robust accuracy a network is right about a photo if it is
right about the kept file, even if another attempt left the true class.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

from advimg.engine.criterion import Criterion
from advimg.engine.job import Failed, Job, Result


class WorstCase:
    """What came of each photo's attacks so far.

    Args:
        attacks: their names, in the order of their turns; none for the attack that jobs name, alone.
    """

    def __init__(self, attacks: Sequence[str]) -> None:
        self._attacks = tuple(attacks)
        self._ended: dict[Hashable, list[Result | Failed]] = {}

    def after(self, end: Result | Failed, key: Hashable) -> Job | Result | Failed:
        """Return what follows the end of an attack: a job for the next, or what came of them all.

        That is the first result that reaches the target, else the best attempt: that which meets the criterion most
        often, over all networks, the file itself and its changes, and of these the one whose least sure answer is the
        surest. It counts the passes and the seconds of all attacks. If the first attack fails, its error is what came
        of them, for the photo was not put to the test; one that fails later is passed over.

        Args:
            end: of an attack.
            key: tells the photo, its target and its eps from others.
        """
        ended = self._ended.pop(key, [])
        if isinstance(end, Failed) and not ended:
            return end
        ended.append(end)
        following = self._attacks[len(ended) :]
        if following and (isinstance(end, Failed) or not end.fooled):
            self._ended[key] = ended
            return replace(end.job, settings=replace(end.job.settings, attack=following[0]))
        results = [each for each in ended if isinstance(each, Result)]
        if len(results) == 1:
            return results[0]
        return replace(
            max(results, key=_success),
            gradients=sum(result.gradients for result in results),
            seconds=sum(result.seconds for result in results),
        )


def _success(result: Result) -> tuple[int, float]:
    """Return how often the criterion is met, over networks, file and changes, and the least confidence in it."""
    met, confidences = 0, []
    for seen in result.judgements:
        away = result.job.target == "untargeted"
        criterion = Criterion(seen.before.top1 if away else seen.target, away)
        met += criterion.met(seen.after) + sum(each.fooled for each in seen.survives)
        confidences += [criterion.confidence(seen.after), *(each.confidence for each in seen.survives)]
    return met, min(confidences)
