"""A journal in an object store, which cannot append: segments, each an object that is written once.

Below the output folder, ``journal/RUN/000000.jsonl`` and so on hold the lines of one run. Runs are counted, so that the
order of names is that of the lines. A segment is written every few seconds; a driver that is killed loses the lines
since the last one, whose attacks are made again. A journal that is written anew is in ``journal/RUN-anew/``; it takes
the place of the segments that its ``instead.json`` names, and counts once that is there, which is written last.

One run at a time holds ``journal/lock`` (:mod:`.store_lock`). ``journal/RUN/plan.jsonl`` names the files that a run may
write, so the next one knows the files of a run that was killed.
"""

import contextlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from advimg.batches.store_lock import StoreLock
from advimg.batches.unfinished_objects import UnfinishedObjects
from advimg.errors import DiskError, OutputError, first_line
from advimg.storage import stores
from advimg.storage.url import Place, Url, relative

FOLDER = "journal"
"""The name of the folder of segments, below the output folder."""
_SEGMENT = re.compile(r"\d{6}-[0-9a-f]{6}(?P<anew>-anew)?/\d{6}\.jsonl")
_INSTEAD = "instead.json"
_EVERY = 5.0
"""Seconds between two segments."""
_MOST_LINES = 1000
"""Lines that wait no longer."""
_AT_A_TIME = 16
"""Segments that are read at the same time."""
_LARGE = 16 << 20
"""Bytes of a segment, when a journal is written anew."""


def lock_of(folder: Url) -> Url:
    """Return the object that a run holds while it writes to a folder."""
    return folder / FOLDER / "lock"


