"""One plan for several workers: each takes attacks as it needs them, so that a faster one takes more."""

import math
from collections import Counter, deque
from collections.abc import Hashable, Sequence

from advimg.batches.plan import Item, Key, by_photo

MOST_LOSSES = 3
"""How many workers an attack may be lost with before it is given up."""
_TOGETHER = 8
"""The most attacks on one photo that one worker takes, and decodes once; more would leave other workers without."""


class WorkQueue:
    """The items of a plan, given to workers.

    An attack that was lost with its worker may have ended it. Such attacks come last, and each is then the only one
    that its worker holds, so that it is known which of them ends workers.

    Args:
        items: those of one photo follow each other.

    Attributes:
        left: the number of items that are neither done nor given up.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._queue: deque[list[Item]] = deque()
        self._suspects: deque[Item] = deque()
        self._losses: Counter[Key] = Counter()
        self._held: dict[Hashable, dict[Key, Item]] = {}
        self._alone: set[Hashable] = set()  # the workers that hold a suspect
        self._put(items)
        self.left = len(items)

    @property
    def waiting(self) -> bool:
        """Whether there are items that no worker has taken."""
        return bool(self._queue or self._suspects)

    def join(self, worker: Hashable) -> None:
        """Let a worker take items."""
        self._held[worker] = {}

    def take(self, worker: Hashable) -> list[Item] | None:
        """Return attacks on one photo; None if there are no more, or the worker has its share of the rest.

        A worker that reads far ahead would otherwise keep the last attacks from idle ones.
        """
        held = self._held[worker]
        if worker in self._alone:
            return None
        if self._queue and len(held) < math.ceil(self.left / len(self._held)):
            items = self._queue.popleft()
        elif self._suspects and not self._queue and not held:
            items = [self._suspects.popleft()]
            self._alone.add(worker)
        else:
            return None
        held.update((item.key, item) for item in items)
        return items

    def done(self, worker: Hashable, key: Key) -> None:
        """Note that a worker has done an attack."""
        held = self._held[worker]
        del held[key]
        if not held:
            self._alone.discard(worker)
        self.left -= 1

    def drop(self, worker: Hashable, *, suspect: bool = True) -> list[Item]:
        """Take back the items of a worker that was lost.

        Args:
            worker: one that may have joined.
            suspect: whether one of its items may be why; not so if, say, its machine was switched off.

        Returns:
            Those that are given up, because too many workers were lost with them.
        """
        items = list(self._held.pop(worker, {}).values())
        self._alone.discard(worker)
        if not suspect:
            known = [item for item in items if self._losses[item.key]]
            self._suspects.extend(known)
            self._put([item for item in items if not self._losses[item.key]])
            return []
        self._losses.update(item.key for item in items)
        given_up = [item for item in items if self._losses[item.key] >= MOST_LOSSES]
        self._suspects.extend(item for item in items if self._losses[item.key] < MOST_LOSSES)
        self.left -= len(given_up)
        return given_up

    def _put(self, items: Sequence[Item]) -> None:
        for group in by_photo(items):
            self._queue.extend(group[begin : begin + _TOGETHER] for begin in range(0, len(group), _TOGETHER))
