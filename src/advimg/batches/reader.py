"""Photos decoded ahead in background threads, so that the network does not wait for files."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from dataclasses import replace
from typing import TYPE_CHECKING

from advimg.batches.options import Options
from advimg.batches.plan import Item
from advimg.engine.job import Job
from advimg.errors import AdvimgError, PhotoError
from advimg.images.decode import read_photo

if TYPE_CHECKING:
    from advimg.images.photo import Photo

_THREADS = 2


class PhotoReader:
    """The jobs of a batch, roughly in the order of its photos; a photo with several targets is decoded once.

    Args:
        photos: the items of each photo.
        options: of all attacks; each item has its own eps.
        failed: called for each item whose photo cannot be read.
        ahead: how many photos to hold ready.

    Attributes:
        items: the item of each job that was taken.
    """

    def __init__(
        self,
        photos: Iterable[Sequence[Item]],
        options: Options,
        *,
        failed: Callable[[Item, AdvimgError], None],
        ahead: int,
    ) -> None:
        self._photos = iter(photos)
        self._options = options
        self._failed = failed
        self._ahead = ahead
        self._pool = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="read")
        self._reading: dict[futures.Future[Photo], Sequence[Item]] = {}
        self._ready: deque[Job] = deque()
        self.items: dict[Job, Item] = {}

    def take(self, *, wait: bool) -> Job | None:
        """Return the next job; see :class:`advimg.engine.engine.Feed`."""
        while True:
            self._read_ahead()
            if not self._ready and not self._collect(wait_for_one=wait):
                return None
            if self._ready:
                return self._ready.popleft()

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read_ahead(self) -> None:
        while len(self._reading) + bool(self._ready) < self._ahead:
            items = next(self._photos, None)
            if items is None:
                return
            photo = self._pool.submit(read_photo, items[0].key.source, max_pixels=self._options.max_pixels)
            self._reading[photo] = items

    def _collect(self, *, wait_for_one: bool) -> bool:
        """Turn photos that have been read into jobs; return whether any was read."""
        futures.wait(self._reading, timeout=None if wait_for_one else 0, return_when=futures.FIRST_COMPLETED)
        read = [future for future in self._reading if future.done()]
        for future in read:
            items = self._reading.pop(future)
            # Not by `except`: its traceback would hold this frame, and so decoded photos, until garbage collection.
            error = future.exception()
            if isinstance(error, MemoryError):
                error = PhotoError(f"{items[0].key.source} is too large for this machine's memory")
            if isinstance(error, AdvimgError):
                for item in items:
                    self._failed(item, error)
                continue
            photo = future.result()
            for item in items:
                settings = replace(self._options.settings, eps=item.key.eps)
                job = Job(photo=photo, target=item.key.target, settings=settings)
                self.items[job] = item
                self._ready.append(job)
        return bool(read)
