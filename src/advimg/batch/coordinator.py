"""Several devices at once: what workers ask, and what the parent answers."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from advimg.batch.executor import Ended
from advimg.batch.journal import Entry, Journal
from advimg.batch.plan import Item
from advimg.batch.work_queue import WorkQueue
from advimg.batch.worker_process import Process
from advimg.errors import AdvimgError, DeviceError

_LOOK = 0.1
"""Seconds between two looks whether to stop."""


class Coordinator:
    """Answers what workers ask, one question at a time: none takes long, and nothing needs a lock."""

    def __init__(
        self,
        processes: Sequence[Process],
        items: Sequence[Item],
        journal: Journal,
        *,
        began: Callable[[], None],
        ended: Ended,
        warn: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._working = list(processes)
        self._idle: list[Process] = []  # those that have asked for more
        self._queue = WorkQueue(items, processes)
        self._journal = journal
        self._began = began
        self._ended = ended
        self._warn = warn
        self._stop = stop
        self._stopping = self._loaded = False
        self._error: AdvimgError | None = None

    def run(self) -> None:
        """Serve the workers until all is done."""
        # A worker that still loads has nothing that it could bring to an end.
        while self._working and (self._loaded or not self._stop.is_set()):
            heard = wait([process.calls for process in self._working], _LOOK)
            for process in [process for process in self._working if process.calls in heard]:
                self._hear(process)
            self._go_on()
        if self._error is not None:
            raise self._error

    def _hear(self, process: Process) -> None:
        try:
            verb, *arguments = process.calls.recv()
        except (EOFError, OSError):
            self._lose(process, process.exit_error())
            return
        if verb == "more":
            self._idle.append(process)
            return
        answer = error = None
        try:
            answer = self._answer(process, verb, *arguments)
        except AdvimgError as raised:
            self._fail(error := raised)
        process.answer(answer, error)

    def _answer(self, process: Process, verb: str, *arguments: Any) -> Any:
        match verb, *arguments:
            case "take", *_:
                return None if self._stop.is_set() else self._queue.take(process)
            case "claim", paths:
                self._journal.claim(paths)
            case "owns", path:
                return self._journal.owns(path)
            case "append", record:
                self._journal.append(record)
                self._queue.done(process, Entry.of(record).key)
                self._ended(record)
            case "give up", DeviceError() as error:
                self._lose(process, error)
            case "give up", error:
                self._dismiss(process)
                self._fail(error)
        return None

    def _go_on(self) -> None:
        """Tell the idle ones what comes, and all others if it is the end."""
        if self._stop.is_set() and not self._stopping:
            self._stopping = True
            for process in self._working:
                process.stop()
        busy = len(self._idle) < len(self._working)
        if not self._loaded:
            if busy or self._stop.is_set():
                return  # the first would take what is meant for all, and another may fail to load
            self._loaded = True
            self._began()
        for process in tuple(self._idle):
            if self._queue.waiting and not self._stop.is_set():
                self._idle.remove(process)
                process.answer(True)
            elif self._stop.is_set() or not busy:
                self._dismiss(process)
                process.finished = True
                process.answer(False)

    def _lose(self, process: Process, error: DeviceError) -> None:
        """Go on without a worker, if that is possible."""
        self._dismiss(process)
        self._queue.drop(process)
        if self._stop.is_set() or not self._queue.left:
            return
        if self._loaded and self._working:
            self._warn(f"{error}; its photos go to the other devices")
        else:
            self._fail(error)

    def _dismiss(self, process: Process) -> None:
        self._working.remove(process)
        with contextlib.suppress(ValueError):
            self._idle.remove(process)

    def _fail(self, error: AdvimgError) -> None:
        """Bring what is complete to an end, and then raise this, if nothing came before."""
        self._error = self._error or error
        self._stop.set()
