"""Several devices at once: the processes of the workers, from their start to their end."""

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from advimg.batches.worker import Task, work
from advimg.errors import AdvimgError, DeviceError
from advimg.storage.files import sweep
from advimg.storage.url import Place

_EXIT_TIMEOUT = 5
"""Seconds to wait for the exit code of a process that has closed its connection."""
_KILLED = -9
"""The exit code after SIGKILL, a name that Windows does not have."""


class WorkerProcess:
    """A worker's process, and the connections to it.

    Attributes:
        requests: the worker's requests, each with one answer.
        finished: whether it was told that there are no more attacks.
    """

    def __init__(self, task: Task) -> None:
        self.finished = False
        self._device = task.device
        context = multiprocessing.get_context("spawn")
        self.requests, requests = context.Pipe()
        stop, self._stop = context.Pipe(duplex=False)
        self._process = context.Process(target=work, args=(task, requests, stop))
        self._process.start()
        # Only the worker keeps these ends open, so that the connections end with it.
        requests.close()
        stop.close()

    def answer(self, value: Any, error: AdvimgError | None = None) -> None:
        """Answer the worker's request."""
        with contextlib.suppress(OSError):  # a worker that has ended is noticed at the next read
            self.requests.send((value, error))

    def stop(self) -> None:
        """Have the worker write the complete results, and drop the rest."""
        with contextlib.suppress(OSError):
            self._stop.send(None)

    def exit_error(self) -> DeviceError:
        """Return how the process ended by itself."""
        self._process.join(_EXIT_TIMEOUT)
        code = self._process.exitcode
        if code == _KILLED:
            how = "was killed, as the system does when memory runs out"
        elif code is not None and code < 0:
            how = f"crashed ({signal.strsignal(-code)})"
        else:
            how = f"ended (exit code {code})"
        return DeviceError(f"the process on {self._device} {how}")

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join()
        self.requests.close()
        self._stop.close()


@contextlib.contextmanager
def running(tasks: Sequence[Task], folder: Place) -> Iterator[list[WorkerProcess]]:
    """Have a process for each task while the context lasts; none of them outlives it."""
    workers: list[WorkerProcess] = []
    try:
        with _signals_blocked():
            for task in tasks:
                workers.append(WorkerProcess(task))  # noqa: PERF401 - those already started must be killed on an error
        yield list(workers)
    finally:
        for worker in workers:
            worker.kill()
        if not all(worker.finished for worker in workers) and isinstance(folder, Path):
            sweep(folder)  # temporary files; the journal removes unfinished ones as it is closed


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the signals that interrupt this process while the context lasts.

    A process that is started in it blocks them for good, from its first moment on.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its own start would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
