"""The files behind a journal: its lock, files of lines, and the list of the files that have no record yet."""

import contextlib
import errno
import io
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

from filelock import FileLock, Timeout

from advimg.errors import DiskError, OutputError
from advimg.images.files import file_sha256, is_inside

_LOCK = ".advimg.lock"
_UNFINISHED = ".advimg.unfinished"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder while the context lasts.

    Raises:
        OutputError: another process writes there, the folder cannot be written, or the lock is a link.
    """
    if (folder / _LOCK).is_symlink():  # which would be emptied, whatever it leads to
        raise OutputError(f"{folder / _LOCK} is a link; remove it, or choose another -O")
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(f"another advimg batch is writing to {folder}; wait for it, or choose another -O") from None
    except OSError as error:
        raise DiskError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove files that are open
            (folder / _LOCK).unlink(missing_ok=True)
        lock.release()


class LineFile(io.FileIO):
    """A file that lines are appended to, each whole or not at all; safe to use from several threads.

    Raises:
        DiskError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, "ab")
        except OSError as error:
            raise DiskError(f"cannot write {path}: {error.strerror or error}") from error
        self._lock = threading.Lock()

    def append(self, *lines: str, durable: bool = False) -> None:
        """Append lines of ASCII in one write.

        Args:
            lines: each without its end.
            durable: whether they are on the disk, and not only in the system's memory, afterwards.

        Raises:
            DiskError: the disk is full; the file is as it was before.
        """
        data = "".join(f"{line}\n" for line in lines).encode("ascii")
        with self._lock:
            before = os.fstat(self.fileno()).st_size
            try:
                if self.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if durable:
                    os.fsync(self.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):
                    self.truncate(before)
                raise DiskError(f"cannot write {self.name!s}: {error.strerror or error}") from error


class UnfinishedFiles:
    """The files of an output folder that have no record yet, also listed in a hidden file of the folder.

    A file is listed with the hash of its bytes before it is written. Only a file that is in the list, in the folder,
    and has these bytes is ever removed, so a list that someone has edited removes nothing else. Files in the list of an
    earlier process that was killed are removed first.

    Args:
        folder: an absolute path.
        recorded: the files that records name; those are kept.
    """

    def __init__(self, folder: Path, recorded: AbstractSet[Path]) -> None:
        self._folder = folder
        self._list = folder / _UNFINISHED
        self._hashes: dict[Path, set[str]] = {}
        for path, sha256 in self._read():
            if path not in recorded:
                self._hashes.setdefault(path, set()).add(sha256)
        self._remove()
        self._file = LineFile(self._list)

    def __contains__(self, path: Path) -> bool:
        """Tell whether a file is there as it was listed."""
        return path in self._hashes and is_inside(path, self._folder) and sha256_or_none(path) in self._hashes[path]

    def add(self, hashes: Mapping[Path, str]) -> None:
        """List files before they are written, or once their record is removed, with the SHA-256 of their bytes.

        Raises:
            DiskError: the disk is full.
        """
        self._file.append(
            *(json.dumps([os.path.relpath(path, self._folder), sha256]) for path, sha256 in hashes.items())
        )
        for path, sha256 in hashes.items():
            self._hashes.setdefault(path, set()).add(sha256)

    def discard(self, paths: Iterable[Path]) -> None:
        """Keep files, because they have a record."""
        for path in paths:
            self._hashes.pop(path, None)

    def close(self) -> None:
        """Remove the files that have no record, and the list."""
        self._file.close()
        self._remove()

    def _read(self) -> Iterator[tuple[Path, str]]:
        """Yield the listed files; an incomplete last line names a file that was not begun."""
        with contextlib.suppress(OSError):
            for line in self._list.read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    name, sha256 = json.loads(line)
                    yield Path(os.path.normpath(self._folder / name)), str(sha256)

    def _remove(self) -> None:
        for path in self._hashes:
            if path in self:
                with contextlib.suppress(OSError):
                    path.unlink()
        self._hashes.clear()
        with contextlib.suppress(OSError):
            self._list.unlink(missing_ok=True)


def sha256_or_none(path: Path) -> str | None:
    """Return the SHA-256 of a file's bytes, in hexadecimal; None if it cannot be read."""
    try:
        return file_sha256(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
