"""The lock of an output folder in an object store: an object that one run creates, and never writes again.

The store sees to it that one run alone creates it, where it can (:func:`advimg.storage.stores.put`). A second object,
named after its token, tells that the run lives, and is renewed: a renewal that comes late can take nothing back.
The lock of a run that was killed is known by not being renewed, or at once, if it was a process of this very system.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
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
_SETTLED = 2.0
"""Seconds after which a run that takes a dead lock, too, has either done so or seen that it is taken."""

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
            "system": _this_system(),
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
            dead = self._dead(warn)
            if dead:
                if (now := _read(self._url)) != dead:
                    raise self._held_by(now) from None
                stores.remove([self._url, self._sign_of(dead)])
            try:
                self._create()
            except FileExistsError:
                raise self._held_by(_read(self._url)) from None
            time.sleep(_SETTLED)
            self.check()
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
            stores.remove([self._sign_of(self._value)])
            self.check()
            stores.remove([self._url])

    def _create(self) -> None:
        stores.put(self._url, json.dumps(self._value).encode("ascii"), overwrite=False)
        # A store that cannot create exclusively may have taken another's in the same moment.
        if _read(self._url).get("token") != self._value["token"]:
            raise FileExistsError

    def _renew(self) -> None:
        renewed = 0
        while not self._released.wait(_RENEWED):
            renewed += 1
            with contextlib.suppress(Exception):  # the next time, or the next segment tells
                stores.put(self._sign_of(self._value), str(renewed).encode("ascii"), overwrite=True)

    def _sign_of(self, value: dict[str, Any]) -> Url:
        """Return the object by which a run says that it lives."""
        return self._url.with_name(f"{self._url.name}-{value.get('token', '')}")

    def _dead(self, warn: Callable[[str], None]) -> dict[str, Any]:
        """Return what the lock says of its run once that is known to be dead; nothing if the lock is gone.

        Raises:
            OutputError: the run is alive.
        """
        first = _read(self._url)
        if self._url in _own:
            raise self._held_by(first)
        if (
            first.get("system") is not None
            and first["system"] == self._value["system"]
            and not _is_alive(first.get("process"))
        ):
            return first
        warn(f"{self._of} is locked by a run on {_where(first)}; waiting {_GIVEN_UP:.0f} s to see whether it is alive")
        sign = _bytes_of(self._sign_of(first))
        given_up = time.monotonic() + _GIVEN_UP
        while time.monotonic() < given_up:
            time.sleep(_LOOKED_AT)
            now = _read(self._url)
            if now and (now != first or _bytes_of(self._sign_of(first)) != sign):
                raise self._held_by(now)
            if not now:
                return {}
        return first

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


def _bytes_of(url: Url) -> bytes | None:
    try:
        return stores.read(url)
    except FileNotFoundError:
        return None


def _this_system() -> str | None:
    """Return what tells this start of this machine, and this container, from others; None where that is not told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _where(value: dict[str, Any]) -> str:
    return f"{value.get('host', 'a machine')} since {value.get('since', 'a while')}"


def _is_alive(process: object) -> bool:
    """Tell whether a process of this machine may be alive; one with this process's own number has died before it."""
    if type(process) is not int or sys.platform == "win32":  # where a signal is no probe
        return True
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # not ours
        return True
    return True
