"""Files encoded and written in background threads, so that the network does not wait for them."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from advimg.batches.byte_budget import ByteBudget

_THREADS = min(4, os.cpu_count() or 1)
_THREADS_TO_STORE = 16
"""A store takes long to answer, and little of a processor's time."""


class Writer:
    """Runs small jobs in background threads, a few at a time.

    Args:
        failed: called, in a thread, when a job raises; later jobs are dropped.
        memory: the most bytes that waiting jobs may hold together; one job is always taken.
        to_store: whether jobs wait for an object store.
    """

    def __init__(self, *, failed: Callable[[], None], memory: int, to_store: bool = False) -> None:
        threads = _THREADS_TO_STORE if to_store else _THREADS
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="write", initializer=_lower_priority)
        self._places = threading.BoundedSemaphore(2 * threads)
        self._room = ByteBudget(memory)
        self._failed = failed
        self._error: BaseException | None = None

    def put(self, job: Callable[[], None], *, holding: int) -> None:
        """Run a job later, which holds so many bytes until then; waits while many jobs, or bytes, are waiting."""
        self._places.acquire()
        self._room.take(holding)
        self._pool.submit(self._do, job, holding)

    def close(self, last: Callable[[], None] = lambda: None) -> None:
        """Wait for all jobs.

        Args:
            last: a job to run after all others, in this thread, unless one of them has raised.

        Raises:
            BaseException: the first error of a job.
        """
        self._pool.shutdown(wait=True)
        if self._error is None:
            last()
        if self._error is not None:
            raise self._error

    def _do(self, job: Callable[[], None], holding: int) -> None:
        try:
            if self._error is None:
                job()
        except BaseException as error:
            self._error = self._error or error
            self._failed()
        finally:
            self._room.give_back(holding)
            self._places.release()


def _lower_priority() -> None:
    """Let this thread run when the threads of the network do not: a pass waits for the slowest of them."""
    if sys.platform.startswith("linux"):  # elsewhere a priority is that of the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
