"""How many bytes the photos that wait in a batch may take together."""

import threading


class ByteBudget:
    """Bytes that several threads may hold at a time; a holder that is alone is let in, however much it needs.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._open = True
        self._changed = threading.Condition()

    def take(self, count: int) -> bool:
        """Wait until there is room for ``count`` bytes; return False, with none taken, once the budget is closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or not self._held or self._held + count <= self._most)
            if self._open:
                self._held += count
            return self._open

    def give_back(self, count: int) -> None:
        """Return bytes that were taken."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
