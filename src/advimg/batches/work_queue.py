"""One plan for several workers: each takes attacks as it needs them, so that a faster one takes more."""

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence

from advimg.batches.plan import Item, Key, by_photo

_TOGETHER = 8
"""The most attacks on one photo that one worker takes, and decodes once; more would leave other workers without."""


class WorkQueue:
    """The items of a plan, given to workers.

    Args:
        items: those of one photo follow each other.
        workers: the workers that take them.

    Attributes:
        left: the number of items that are not done.
    """

    def __init__(self, items: Sequence[Item], workers: Iterable[Hashable]) -> None:
        self._queue: deque[list[Item]] = deque()
        self._held: dict[Hashable, dict[Key, Item]] = {worker: {} for worker in workers}
        self._put(items)
        self.left = len(items)

    @property
    def waiting(self) -> bool:
        """Whether there are items that no worker has taken."""
        return bool(self._queue)

    def take(self, worker: Hashable) -> list[Item] | None:
        """Return attacks on one photo; None if there are no more, or the worker has its share of the rest.

        A worker that reads far ahead would otherwise keep the last attacks from idle ones.
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
        """Give the undone items of a worker to others; they come last, as one of them may have ended the worker."""
        self._put(list(self._held.pop(worker).values()))

    def _put(self, items: Sequence[Item]) -> None:
        for group in by_photo(items):
            self._queue.extend(group[begin : begin + _TOGETHER] for begin in range(0, len(group), _TOGETHER))
