"""Where an engine's jobs come from."""

from collections.abc import Iterable
from typing import Protocol

from advimg.engine.job import Job


class JobSource(Protocol):
    """A source of jobs that may take a while to be ready, which the network does not wait for."""

    def take(self, *, wait: bool) -> Job | None:
        """Return the next job.

        Args:
            wait: whether to wait for one that is not ready.

        Returns:
            None if no job is ready; with ``wait``, if there will be no more.
        """


class JobQueue:
    """A source, or jobs that are ready, to which a job can be put back."""

    def __init__(self, jobs: Iterable[Job] | JobSource) -> None:
        self._ready = iter(jobs) if isinstance(jobs, Iterable) else None
        self._source = None if isinstance(jobs, Iterable) else jobs
        self._held: Job | None = None

    def take(self, *, wait: bool) -> Job | None:
        """Return the next job, as :class:`JobSource` does."""
        job, self._held = self._held, None
        if job is not None:
            return job
        if self._source is not None:
            return self._source.take(wait=wait)
        return None if self._ready is None else next(self._ready, None)

    def put_back(self, job: Job) -> None:
        """Have this job be the next."""
        self._held = job