class SegmentStore:
    """The lines of a journal in an object store; see :class:`advimg.batches.journal_store.Store`.

    Args:
        folder: the URL of the output folder.
        warn: called with a line for a person, if it takes a while to know whether another run is alive.

    Attributes:
        folder: as above.
        path: the URL of the journal.
    """

    def __init__(self, folder: Url, *, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.path = folder / FOLDER
        self._warn = warn
        self._lock = StoreLock(lock_of(folder), of=folder)
        self._run: Url | None = None
        self._segments: _Segments | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out while the context lasts.

        Raises:
            OutputError: another run writes there, there is no such bucket, or the store refuses access.
        """
        with stores.errors_as(f"cannot write to {self.folder}"):
            if not stores.is_folder(Url(self.folder.store)):
                raise DiskError(f"cannot write to {self.folder}: there is no bucket {self.folder.store}")
            self._lock.acquire(self._warn)
        try:
            yield
        finally:
            self._lock.release()

    def is_there(self) -> bool:
        """Tell whether there is anything of a journal."""
        return stores.is_folder(self.path)

    def read(self) -> Iterator[bytes]:
        """Yield the lines, each with its end."""
        with stores.errors_as(f"cannot read {self.path}"):
            segments = self._listed()
        if not segments:
            raise FileNotFoundError(f"{self.path} does not exist")
        with (
            stores.errors_as(f"cannot read {self.path}, which a run may have written anew meanwhile"),
            ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="segment") as pool,
        ):
            for first in range(0, len(segments), _AT_A_TIME):
                for data in pool.map(stores.read, segments[first : first + _AT_A_TIME]):
                    yield from data.splitlines(keepends=True)

    def open(self) -> None:
        """Make ready to append."""
        with stores.errors_as(f"cannot read {self.path}"):
            self._run = self._next_run()
        self._segments = _Segments(self._run, before_each=self._lock.check)

    def append(self, lines: Sequence[bytes], *, durable: bool) -> None:  # noqa: ARG002 - all are, in seconds
        """Add lines; they are in the store within a few seconds, and when the journal is closed."""
        if self._segments is None:
            raise ValueError("the journal is not open")
        self._segments.append(lines)

    def flush(self) -> None:
        """Write what waits."""
        if self._segments is not None:
            self._segments.flush()

    def replace(self, lines: Iterable[bytes]) -> None:
        """Write the lines to segments of a run of their own, which then takes the place of all there are."""
        if self._segments is not None:
            self._segments.close()
        with stores.errors_as(f"cannot write to {self.path}"):
            before, run = [url for url, _ in stores.listed(self.path)], self._next_run()
            anew = run.with_name(f"{run.name}-anew")
            for number, data in enumerate(_in_parts(lines)):
                stores.put(anew / f"{number:06}.jsonl", data, overwrite=False)
            names = [name for url in before if _SEGMENT.fullmatch(name := relative(url, self.path))]
            stores.put(anew / _INSTEAD, json.dumps(names).encode("ascii"), overwrite=False)
        gone = set(names)
        with contextlib.suppress(OSError):  # they no longer count, be they there or not
            stores.remove(url for url in before if relative(url, self.path) in gone or _of_anew(url))
        if self._segments is not None:
            self.open()

    def unfinished(self, recorded: Iterable[Place]) -> UnfinishedObjects:
        """Return the list of unfinished files, once those that a killed run left are removed."""
        assert self._run is not None
        with stores.errors_as(f"cannot write to {self.folder}"):
            return UnfinishedObjects(self.folder, self.path, self._run, recorded, check=self._lock.check)

    def close(self) -> None:
        """Write what waits."""
        if self._segments is not None:
            self._segments.close()

    def _next_run(self) -> Url:
        """Return the folder of another run, whose name comes after those of all that wrote here."""
        names = (relative(url, self.path).partition("-")[0] for url, _ in stores.listed(self.path))
        last = max((int(name) for name in names if name.isdecimal()), default=0)
        return self.path / f"{last + 1:06}-{secrets.token_hex(3)}"

    def _listed(self) -> list[Url]:
        """Return the segments that count, in the order of their lines."""
        found = {relative(url, self.path): url for url, _ in stores.listed(self.path)}
        complete = [url for name, url in found.items() if name.endswith(f"-anew/{_INSTEAD}")]
        gone = {name for url in complete for name in json.loads(stores.read(url))}
        runs = {url.parent for url in complete}
        return [
            url
            for name, url in sorted(found.items())
            if (match := _SEGMENT.fullmatch(name)) and name not in gone and (not match["anew"] or url.parent in runs)
        ]


def _of_anew(url: Url) -> bool:
    return url.parent.name.endswith("-anew")


def _in_parts(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines together, so many that an object is neither small nor large."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _LARGE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


class _Segments:
    """Writes lines to the segments of a run, in a thread.

    Args:
        run: the folder of the run.
        before_each: called before each segment; raises an error if this run may no longer write.
    """

    def __init__(self, run: Url, *, before_each: Callable[[], None]) -> None:
        self._run = run
        self._before_each = before_each
        self._lines: list[bytes] = []
        self._number = 0
        self._error: OutputError | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines.

        Raises:
            DiskError: those before could not be written.
        """
        with self._changed:
            if self._error is not None:
                raise DiskError(str(self._error)) from self._error
            self._lines += lines
            if len(self._lines) >= _MOST_LINES:
                self._changed.notify()

    def close(self) -> None:
        """Write what waits; once more what could not be written before.

        Raises:
            DiskError: it cannot be written.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            DiskError: it cannot be written.
        """
        try:
            self._write()
        except OutputError as error:
            raise DiskError(str(error)) from error

    def _work(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._lines) >= _MOST_LINES, timeout=_EVERY)
            try:
                self._write()
            except Exception as error:
                # Whatever it is, no line that is added after it would be written.
                self._error = error if isinstance(error, OutputError) else DiskError(first_line(error))
                return

    def _write(self) -> None:
        with self._writing:
            with self._changed:
                lines = tuple(self._lines)
            if not lines:
                return
            with stores.errors_as(f"cannot write to {self._run.parent}"):
                self._before_each()
                while True:
                    number, self._number = self._number, self._number + 1
                    try:
                        stores.put(self._run / f"{number:06}.jsonl", b"".join(lines), overwrite=False)
                        break
                    except FileExistsError:
                        pass  # the answer to an earlier attempt was lost; a line that is there twice counts once
            with self._changed:
                del self._lines[: len(lines)]
