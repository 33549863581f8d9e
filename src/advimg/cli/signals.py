"""Ctrl-C and SIGTERM during long work: the first asks it to end well, the second ends it at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

INTERRUPTED = 130
"""The exit code."""


@dataclass
class Stop:
    """Whether to stop.

    Attributes:
        event: set once the work shall end, whoever wants it.
        interrupted: whether a signal wants it.
    """

    event: threading.Event = field(default_factory=threading.Event)
    interrupted: bool = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn signals into a stop while the context lasts."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.interrupted:
            os._exit(INTERRUPTED)
        stop.interrupted = True
        stop.event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
