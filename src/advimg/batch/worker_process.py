"""Several devices at once: the processes of the workers, from their start to their end."""

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from advimg.batch.worker import Task, work
from advimg.errors import AdvimgError, DeviceError
from advimg.images.files import sweep

_LAST_BREATH = 5
"""Seconds that a process that has gone may take to be gone."""
_KILLED = -9
"""The exit code after SIGKILL, a name that Windows does not know."""


class Process:
    """A worker's process."""

    def __init__(self, task: Task) -> None:
        self.device = task.device
        self.finished = False
        context = multiprocessing.get_context("spawn")
        self.calls, calls = context.Pipe()
        control, self._control = context.Pipe(duplex=False)
        self._process = context.Process(target=work, args=(task, calls, control))
        self._process.start()
        # The worker has its own: once it has gone, these here come to their end.
        calls.close()
        control.close()

    def answer(self, value: Any, error: AdvimgError | None = None) -> None:
        """Answer the worker's question."""
        with contextlib.suppress(OSError):  # it has gone, as the next look at its connection says
            self.calls.send((value, error))

    def stop(self) -> None:
        """Have the worker write what is complete, and drop the rest."""
        with contextlib.suppress(OSError):
            self._control.send("stop")

    def exit_error(self) -> DeviceError:
        """Say how the process ended by itself."""
        self._process.join(_LAST_BREATH)
        code = self._process.exitcode
        if code == _KILLED:
            how = "was killed, as the system does when memory runs out"
        elif code is not None and code < 0:
            how = f"crashed ({signal.strsignal(-code)})"
        else:
            how = f"ended (exit code {code})"
        return DeviceError(f"the process on {self.device} {how}")

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self.calls.close()
        self._control.close()


@contextlib.contextmanager
def running(tasks: Sequence[Task], folder: Path) -> Iterator[list[Process]]:
    """Have a process for each task while the context lasts; none of them outlives it."""
    processes: list[Process] = []
    try:
        with _signals_held():
            for task in tasks:
                processes.append(Process(task))  # noqa: PERF401 - of those that have begun none may be lost
        yield processes
    finally:
        for process in processes:
            process.end()
        if not all(process.finished for process in processes):
            sweep(folder)  # the temporary files; what has its name already is removed as the journal closes


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back what interrupts this process while the context lasts.

    A process that is started in it holds it back for good, from its first moment on.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its own start would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
