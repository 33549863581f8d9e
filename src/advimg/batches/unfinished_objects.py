"""The files in an object store that have no record yet: which they may be is listed before the first is written.

A list for each file, as a folder on a disk has it, would be a request for each. The names of all files of a run are
known before, so that they are one object.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from advimg.batches.journal_files import sha256_or_none
from advimg.batches.photos import is_own_picture
from advimg.errors import OutputError
from advimg.storage import stores
from advimg.storage.url import Place, Url, is_below, located, relative

_LIST = re.compile(r"\d{6}-[0-9a-f]{6}/(?:plan|begun-\d{6})\.jsonl")


class UnfinishedObjects:
    """The files of an output folder that have no record yet; see :class:`advimg.batches.journal_store.Unfinished`.

    The lists have lines of a name and, where it was known, the SHA-256. Of a run that was killed, those files are
    removed that have the hash, or that are pictures of advimg, and no others.

    Args:
        folder: the URL of the output folder.
        journal: the URL of the folder with the runs.
        run: the folder of this run, below that.
        recorded: the files that records name; those are kept.
        check: raises an error if this run may no longer write.

    Raises:
        OSError: the store does not answer.
    """

    def __init__(
        self, folder: Url, journal: Url, run: Url, recorded: Iterable[Place], *, check: Callable[[], None]
    ) -> None:
        self._check = check
        self._folder = folder
        self._run = run
        self._planned: set[Place] = set()
        self._hashes: dict[Place, str] = {}
        self._own_lists: list[Url] = []
        lists = [url for url, _ in stores.listed(journal) if _LIST.fullmatch(relative(url, journal))]
        if lists:
            self._clean(lists, recorded)
            stores.remove(lists)

    def __contains__(self, path: Place) -> bool:
        """Tell whether a file is there as it was listed."""
        return path in self._hashes and sha256_or_none(path) == self._hashes[path]

    def expect(self, paths: Iterable[Place]) -> None:
        """List all the files that this run may write, before the first.

        Raises:
            DiskError: the store does not answer.
        """
        self._planned.update(paths)
        self._list("plan", ((path, None) for path in self._planned))

    def add(self, hashes: Mapping[Place, str]) -> None:
        """List files before they are written, or once their record is removed, with the SHA-256 of their bytes.

        Raises:
            DiskError: the store does not answer.
        """
        new = [(path, sha256) for path, sha256 in hashes.items() if path not in self._planned]
        self._hashes.update(hashes)
        if new:
            self._list(f"begun-{len(self._own_lists):06}", new)

    def discard(self, paths: Iterable[Place]) -> None:
        """Keep files, because they have a record."""
        for path in paths:
            self._hashes.pop(path, None)

    def close(self) -> None:
        """Remove the files that have no record, and the lists."""
        with contextlib.suppress(OSError, OutputError):  # the next run finds them in the lists
            self._check()
            stores.remove(path for path in self._hashes if isinstance(path, Url) and path in self)
            stores.remove(self._own_lists)

    def _list(self, name: str, files: Iterable[tuple[Place, str | None]]) -> None:
        lines = (json.dumps([relative(path, self._folder), sha256]) + "\n" for path, sha256 in files)
        self._own_lists.append(self._run / f"{name}.jsonl")
        with stores.errors_as(f"cannot write to {self._folder}"):
            stores.put(self._own_lists[-1], "".join(lines).encode("ascii"), overwrite=True)

    def _clean(self, lists: Iterable[Url], recorded: Iterable[Place]) -> None:
        """Remove what killed runs left."""
        there = {url for url, _ in stores.listed(self._folder)}
        there.difference_update(path for path in recorded if isinstance(path, Url))
        listed = {(path, sha256) for url in lists for path, sha256 in self._read(url) if path in there}
        # All are looked at before one is removed: a figure is known by the file beside it.
        own = [
            path
            for path, sha256 in listed
            if (sha256 is not None and sha256_or_none(path) == sha256) or is_own_picture(path)
        ]
        stores.remove(own)

    def _read(self, url: Url) -> Iterator[tuple[Url, str | None]]:
        for line in stores.read(url).splitlines():
            with contextlib.suppress(ValueError, TypeError):
                name, sha256 = json.loads(line)
                path = located(str(name), self._folder)
                if isinstance(path, Url) and is_below(path, self._folder):
                    yield path, None if sha256 is None else str(sha256)
