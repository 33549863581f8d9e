"""Members of tar archives, which are folders to look into: ``photos-00000.tar/dog.jpg`` is a place like any other.

webdataset's archives are such: uncompressed, with files whose names differ in their suffixes only.
"""

import io
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from advimg.storage import stores
from advimg.storage.url import Place, Url

SUFFIX = ".tar"
_KEPT = 64
"""How many archives' lists of members are kept."""
_BLOCK = 8 << 20
"""How many bytes of an archive in a store are read at a time when its members are listed."""


_BROKEN = (tarfile.TarError, ValueError, OverflowError, EOFError)
"""What tarfile raises where an archive is none, or is damaged."""


class Member(NamedTuple):
    """A member of an archive: where its bytes begin, and how many they are."""

    offset: int
    size: int


def split(where: Place) -> tuple[Place, str] | None:
    """Return the archive and the name within it of a place in an archive; None for any other place."""
    if SUFFIX not in str(where).lower():
        return None
    for folder in where.parents:
        if folder.suffix.lower() == SUFFIX and is_archive(folder):
            return folder, str(where)[len(str(folder)) + 1 :].replace(os.sep, "/")
    return None


def is_archive(where: Place) -> bool:
    """Tell whether a place is a tar archive, by its name and by not being a folder."""
    if where.suffix.lower() != SUFFIX:
        return False
    if isinstance(where, Url):
        return where in _members or stores.find(where) is not None
    return os.path.isfile(where)  # noqa: PTH113 - Path.is_file() raises on impossible names


def members(archive: Place) -> Mapping[str, Member]:
    """Return the files of an archive by their names, in its order; the last of those with one name.

    Links, and names that lead out of the archive, are left out.

    Raises:
        OSError: it cannot be read, or is no tar archive.
    """
    with _lock:
        known = _members.get(archive)
        stamp = _stamp(archive)
        if known is not None and known[0] == stamp:
            _members.move_to_end(archive)
            return known[1]
    found = dict(_listed(archive))
    with _lock:
        _members[archive] = stamp, found
        if len(_members) > _KEPT:
            _members.popitem(last=False)
    return found


def forget(archive: Place) -> None:
    """List the members anew when they are next asked for: an object may be another from now on."""
    with _lock:
        _members.pop(archive, None)


def read(archive: Place, name: str) -> bytes:
    """Return the bytes of a member.

    Raises:
        OSError: the archive cannot be read; FileNotFoundError if it has no such member.
    """
    member = members(archive).get(name)
    if member is None:
        raise FileNotFoundError(f"{archive} has no member {name}")
    if isinstance(archive, Url):
        return stores.read(archive, member.offset, member.offset + member.size)
    with archive.open("rb") as file:
        file.seek(member.offset)
        return file.read(member.size)


def built(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the bytes of an archive: the same for the same files, whoever makes it, and when.

    Args:
        files: names and bytes, in their order.
    """
    buffer = io.BytesIO()
    # GNU's format, and not PAX: a name that is no UTF-8 is stored as it is, and any other as UTF-8.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)  # of 1970, of nobody, 0644
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            tar.members = []  # type: ignore[attr-defined] # a list of what is written already
    return buffer.getvalue()


def contents(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of the files in an archive's bytes, in their order.

    Raises:
        OSError: they are no tar archive, or are cut off.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8") as tar:
            while (info := tar.next()) is not None:
                file = tar.extractfile(info) if info.isreg() else None
                if file is not None:
                    yield info.name, file.read()
                tar.members = []  # type: ignore[attr-defined]
    except _BROKEN as error:
        raise OSError(f"no tar archive, or cut off: {error}") from error


_members: OrderedDict[Place, tuple[str, dict[str, Member]]] = OrderedDict()
_lock = threading.Lock()


def _stamp(archive: Place) -> str:
    if isinstance(archive, Path):
        status = archive.stat()
        return f"{status.st_size}-{status.st_mtime_ns}"
    return "as it was when this process listed it"


def _listed(archive: Place) -> Iterator[tuple[str, Member]]:
    try:
        with _opened(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                parts = PurePosixPath(info.name).parts
                if info.isreg() and parts and parts[0] != "/" and ".." not in parts:
                    yield "/".join(parts), Member(info.offset_data, info.size)
                tar.members = []  # type: ignore[attr-defined] # a second list, in more words
    except _BROKEN as error:
        raise OSError(f"{archive} is no tar archive, or is cut off: {error}") from error


def _opened(archive: Place) -> BinaryIO:
    if isinstance(archive, Path):
        return archive.open("rb")
    return io.BufferedReader(_Remote(archive), _BLOCK)


class _Remote(io.RawIOBase):
    """An object in a store, as a file to read."""

    def __init__(self, url: Url) -> None:
        found = stores.find(url)
        if found is None:
            raise FileNotFoundError(f"{url} does not exist")
        self._url, self._size, self._at = url, found.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._at + len(buffer), self._size)
        data = stores.read(self._url, self._at, end) if end > self._at else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
