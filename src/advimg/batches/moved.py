"""Photos that were renamed or moved since an earlier run, known again by their content."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from advimg.batches.journal import KnownPhoto
from advimg.batches.journal_entry import Entry
from advimg.storage.url import Place


def moved_photos(
    photos: Iterable[Place], entries: Iterable[Entry], sha256_of: Callable[[Place], str | None]
) -> dict[KnownPhoto, Place]:
    """Return where the photos of a journal are now, for those that were renamed or moved.

    A photo that is still what it was keeps its results, so of two names of one content, both given, each has its own.

    Args:
        photos: of this run, absolute paths.
        entries: of the journal.
        sha256_of: returns the hash of a photo; None if it cannot be read. It is called for photos the journal knows by
            name and, only if the content of others is looked for, for the rest.
    """
    here = dict.fromkeys(photos)
    gone: dict[KnownPhoto, None] = {}
    kept: dict[Place, str] = {}
    for entry in entries:
        source, sha256 = entry.key.source, entry.source_sha256
        if sha256 is None or kept.get(source) == sha256:
            continue
        if source in here and sha256_of(source) == sha256:
            kept[source] = sha256
        else:
            gone[KnownPhoto(source, sha256)] = None
    if not gone:
        return {}
    lost: dict[str, list[Place]] = defaultdict(list)
    for source, sha256 in gone:
        lost[sha256].append(source)
    unknown = {photo: sha256 for photo in here if photo not in kept and (sha256 := sha256_of(photo))}
    moved: dict[KnownPhoto, Place] = {}
    for same_name in (True, False):
        for photo, sha256 in tuple(unknown.items()):
            found = [source for source in lost.get(sha256, ()) if source.name == photo.name or not same_name]
            if found:
                lost[sha256].remove(found[0])
                moved[KnownPhoto(found[0], sha256)] = photo
                del unknown[photo]
    return moved
