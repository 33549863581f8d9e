"""One plan for several workers: each takes what it needs, so that a faster one takes more."""

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence

from advimg.batch.plan import Item, Key, by_photo

_TOGETHER = 8
"""So many attacks on one photo go to one worker, which decodes it once; more would leave others without."""


class WorkQueue:
    """The items of a plan, handed out.

    Args:
        items: those of one photo stand together.
        workers: who takes them.

    Attributes:
        left: how many are not done.
    """

    def __init__(self, items: Sequence[Item], workers: Iterable[Hashable]) -> None:
        self._queue: deque[list[Item]] = deque()
        self._held: dict[Hashable, dict[Key, Item]] = {worker: {} for worker in workers}
        self._put(items)
        self.left = len(items)

    @property
    def waiting(self) -> bool:
        """Whether there are items that no worker has."""
        return bool(self._queue)

    def take(self, worker: Hashable) -> list[Item] | None:
        """Return attacks on one photo; None if there are no more, or the worker has its share of what is left.

        Who has read far ahead would keep the last ones from workers that have nothing to do.
        """
        held = self._held[worker]
        if not self._queue or len(held) >= math.ceil(self.left / len(self._held)):
            return None
        items = self._queue.popleft()
        held.update((item.key, item) for item in items)
        return items

    def done(self, worker: Hashable, key: Key) -> None:
        """Note that a worker has done an attack."""
        del self._held[worker][key]
        self.left -= 1

    def drop(self, worker: Hashable) -> None:
        """Let others have what a worker has not done. It comes last, for it may be what the worker was lost by."""
        self._put(list(self._held.pop(worker).values()))

    def _put(self, items: Sequence[Item]) -> None:
        for group in by_photo(items):
            self._queue.extend(group[begin : begin + _TOGETHER] for begin in range(0, len(group), _TOGETHER))
