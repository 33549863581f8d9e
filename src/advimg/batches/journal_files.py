"""The files behind a journal: its lock, files of lines, and the list of the files that have no record yet."""

import contextlib
import errno
import io
import json
import os
import threading
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from filelock import FileLock, Timeout

from advimg.errors import DiskError, OutputError

_LOCK = ".advimg.lock"
_UNFINISHED = ".advimg.unfinished"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder while the context lasts.

    Raises:
        OutputError: another process writes there, or the folder cannot be written.
    """
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

    def append(self, line: str) -> None:
        """Append a line of ASCII in one write.

        Raises:
            DiskError: the disk is full; the file is as it was before.
        """
        data = line.encode("ascii") + b"\n"
        with self._lock:
            before = os.fstat(self.fileno()).st_size
            try:
                if self.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                with contextlib.suppress(OSError):
                    self.truncate(before)
                raise DiskError(f"cannot write {self.name!s}: {error.strerror or error}") from error


class UnfinishedFiles:
    """The files of an output folder that have no record yet, also listed in a hidden file of the folder.

    Files in the list of an earlier process that was killed are removed first.

    Args:
        folder: an absolute path.
        recorded: the files that records name; those are kept.
    """

    def __init__(self, folder: Path, recorded: AbstractSet[Path]) -> None:
        self._list = folder / _UNFINISHED
        self._paths = set(self._read()) - recorded
        self._remove()
        self._file = LineFile(self._list)

    def __contains__(self, path: Path) -> bool:
        return path in self._paths

    def add(self, paths: Iterable[Path]) -> None:
        """List files before they are written, or once their record is removed.

        Raises:
            DiskError: the disk is full.
        """
        for path in paths:
            self._file.append(json.dumps(os.path.relpath(path, self._list.parent)))
            self._paths.add(path)

    def discard(self, paths: Iterable[Path]) -> None:
        """Keep files, because they have a record."""
        self._paths.difference_update(paths)

    def close(self) -> None:
        """Remove the files that have no record, and the list."""
        self._file.close()
        self._remove()

    def _read(self) -> Iterator[Path]:
        """Yield the listed files; an incomplete last line names a file that was not begun."""
        with contextlib.suppress(OSError):
            for line in self._list.read_bytes().splitlines(keepends=True):
                with contextlib.suppress(ValueError, TypeError):
                    path = Path(os.path.normpath(self._list.parent / json.loads(line)))
                    # A list that someone has edited must not remove files elsewhere.
                    if line.endswith(b"\n") and path.is_relative_to(self._list.parent):
                        yield path

    def _remove(self) -> None:
        while self._paths:
            with contextlib.suppress(OSError):
                self._paths.pop().unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._list.unlink(missing_ok=True)
