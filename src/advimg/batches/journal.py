"""The journal of an output folder, ``results.jsonl``: one record a line, written as each attack ends.

This module knows what lines mean together; :mod:`.journal_lines` reads and writes one, and a
:class:`advimg.batches.journal_store.Store` knows where they are.

A line is a record (:mod:`advimg.record`) with ``adversarial_sha256``, the hash of the PNG that was written, and
``outputs_sha256``, the hashes of all its files; that of a failure has ``tried_with``, the options it depends on. Where
several attacks took turns, ``worst_case`` names them, and ``attack`` is the one that gave the file. ``stamps`` holds
those of the photo and of the files (:mod:`.stamps`), ``amplify`` what was asked for the picture of the perturbation.
The paths in a line are relative to the folder, so photos and results can be moved or copied together; here, and in what
``--json`` prints, they are absolute.
A record is appended after its files are in place, in one write, so a killed process can damage the last line only.
Files that have no record yet are listed in a second, hidden file, with their hashes, and removed when the journal is
closed, or by the next run: a folder holds the files that its journal names.
"""

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from advimg.batches.journal_entry import Entry, key_of
from advimg.batches.journal_files import FolderStore, sha256_or_none
from advimg.batches.journal_lines import Line, Other, line_of, read_lines, tell_of_others
from advimg.batches.journal_segments import SegmentStore
from advimg.batches.journal_store import Store
from advimg.batches.packed import file_of, sha256_of_results, tar_of
from advimg.batches.photos import is_own_picture
from advimg.batches.plan import Key
from advimg.errors import OutputError
from advimg.images.decode import is_adversarial
from advimg.storage.places import is_inside
from advimg.storage.url import Place, place_of

_FEW = 100
"""New stamps of fewer than one in so many attacks are not worth writing the journal anew."""


def store_of(folder: Place, *, warn: Callable[[str], None] = warnings.warn) -> Store:
    """Return where the journal of a folder is.

    Args:
        folder: an absolute path, or a URL.
        warn: called with a line for a person, if the lock of another run is waited for.
    """
    return FolderStore(folder) if isinstance(folder, Path) else SegmentStore(folder, warn=warn)


def read_records(folder: Place, *, warn: Callable[[str], None] = warnings.warn) -> list[dict[str, Any]]:
    """Return the records of :func:`read_attacks`."""
    return list(read_attacks(folder, warn=warn).values())


def read_attacks(folder: Place, *, warn: Callable[[str], None] = warnings.warn) -> dict[Key, dict[str, Any]]:
    """Return the last record of each attack in a folder's journal, with the paths of today.

    Nothing is locked and nothing changed, so a batch may be writing there; an incomplete last line is left out.

    Args:
        folder: an absolute path.
        warn: called with a line for a person, if lines of the journal are no records.

    Raises:
        OutputError: there is no journal, or it cannot be read.
    """
    attacks: dict[Key, dict[str, Any]] = {}
    others: list[Other] = []
    store = store_of(folder)
    try:
        for line in read_lines(store, advice="give a folder that it wrote to"):
            if isinstance(line, Line):
                record = line.record()
                attacks[key_of(record)] = record
            elif line is not None:
                others.append(line)
    except FileNotFoundError:
        raise OutputError(f"{store.path} does not exist; give a folder that advimg batch wrote to") from None
    tell_of_others(others, store.path, warn)
    return attacks


