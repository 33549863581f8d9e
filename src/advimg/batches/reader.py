"""Photos decoded ahead in background threads, so that the network does not wait for files."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from advimg.batches.byte_budget import ByteBudget
from advimg.batches.options import Options
from advimg.batches.plan import Item
from advimg.batches.stamps import stamp_before_reading
from advimg.engine.job import Job
from advimg.errors import AdvimgError, PhotoError
from advimg.images.decode import read_photo
from advimg.storage.url import Url

if TYPE_CHECKING:
    from advimg.images.photo import Photo
    from advimg.storage.url import Place

_THREADS = 2
_THREADS_FROM_STORE = 16
"""A store takes long to answer, and little of a processor's time."""
_MOST_REFUSED = 20
"""Photos, one after the other, that may not be read before the run is given up."""
_BYTES_A_PIXEL = 4
"""Of a decoded photo, with its transparency."""


class PhotoReader:
    """The jobs of a batch, roughly in the order of its photos; a photo with several targets is decoded once.

    Args:
        photos: the items of each photo.
        options: of all attacks; each item has its own eps.
        failed: called for each item whose photo cannot be read.
        ahead: how many photos to hold ready.
        memory: the most bytes that they may take together; one photo is always read.

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
        memory: int,
    ) -> None:
        self._photos = iter(photos)
        self._options = options
        self._failed = failed
        self._ahead = ahead
        self._room = ByteBudget(memory)
        self._bytes: dict[Photo, int] = {}  # that each photo holds which was read
        self._pool = futures.ThreadPoolExecutor(_THREADS_FROM_STORE, thread_name_prefix="read")
        self._from_disk = threading.BoundedSemaphore(_THREADS)
        self._reading: dict[futures.Future[Photo], Sequence[Item]] = {}
        self._stamps: dict[Photo, str | None] = {}
        self._ready: deque[Job] = deque()
        self._remote = False
        self._read_all = False
        self._refused: list[tuple[Sequence[Item], AdvimgError]] = []
        self._again: deque[Job] = deque()
        self.items: dict[Job, Item] = {}

    def take(self, *, wait: bool) -> Job | None:
        """Return the next job; see :class:`advimg.engine.queue.JobSource`."""
        if self._again:
            return self._again.popleft()
        while True:
            self._read_ahead()
            if not self._ready and not self._collect(wait_for_one=wait):
                return None
            if self._ready:
                job = self._ready.popleft()
                if not self._ready or self._ready[0].photo is not job.photo:
                    self._room.give_back(self._bytes.pop(job.photo))
                return job

    def put(self, job: Job, item: Item) -> None:
        """Have a job on a photo that was taken already be the next."""
        self.items[job] = item
        self._again.append(job)

    def close(self) -> None:
        """Stop reading."""
        self._room.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read_ahead(self) -> None:
        while len(self._reading) + bool(self._ready) < (
            max(self._ahead, _THREADS_FROM_STORE) if self._remote else self._ahead
        ):
            items = next(self._photos, None)
            if items is None:
                self._read_all = True
                return
            self._remote = isinstance(items[0].key.source, Url)
            self._reading[self._pool.submit(self._read, items[0].key.source)] = items

    def _read(self, source: "Place") -> "Photo":
        """Read a photo once there is room for its pixels, in another thread."""
        held = 0
        stamp = stamp_before_reading(source)

        def wait_for_room(pixels: int) -> None:
            nonlocal held
            if not self._room.take(pixels * _BYTES_A_PIXEL):
                raise PhotoError(f"{source} is no longer wanted")
            held = pixels * _BYTES_A_PIXEL

        try:
            with nullcontext() if isinstance(source, Url) else self._from_disk:
                photo = read_photo(source, max_pixels=self._options.max_pixels, before_decoding=wait_for_room)
        except BaseException:
            self._room.give_back(held)
            raise
        self._bytes[photo] = held
        self._stamps[photo] = stamp
        return photo

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
                self._refused.append((items, error))
                if not (isinstance(items[0].key.source, Url) and _is_refusal(error)):
                    self._fail_refused()
                elif len(self._refused) > _MOST_REFUSED:
                    # Credentials have expired, for example. The photos are in no journal, so the next run reads them.
                    raise PhotoError(f"{error}; nor can the photos before it be read")
                continue
            photo = future.result()
            self._fail_refused()
            stamp = self._stamps.pop(photo)
            for item in items:
                settings = replace(self._options.settings, eps=item.key.eps)
                job = Job(photo=photo, target=item.key.target, settings=settings)
                self.items[job] = replace(item, stamp=stamp)
                self._ready.append(job)
        if self._read_all and not self._reading:
            self._fail_refused()
        return bool(read)

    def _fail_refused(self) -> None:
        """Let the photos fail that could not be read, since others can."""
        for items, error in self._refused:
            for item in items:
                self._failed(item, error)
        self._refused.clear()


def _is_refusal(error: AdvimgError) -> bool:
    """Tell whether a store refuses access to a photo, as it then may to all others."""
    return isinstance(error.__cause__, PermissionError)
