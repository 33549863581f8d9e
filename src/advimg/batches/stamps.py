"""Stamps of files, by which a later run knows without reading them that they have not changed, as git's index does.

A stamp is a short string: size, time of the last change, and number of the file in its file system. A file whose stamp
is the recorded one has the recorded content. Another stamp says nothing: a copied folder has others, and its files are
read. Two files have different numbers, so one that takes the name of another of the same size and time is noticed.
"""

import os
import stat
import sys
import time

from advimg.storage import places, stores, tars
from advimg.storage.url import Place, Url, place_of

_TICK = 10_000_000 if sys.platform == "linux" else 16_000_000
"""Nanoseconds: two changes that follow each other within one tick of the system's clock may have the same time."""
_SECOND = 1_000_000_000
_COARSE = 2 * _SECOND
"""The same, of file systems that know whole seconds, or every second one."""


def stamp_of(path: str | Place) -> str | None:
    """Return the stamp of a file as it is now, or of that which a link leads to; None if there is none.

    That of an object is what its store says of its bytes, that of a member its archive's.
    """
    if "://" in str(path):
        return _stamp_in_store(place_of(path))
    try:
        about = os.stat(str(path))  # noqa: PTH116 - called for each file of a batch, and Path.stat() takes twice as long
    except (NotADirectoryError, FileNotFoundError):  # the second on Windows
        return _stamp_of_member(place_of(str(path)))
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    if not stat.S_ISREG(about.st_mode):
        return None
    return f"{about.st_size}-{about.st_mtime_ns}-{about.st_ino}"


def _stamp_in_store(path: Place) -> str | None:
    try:
        found = stores.find(path) if isinstance(path, Url) else None
    except OSError:
        return None
    return _stamp_of_member(path) if found is None else found.stamp


def _stamp_of_member(path: Place) -> str | None:
    try:
        inside = tars.split(path)
        return stamp_of(inside[0]) if inside is not None and inside[1] in tars.members(inside[0]) else None
    except OSError:
        return None


def stamp_before_reading(path: str | Place) -> str | None:
    """Return a stamp to record with the content that is read after this call.

    Returns:
        None where the file was changed so recently that a change after this call might have the same time: its stamp
        would hide that one.
    """
    stamp = stamp_of(path)
    if stamp is None or "://" in str(path):
        return stamp
    return stamp if _age(stamp) >= _granularity(stamp) else None


def stamp_of_written(path: str | Place, sha256: str) -> str | None:
    """Return a stamp to record with a file that was just written; waits for a tick of the clock.

    Args:
        path: of the file.
        sha256: of the bytes that were written.

    Returns:
        None where the file is not what was written, or where its stamp would hide a later change.
    """
    stamp = stamp_of(path)
    if stamp is None or "://" in str(path):
        return stamp  # a moment after the object was read back from its store
    wait = _granularity(stamp) - _age(stamp)
    if 0 < wait <= _TICK:
        time.sleep(wait / _SECOND)
    stamp = stamp_before_reading(path)
    try:
        return stamp if stamp is not None and places.sha256(place_of(path)) == sha256 else None
    except OSError:
        return None


def _age(stamp: str) -> int:
    """Return how long ago a file was changed, in nanoseconds, by this machine's clock."""
    return time.time_ns() - _time_in(stamp)


def _granularity(stamp: str) -> int:
    return _TICK if _time_in(stamp) % _SECOND else _COARSE


def _time_in(stamp: str) -> int:
    return int(stamp.split("-")[1])
