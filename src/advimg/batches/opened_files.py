"""Files of results and their photos, opened before their turn."""

import hashlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from advimg.batches.byte_budget import ByteBudget
from advimg.engine.capacity import machine_memory
from advimg.errors import PhotoError, unreadable
from advimg.images.decode import decode_photo
from advimg.images.photo import Photo
from advimg.storage.places import read_bytes
from advimg.storage.url import place_of

_AHEAD = 3
"""How many files are opened before their turn."""
_WAITING = 16
"""The machine's memory over this may hold photos that wait, each with a file of its size."""
_BYTES_A_PIXEL = 8
"""Of a photo and its file, each with its transparency."""


class OpenedFile(NamedTuple):
    """A picture's file.

    Attributes:
        sha256: of its bytes; None where there are none.
        photo: what it shows; None where that cannot be told.
        error: why there is none.
        held: the bytes that it was given to wait.
    """

    sha256: str | None
    photo: Photo | None
    error: str = ""
    held: int = 0


def open_ahead(
    attacks: Iterator[Mapping[str, Any]], max_pixels: int
) -> Generator[tuple[Mapping[str, Any], OpenedFile | None, OpenedFile | None]]:
    """Yield the records of attacks with their photos and files, which two threads open before their turn.

    A photo is opened once for the attacks on it that follow one another. There are none where an attack failed.
    """
    room = ByteBudget(machine_memory() // _WAITING)
    # A thread each, so that photos are given room in their order: one that has to wait is never the next.
    photos, files = (ThreadPoolExecutor(1, thread_name_prefix="read") for _ in range(2))
    waiting: deque[tuple[Mapping[str, Any], Future[OpenedFile] | None, Future[OpenedFile] | None]] = deque()
    source: str | None = None
    photo: Future[OpenedFile] | None = None
    last: Future[OpenedFile] | None = None

    def read_next() -> None:
        nonlocal source, photo
        values = next(attacks, None)
        if values is None:
            return
        if values["error"] is not None:
            waiting.append((values, None, None))
            return
        if photo is None or source != values["source"]:
            source = values["source"]
            photo = photos.submit(_open, source, max_pixels, room)
        waiting.append((values, photo, files.submit(_open, values["outputs"]["adversarial"], max_pixels)))

    try:
        for _ in range(_AHEAD):
            read_next()
        while waiting:
            values, now, file = waiting.popleft()
            read_next()
            if now is None or file is None:
                yield values, None, None
                continue
            if last is not None and last is not now:
                room.give_back(last.result().held)
            last = now
            yield values, now.result(), file.result()
    finally:
        room.close()
        for pool in (photos, files):
            pool.shutdown(wait=True, cancel_futures=True)


def _open(name: str, max_pixels: int, room: ByteBudget | None = None) -> OpenedFile:
    """Read and decode a picture's file, once there is room for its pixels."""
    held = 0

    def wait_for_room(pixels: int) -> None:
        nonlocal held
        if room is None:
            return
        if not room.take(pixels * _BYTES_A_PIXEL):
            raise PhotoError(f"{name} is no longer wanted")
        held = pixels * _BYTES_A_PIXEL

    try:
        data = read_bytes(place_of(name))
    except FileNotFoundError:
        return OpenedFile(None, None, "is gone")
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a NUL in the name
        return OpenedFile(None, None, unreadable("", error).strip())
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        photo = decode_photo(data, source=name, max_pixels=max_pixels, before_decoding=wait_for_room)
    except MemoryError:
        return OpenedFile(sha256, None, "is too large for this machine's memory", held)
    except PhotoError as error:
        return OpenedFile(sha256, None, str(error).removeprefix(f"{name} "), held)
    return OpenedFile(sha256, photo, held=held)
