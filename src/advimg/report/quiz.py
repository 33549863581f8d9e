"""A blind test of a folder of results: photo and file of each pair in random order, and which one is the file?

The pictures are copies of both, decoded by one decoder and encoded alike, pixel for pixel: a browser decodes a JPEG a
little differently from PIL, and a name or a suffix would tell which is which.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from advimg.errors import OutputError, PhotoError
from advimg.images.encode import encode_png
from advimg.images.photo import Photo
from advimg.record_schema import record_of
from advimg.report.gallery import FOLDER
from advimg.report.hashed_file import HashedFile
from advimg.report.page import check_page, rendered
from advimg.storage.places import is_there, made_folder, remove_others, write_whole
from advimg.storage.url import Place

_PICTURES = "quiz"
_MOST = 20
"""So many pairs at most: more would tire, and 20 right of 20 by guessing is a chance of one in a million."""
_OWN = re.compile(r"[0-9a-f]{32}\.png")


@dataclass(frozen=True, slots=True)
class Pair:
    """A photo and its adversarial picture.

    Attributes:
        name: of the photo.
        photo: the file name of its copy.
        adversarial: that of the adversarial picture's copy.
        size: width and height of both, in pixels.
        measures: how visible the change is, for people.
    """

    name: str
    photo: str
    adversarial: str
    size: tuple[int, int]
    measures: str


def check_quiz(folder: Place, *, force: bool) -> Place:
    """Find out whether the quiz of a folder may be written, and return the path of its page.

    Raises:
        OutputError: there is a page of others, and not ``force``.
    """
    return check_page(folder / FOLDER / "quiz.html", force=force)


def write_quiz(records: Sequence[Mapping[str, Any]], folder: Place, *, force: bool) -> Place:
    """Write the quiz of a folder of results, or write it anew.

    Args:
        records: of the folder's journal, plain JSON values.
        folder: an absolute path.
        force: whether a page of others may be overwritten.

    Returns:
        The page.

    Raises:
        OutputError: it cannot be written, or there is no verified file whose photo is still there.
    """
    page = check_quiz(folder, force=force)
    pictures = page.parent / _PICTURES
    with made_folder(pictures):
        pairs = list(_pairs(records, pictures))
        if not pairs:
            raise OutputError(f"{folder} has no verified file whose photo is still there, so there is nothing to ask")
        write_whole(page, rendered("quiz", name=folder.name, pairs=pairs, pictures=_PICTURES), overwrite=True)
        kept = {name for pair in pairs for name in (pair.photo, pair.adversarial)}
        remove_others(pictures, _OWN, kept, inside=folder)
    return page


def _pairs(records: Sequence[Mapping[str, Any]], folder: Place) -> Iterator[Pair]:
    """Yield the first pairs of a fixed but arbitrary order; one of a photo, which would be known the second time."""
    # Where nothing changed, the photo was its target from the start, and there is nothing to tell apart.
    verified = [record for record in records if record["error"] is None and record["fooled"] and record["linf"]]
    shuffled = sorted(verified, key=lambda record: str(record["adversarial_sha256"]))
    by_photo = {record["source_sha256"]: record for record in reversed(shuffled)}
    left = _MOST
    for record in reversed(by_photo.values()):
        if left == 0:
            return
        photo = HashedFile(record["source"], record["source_sha256"], "photo")
        adversarial = HashedFile(record["outputs"]["adversarial"], record["adversarial_sha256"], "adversarial PNG")
        try:
            before, after = photo.photo, adversarial.photo
        except PhotoError:
            continue
        visibility = record_of(record).visibility
        yield Pair(
            name=PurePath(record["source"]).name,
            photo=_copied(before, folder),
            adversarial=_copied(after, folder),
            size=before.size,
            measures=visibility.measures if visibility else "",
        )
        left -= 1


def _copied(photo: Photo, folder: Place) -> str:
    """Write a picture as a PNG of its pixels alone, and return its name, which tells nothing."""
    name = f"{hashlib.sha256(photo.sha256.encode()).hexdigest()[:32]}.png"
    if not is_there(folder / name):
        data = encode_png(photo.levels, alpha=photo.alpha, icc_profile=photo.icc_profile)
        write_whole(folder / name, data, overwrite=True)
    return name
