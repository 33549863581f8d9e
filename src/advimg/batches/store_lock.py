"""The lock of an output folder in an object store: an object that one run creates, and renews while it lives.

The store sees to it that one run alone creates it, where it can (:func:`advimg.storage.stores.put`). The lock of a run
that was killed is known by not being renewed, or at once, if it was a process of this machine.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from advimg.errors import OutputError
from advimg.storage import stores
from advimg.storage.url import Url

_RENEWED = 10.0
"""Seconds between two renewals."""
_GIVEN_UP = 40.0
"""Seconds without a renewal after which the run is taken for dead."""
_LOOKED_AT = 2.0
"""Seconds between two looks at the lock of another run."""

_own: set[Url] = set()
"""The locks that this process holds: those of its number from an earlier life are of dead processes."""


class StoreLock:
    """A lock that one run at a time holds.

    Args:
        url: of the lock.
        of: what is locked, for messages.
    """

    def __init__(self, url: Url, *, of: Url) -> None:
        self._url = url
        self._of = of
        self._value = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            "token": os.urandom(8).hex(),
        }
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)

    def acquire(self, warn: Callable[[str], None]) -> None:
        """Take the lock, if need be from a run that was killed.

        Args:
            warn: called with a line for a person, if that takes a while.

        Raises:
            OutputError: another run holds it.
            OSError: the store does not answer.
        """
        try:
            self._create()
        except FileExistsError:
            self._wait_for_death(warn)
            stores.remove([self._url])
            try:
                self._create()
            except FileExistsError:
                raise self._held_by(_read(self._url)) from None
        _own.add(self._url)
        self._thread.start()

    def check(self) -> None:
        """Find out whether this run still holds the lock.

        Raises:
            OutputError: it was taken for dead, and another run holds it.
            OSError: the store does not answer.
        """
        if _read(self._url).get("token") != self._value["token"]:
            raise OutputError(f"another advimg batch writes to {self._of} now, for this one was not heard of in time")

    def release(self) -> None:
        """Let other runs in; without the lock this does nothing."""
        self._released.set()
        if self._thread.ident is None:
            return
        self._thread.join()
        _own.discard(self._url)
        with contextlib.suppress(OSError, OutputError):
            self.check()
            stores.remove([self._url])

    def _create(self) -> None:
        stores.put(self._url, self._bytes(0), overwrite=False)
        # A store that cannot create exclusively may have taken another's in the same moment.
        if _read(self._url).get("token") != self._value["token"]:
            raise FileExistsError

    def _bytes(self, renewed: int) -> bytes:
        return json.dumps({**self._value, "renewed": renewed}).encode("ascii")

    def _renew(self) -> None:
        renewed = 0
        while not self._released.wait(_RENEWED):
            renewed += 1
            with contextlib.suppress(OSError, OutputError):  # the next time, or the next segment tells
                self.check()
                stores.put(self._url, self._bytes(renewed), overwrite=True)

    def _wait_for_death(self, warn: Callable[[str], None]) -> None:
        """Return once the run that holds the lock is known to be dead.

        Raises:
            OutputError: it is alive.
        """
        first = _read(self._url)
        if first.get("host") == self._value["host"] and self._url not in _own and not _is_alive(first.get("process")):
            return
        if self._url in _own:
            raise self._held_by(first)
        warn(f"{self._of} is locked by a run on {_where(first)}; waiting {_GIVEN_UP:.0f} s to see whether it is alive")
        given_up = time.monotonic() + _GIVEN_UP
        while time.monotonic() < given_up:
            time.sleep(_LOOKED_AT)
            now = _read(self._url)
            if now and now != first:
                raise self._held_by(now)
            if not now:
                return

    def _held_by(self, value: dict[str, Any]) -> OutputError:
        return OutputError(
            f"another advimg batch is writing to {self._of}, on {_where(value)}; wait for it, or choose another -O"
        )


def _read(url: Url) -> dict[str, Any]:
    """Return what a lock says; nothing if there is none, or it is no lock."""
    try:
        value = json.loads(stores.read(url))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _where(value: dict[str, Any]) -> str:
    return f"{value.get('host', 'a machine')} since {value.get('since', 'a while')}"


def _is_alive(process: object) -> bool:
    """Tell whether a process of this machine may be alive; one with this process's own number has died before it."""
    if type(process) is not int or process == os.getpid():
        return type(process) is not int
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, SystemError):  # not ours, or on Windows
        return True
    return True