def read_journal(folder: Place) -> Iterator[dict[str, Any]]:
    """Yield the records of a folder's journal, one after the other, with the paths of today.

    Raises:
        OutputError: it is none, or cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        yield from (line.record() for line in read_lines(store_of(folder)) if isinstance(line, Line))


class KnownPhoto(NamedTuple):
    """A photo as a journal knows it: its path at that time, and the SHA-256 of its bytes."""

    source: Place
    sha256: str


class Journal:
    """The journal of a folder, locked against other processes; use :meth:`opened`.

    A line that is no record is left in its place and does not count.

    Attributes:
        folder: the output folder.
        entries: the attacks it held when it was opened and still holds, by key.
    """

    def __init__(self, store: Store, *, warn: Callable[[str], None] = warnings.warn) -> None:
        self.folder = store.folder
        self.entries: dict[Key, Entry] = {}
        self._renamed: dict[Key, Key] = {}  # the keys of entries whose photos were moved, by those on the disk
        self._replaced: list[Entry] = []  # entries in whose place those of moved photos come
        self._stamps: Mapping[Key, Mapping[str, str]] = {}  # new ones, by the keys of today
        self._twice: set[Key] = set()  # the keys that several lines have
        self._store = store
        repair = False
        others: list[Other] = []
        with contextlib.suppress(FileNotFoundError):
            for line in read_lines(store):
                if isinstance(line, Other):
                    others.append(line)
                    continue
                repair = repair or line is None or line.moved
                if line is not None:
                    entry = line.make_entry()
                    if entry.key in self.entries:
                        self._twice.add(entry.key)
                    self.entries[entry.key] = entry
        tell_of_others(others, store.path, warn)
        if repair or self._twice:
            self._rewrite()
        store.open()
        self._unfinished = store.unfinished(
            file_of(place_of(each.path)) for entry in self.entries.values() for each in entry.files
        )

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Place, *, warn: Callable[[str], None] = warnings.warn) -> Iterator[Self]:
        """Make the folder if it is not there, lock it, and repair what a killed process left.

        Folders that were made and are still empty at the end are removed.

        Args:
            folder: an absolute path.
            warn: called with a line for a person, if lines of the journal are no records.

        Raises:
            OutputError: another process writes there, the folder cannot be written, or the file is not a journal.
        """
        store = store_of(folder, warn=warn)
        with store.locked():
            journal = cls(store, warn=warn)
            try:
                yield journal
            finally:
                journal._close()

    def expect(self, paths: Iterable[Place]) -> None:
        """Take note of all the files that a run may write, before the first.

        Raises:
            DiskError: nothing can be written there.
        """
        self._unfinished.expect(paths)

    def begin(self, hashes: Mapping[Place, str]) -> set[Place]:
        """List files that are about to be written, with the SHA-256 of their bytes.

        Returns:
            Those that are there already and may be replaced: they are of an attack that no longer has a record.

        Raises:
            DiskError: the disk is full.
        """
        replaced = {path for path in hashes if path in self._unfinished}
        self._unfinished.add(hashes)
        return replaced

    def own_files(self, entry: Entry) -> dict[Place, str]:
        """Return the files of an attack that are certainly those that were written, with their SHA-256.

        They are in the folder, and have the bytes that were recorded. A PNG that was altered but holds the record of an
        attack counts, too. In journals of earlier versions other pictures count that are named after such a PNG.
        Members of an archive are no files: nothing replaces or removes them.
        """
        own = {}
        for each in entry.files:
            path = place_of(each.path)
            if tar_of(path) is not None:
                continue
            sha256 = sha256_or_none(path) if is_inside(path, self.folder) else None
            if sha256 is not None and (
                sha256 == each.sha256 or (is_own_picture(path) if each.sha256 is None else is_adversarial(path))
            ):
                own[path] = sha256
        return own

    def rename(self, moved: Mapping[KnownPhoto, Place]) -> None:
        """Take over where photos are now; the file is changed by :meth:`remove`.

        Results that a photo of other content has left under such a name are removed with it.
        """
        for old, entry in self.entries.items():
            now = moved.get(KnownPhoto(old.source, entry.source_sha256 or ""))
            if now is not None:
                self._renamed[old] = old._replace(source=now)
        arrived = {new: msgspec.structs.replace(self.entries.pop(old), key=new) for old, new in self._renamed.items()}
        self._replaced += [self.entries[key] for key in arrived if key in self.entries]
        self.entries |= arrived

    def restamp(self, stamps: Mapping[Key, Mapping[str, str]]) -> None:
        """Take over new stamps of files that were read and are what they were; the file is changed by :meth:`remove`.

        Args:
            stamps: of attacks in the journal, by the keys in their lines.
        """
        self._stamps = dict(stamps)

    def append(self, *records: Mapping[str, Any]) -> None:
        """Add records, after their files are in place: all in one write, or none of them.

        Args:
            *records: plain JSON values, with ``outputs_sha256`` and absolute paths.

        Raises:
            DiskError: the disk is full; the journal is as it was before.
        """
        lines = [line_of(record, self.folder) for record in records]
        # A failure that is lost when the power fails is found again.
        self._store.append(lines, durable=any(record["error"] is None for record in records))
        outputs = (place_of(path) for record in records for path in record["outputs"].values())
        self._unfinished.discard({file_of(path) for path in outputs})

    def flush(self) -> None:
        """Have all records where :meth:`records` and :func:`read_attacks` find them.

        Raises:
            DiskError: they cannot be written.
        """
        self._store.flush()

    def remove(self, keys: Collection[Key]) -> None:
        """Remove the records of attacks that are to be repeated; their files are unfinished until then."""
        few = len(self._stamps) * _FEW <= len(self.entries)  # to read some files again is less than to write all lines
        if not keys and not self._renamed and few:
            return
        own: dict[Place, str] = {}
        dropped = [*self._replaced, *(self.entries[key] for key in keys)]
        for entry in dropped:
            own |= self.own_files(entry)
        if tars := _tars(dropped):
            tars -= _tars(entry for key, entry in self.entries.items() if key not in keys)
            own |= {tar: sha256 for tar in tars if (sha256 := sha256_of_results(tar)) is not None}
        self._unfinished.add(own)
        for key in keys:
            del self.entries[key]
        try:
            self._rewrite()
        except BaseException:
            self._unfinished.discard(own)  # they are still in the journal
            raise

    def _rewrite(self) -> None:
        """Write the journal anew with the last line of each entry, the paths of today, and what is no record."""
        last: dict[Key, bytes] = {}  # the lines of attacks that have several, which take the place of the first
        if self._twice:
            with contextlib.suppress(FileNotFoundError):
                for line in read_lines(self._store):
                    if isinstance(line, Line) and (key := line.make_entry().key) in self._twice:
                        last[key] = self._today(line, key)
        self._store.replace(self._lasting(last))
        self._twice.clear()
        self._renamed.clear()
        self._replaced.clear()
        self._stamps = {}

    def _lasting(self, last: dict[Key, bytes]) -> Iterator[bytes]:
        """Yield the lines that stay.

        Args:
            last: of attacks that have several lines, the last one; emptied.
        """
        replaced = {entry.key for entry in self._replaced}
        for line in read_lines(self._store):
            if isinstance(line, Other):
                yield line.content
                continue
            if line is None:
                continue
            key = line.make_entry().key
            if key in replaced and key not in self._renamed:
                continue
            if self._renamed.get(key, key) not in self.entries:
                continue
            if key not in self._twice:
                yield self._today(line, key)
            elif key in last:
                yield last.pop(key)

    def _today(self, line: Line, stored: Key) -> bytes:
        """Return a line with the paths and stamps of today.

        Args:
            line: as it is stored.
            stored: its key.
        """
        key = self._renamed.get(stored, stored)
        stamps = self._stamps.get(key)
        if key == stored and stamps is None and not line.moved:
            return line.content
        record = line.record() | {"source": str(key.source)}
        if stamps is not None:
            record["stamps"] = {**(record.get("stamps") or {}), **stamps}
        return line_of(record, self.folder)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the record of each attack, with the paths of today.

        Raises:
            OutputError: the journal cannot be read.
        """
        yield from read_journal(self.folder)

    def _close(self) -> None:
        try:
            self._store.close()
        finally:
            self._unfinished.close()


def _tars(entries: Iterable[Entry]) -> set[Place]:
    """Return the archives of results whose members entries name."""
    return {tar for entry in entries for path in entry.outputs.values() if (tar := tar_of(path)) is not None}
