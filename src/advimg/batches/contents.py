"""Whether the files of a journal still hold what was recorded; those with the recorded stamp are not read for it."""

from collections.abc import Iterable

from advimg.batches.journal_entry import Entry, Written
from advimg.batches.journal_files import sha256_or_none
from advimg.batches.stamps import stamp_before_reading, stamp_of
from advimg.storage.listing import Listing
from advimg.storage.places import exists
from advimg.storage.url import Place, Url, place_of


class Contents:
    """The contents of photos and pictures, each found out once.

    Args:
        entries: of the journal.
        folders: of photos and results; those in a store are listed once.

    Attributes:
        read: the new stamps of photos and pictures that had to be read, by their paths; None where it would hide a
            change.
    """

    def __init__(self, entries: Iterable[Entry], folders: Iterable[Place]) -> None:
        self._listing = Listing(folders)
        self._recorded = {entry.key.source: entry for entry in entries if entry.source_stamp is not None}
        self._photos: dict[Place, str | None] = {}
        self.read: dict[str, str | None] = {}

    def sha256_of(self, photo: Place) -> str | None:
        """Return the SHA-256 of a photo; None if it cannot be read."""
        if photo not in self._photos:
            entry = self._recorded.get(photo)
            if entry is not None and self._stamp_of(photo) == entry.source_stamp:
                self._photos[photo] = entry.source_sha256
            else:
                self.read[str(photo)] = stamp_before_reading(photo)
                self._photos[photo] = sha256_or_none(photo)
        return self._photos[photo]

    def holds(self, file: Written) -> bool:
        """Tell whether a picture is there with the bytes that were recorded."""
        if file.stamp is not None and self._stamp_of(place_of(file.path)) == file.stamp:
            return True
        stamp = stamp_before_reading(file.path)
        if file.sha256 is None or sha256_or_none(place_of(file.path)) != file.sha256:
            return False
        self.read[file.path] = stamp
        return True

    def is_there(self, path: Place) -> bool:
        """Tell whether a name is taken."""
        return self._listing.stamp(path) is not None if isinstance(path, Url) else exists(path)

    def _stamp_of(self, path: Place) -> str | None:
        return self._listing.stamp(path) if isinstance(path, Url) else stamp_of(path)

    def stamps_of(self, entry: Entry) -> dict[str, str]:
        """Return the new stamps of a finished attack's files, those that had to be read, by the keys in its line."""
        paths = {each.kind: each.path for each in entry.files}
        if self._photos.get(entry.key.source) == entry.source_sha256:  # and not of a target that this run lacks
            paths["source"] = str(entry.key.source)
        return {kind: stamp for kind, path in paths.items() if (stamp := self.read.get(path)) is not None}
