"""What an attack looks at in each pass: the file itself, and the file after changes that it is to survive.

The gradient is that of the expectation over these changes (Athalye et al. 2018, arXiv:1707.07397), where several share
a pass. The file itself is in every pass. Where there are more changes than share one, they are drawn, and those after
which the target is missed most are drawn more often. A change with ranges is there once for each case that the verdict
takes, and once with values that are drawn anew.

What is random in a change is never what the verdict takes: each pass draws other seeds. So the verdict is on chances
that the attack has not seen, like those that will come.
"""

import math
from collections.abc import Iterable, Sequence
from random import Random

from advimg.changes import Change

MOST_VIEWS = 8
"""The most pictures of one photo that share a pass."""

_SPREAD = 3.0  # so much less log-odds make a change e times as likely to be drawn


class Views:
    """The views of one photo.

    Args:
        changes: that the file is to survive.
    """

    def __init__(self, changes: Sequence[Change]) -> None:
        # What is noted under a case, and what passes draw in its place.
        drawn = {case: change.like(case) for change in changes for case in change.cases()}
        drawn |= {change: change for change in changes if change.fixed or change not in drawn.values()}
        self._drawn = drawn
        self._log_odds = dict.fromkeys(drawn, 0.0)
        self._room = MOST_VIEWS
        self._shared: tuple[Change, ...] = ()
        self.changes: tuple[Change, ...] = ()

    @property
    def count(self) -> int:
        """How many views share the pass for which :meth:`choose` was called last, with the file itself."""
        return 1 + len(self.changes)

    @property
    def most(self) -> int:
        """How many views may share a pass, with the file itself."""
        return min(1 + len(self._log_odds), self._room)

    def share_less(self) -> bool:
        """Let half as many changes share a pass, where memory is short; tell whether there were more than one."""
        changes = self.most - 1
        self._room = 1 + max(1, changes // 2)
        return changes > 1

    def choose(self, draw: Random) -> tuple[Change, ...]:
        """Choose the changes, without ranges, that share the next pass.

        Args:
            draw: where chance comes from; the same, as long as nothing is noted, gives the same.
        """
        left = list(self._log_odds)
        if len(left) >= self._room:
            # Gumbel's trick: a draw without replacement, weighted by exp(-log-odds / spread) (arXiv:1903.06059).
            keys = {each: self._log_odds[each] / _SPREAD + _log_of_exponential(draw) for each in left}
            left = sorted(left, key=keys.__getitem__)[: self._room - 1]
            left = [each for each in self._log_odds if each in left]
        self._shared = tuple(left)
        self.changes = tuple(self._drawn[each].drawn(draw) for each in left)
        return self.changes

    def note_pass(self, log_odds: Iterable[float]) -> None:
        """Note the log-odds of what is wanted after each change that shared the last pass."""
        self._log_odds.update(zip(self._shared, log_odds, strict=True))

    def note(self, change: Change, log_odds: float) -> None:
        """Note the log-odds after one change, by a verdict."""
        if change in self._log_odds:
            self._log_odds[change] = log_odds

    @property
    def absent(self) -> float:
        """The least log-odds that were noted last of what the verdict takes, of changes that do not share this pass."""
        absent = (value for each, value in self._log_odds.items() if each.fixed and each not in self._shared)
        return min(absent, default=math.inf)

    @property
    def cases(self) -> list[Change]:
        """What the verdict takes, those that are missed most first."""
        return sorted((each for each in self._log_odds if each.fixed), key=self._log_odds.__getitem__)


def _log_of_exponential(draw: Random) -> float:
    return math.log(max(draw.expovariate(1.0), 1e-300))
