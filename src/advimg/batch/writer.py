"""Files encoded and written behind, in threads, so that the network does not wait for them either."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Writer:
    """Does small jobs in the background, a few at a time; the first that fails is heard of.

    Args:
        threads: how many work.
        failed: called, in a thread, once something went wrong.
    """

    def __init__(self, threads: int, *, failed: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="write", initializer=_step_back)
        self._room = threading.BoundedSemaphore(2 * threads)
        self._failed = failed
        self._error: BaseException | None = None

    def put(self, job: Callable[[], None]) -> None:
        """Have something done; waits while too much is waiting already, so that memory stays flat."""
        self._room.acquire()
        self._pool.submit(self._do, job)

    def close(self) -> None:
        """Wait for what is left.

        Raises:
            BaseException: the first error of a job.
        """
        self._pool.shutdown(wait=True)
        if self._error is not None:
            raise self._error

    def _do(self, job: Callable[[], None]) -> None:
        try:
            if self._error is None:
                job()
        except BaseException as error:
            self._error = self._error or error
            self._failed()
        finally:
            self._room.release()


def _step_back() -> None:
    """Let this thread run where the network's threads leave room: a pass waits for the slowest of them."""
    if sys.platform.startswith("linux"):  # elsewhere a priority is the whole process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
