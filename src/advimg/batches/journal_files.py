"""A journal in a local folder: its file of lines, its lock, and the list of the files that have no record yet."""

import contextlib
import errno
import io
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from advimg.errors import DiskError, OutputError
from advimg.storage import places
from advimg.storage.files import made_folder, sweep, write_whole
from advimg.storage.url import Place, relative

NAME = "results.jsonl"

_LOCK = ".advimg.lock"
_UNFINISHED = ".advimg.unfinished"


class FolderStore:
    """The lines of a journal in a local folder; see :class:`advimg.batches.journal_store.Store`.

    Attributes:
        folder: an absolute path.
        path: of the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / NAME
        self._file: LineFile | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder if it is not there, and lock it; what was made and is still empty is removed at the end.

        Raises:
            OutputError: another process writes there, the folder cannot be written, or the lock is a link.
        """
        with made_folder(self.folder), _locked(self.folder):
            yield

    def is_there(self) -> bool:
        """Tell whether there is such a file."""
        return places.exists(self.path)

    def read(self) -> Iterator[bytes]:
        """Yield the lines, each with its end; the last may lack it."""
        try:
            with self.path.open("rb") as file:
                yield from file
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OutputError(f"cannot read {self.path}: {error.strerror or error}") from error

    def open(self) -> None:
        """Make ready to append, and remove temporary files that killed processes left."""
        sweep(self.folder)
        self._file = LineFile(self.path)

    def append(self, lines: Sequence[bytes], *, durable: bool) -> None:
        """Add lines in one write."""
        if self._file is None:
            raise ValueError("the journal is not open")
        self._file.append(b"".join(lines), durable=durable)

    def flush(self) -> None:
        """Do nothing: lines are in the file at once."""

    def replace(self, lines: Iterable[bytes]) -> None:
        """Write the file anew, and give it its name once it is complete."""
        if self._file is not None:
            self._file.close()
        write_whole(self.path, lines, overwrite=True, durable=True)
        if self._file is not None:
            self._file = LineFile(self.path)

    def unfinished(self, recorded: Iterable[Place]) -> "UnfinishedFiles":
        """Return the list of unfinished files, once those that a killed process left are removed."""
        return UnfinishedFiles(self.folder, recorded)

    def close(self) -> None:
        """Stop appending; an empty file is removed."""
        if self._file is not None:
            self._file.close()
        with contextlib.suppress(OSError):
            if not self.path.stat().st_size:
                self.path.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
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
    """A file that lines are appended to, those of one call whole or not at all; safe to use from several threads.

    Raises:
        DiskError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, "ab")
        except OSError as error:
            raise DiskError(f"cannot write {path}: {error.strerror or error}") from error
        self._lock = threading.Lock()

    def append(self, data: bytes, *, durable: bool = False) -> None:
        """Append lines in one write.

        Args:
            data: the lines, each with its end.
            durable: whether they are on the disk, and not only in the system's memory, afterwards.

        Raises:
            DiskError: the disk is full; the file is as it was before.
        """
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

    See :class:`advimg.batches.journal_store.Unfinished`.

    A file is listed with the hash of its bytes before it is written. Only a file that is in the list, in the folder,
    and has these bytes is ever removed, so a list that someone has edited removes nothing else. Files in the list of an
    earlier process that was killed are removed first.

    Args:
        folder: an absolute path.
        recorded: the files that records name; those are kept.
    """

    def __init__(self, folder: Path, recorded: Iterable[Place]) -> None:
        self._folder = folder
        self._list = folder / _UNFINISHED
        self._hashes: dict[Place, set[str]] = {}
        for path, sha256 in self._read():
            self._hashes.setdefault(path, set()).add(sha256)
        if self._hashes:
            self.discard(recorded)
        self._remove()
        self._file = LineFile(self._list)

    def __contains__(self, path: Place) -> bool:
        """Tell whether a file is there as it was listed."""
        return (
            path in self._hashes and places.is_inside(path, self._folder) and sha256_or_none(path) in self._hashes[path]
        )

    def expect(self, paths: Iterable[Place]) -> None:
        """Do nothing: each file is listed before it is written."""

    def add(self, hashes: Mapping[Place, str]) -> None:
        """List files before they are written, or once their record is removed, with the SHA-256 of their bytes.

        Raises:
            DiskError: the disk is full.
        """
        lines = (json.dumps([relative(path, self._folder), sha256]) for path, sha256 in hashes.items())
        self._file.append("".join(f"{line}\n" for line in lines).encode("ascii"))
        for path, sha256 in hashes.items():
            self._hashes.setdefault(path, set()).add(sha256)

    def discard(self, paths: Iterable[Place]) -> None:
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
                    places.remove(path)
        self._hashes.clear()
        with contextlib.suppress(OSError):
            self._list.unlink(missing_ok=True)


def sha256_or_none(path: Place) -> str | None:
    """Return the SHA-256 of a file's bytes, in hexadecimal; None if it cannot be read."""
    try:
        return places.sha256(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
