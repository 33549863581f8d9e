"""Where the lines of a journal are: the interface that a :class:`advimg.batches.journal.Journal` needs.

What lines mean is the journal's business. A store keeps them in order, and the list of the files that have none yet.
:class:`advimg.batches.journal_files.FolderStore` keeps them in a local folder,
:class:`advimg.batches.journal_segments.SegmentStore` in an object store.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from advimg.storage.url import Place


class Unfinished(Protocol):
    """The files of an output folder that have no record yet, listed where the next process finds them.

    Only a file that is in the list, in the folder, and has the bytes that were listed is ever removed.
    """

    def __contains__(self, path: Place) -> bool:
        """Tell whether a file is there as it was listed."""

    def expect(self, paths: Iterable[Place]) -> None:
        """Take note of all the files that a run may write, before the first.

        Raises:
            DiskError: nothing can be written there.
        """

    def add(self, hashes: Mapping[Place, str]) -> None:
        """List files before they are written, or once their record is removed, with the SHA-256 of their bytes.

        Raises:
            DiskError: the disk is full.
        """

    def discard(self, paths: Iterable[Place]) -> None:
        """Keep files, because they have a record."""

    def close(self) -> None:
        """Remove the files that have no record, and the list."""


class Store(Protocol):
    """The lines of one folder's journal.

    All but :meth:`read` is called while the context of :meth:`locked` lasts, by one process at a time.
    """

    @property
    def folder(self) -> Place:
        """The output folder."""

    @property
    def path(self) -> Place:
        """What messages call the journal."""

    def locked(self) -> AbstractContextManager[None]:
        """Make the folder, and keep other processes out while the context lasts; remove what is empty at its end.

        Raises:
            OutputError: another process writes there, or the folder cannot be written.
        """

    def is_there(self) -> bool:
        """Tell whether there is a journal, be it empty.

        Raises:
            OSError: it cannot be told.
        """

    def read(self) -> Iterator[bytes]:
        """Yield the lines, each with its end; the last may lack it, if it is not complete.

        Raises:
            FileNotFoundError: there is no journal.
            OutputError: it cannot be read.
        """

    def open(self) -> None:
        """Make ready to append, and remove temporary files that killed processes left.

        Raises:
            DiskError: nothing can be written there.
        """

    def append(self, lines: Sequence[bytes], *, durable: bool) -> None:
        """Add lines at the end, all of them or none; safe to use from several threads.

        Args:
            lines: each with its end.
            durable: whether they outlive a power failure afterwards.

        Raises:
            DiskError: the disk is full; the lines are as they were before.
        """

    def flush(self) -> None:
        """Have all lines where :meth:`read` finds them.

        Raises:
            DiskError: they cannot be written.
        """

    def replace(self, lines: Iterable[bytes]) -> None:
        """Put other lines in the place of all; the old ones can be read until the last new one was taken.

        Raises:
            DiskError: the disk is full; the lines are as they were before.
        """

    def unfinished(self, recorded: Iterable[Place]) -> Unfinished:
        """Return the list of unfinished files, once those that a killed process left are removed.

        Args:
            recorded: the files that records name; those are kept. It is gone through only if there is a list.
        """

    def close(self) -> None:
        """Stop appending; a journal without lines is removed."""
