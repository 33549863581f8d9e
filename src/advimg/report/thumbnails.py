"""Small pictures of attacks: the photo, the adversarial picture, and the perturbation amplified.

A picture is named after the hashes of the files it was made of, so one that is there need not be made again, and a
photo that is gone is still shown as it was.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from advimg.errors import PhotoError
from advimg.images.decode import decode_photo
from advimg.images.perturbation import amplified, factor_for, shown_in
from advimg.images.photo import Levels
from advimg.images.scaling import fit, pick_pixels, resample
from advimg.report.hashed_file import HashedFile
from advimg.storage.places import is_there, read_bytes, write_whole
from advimg.storage.url import Place, place_of

_LONGEST = 448
_LONGEST_PERTURBATION = 320
_QUALITY = 85
_FORM = "2"
"""Goes into each name; another, once thumbnails are made in another way."""
OWN = re.compile(r"[0-9a-f]{32}\.jpg")
"""The names of thumbnails."""
_FACTOR_IN_NAME = re.compile(r"_x([\d.e+-]+)$")
"""As perturbations of 0.1 say it."""
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Pictures:
    """The thumbnails of one attack, by their file names; None for those that there are not.

    Attributes:
        size: of the photo and the adversarial picture as they are shown.
        factor: of the perturbation, as people write it.
        notes: what is missing, and why, in sentences.
    """

    photo: str | None
    adversarial: str | None
    perturbation: str | None
    size: tuple[int, int]
    factor: str
    notes: tuple[str, ...]

    @property
    def names(self) -> set[str]:
        """The names of the files."""
        return {name for name in (self.photo, self.adversarial, self.perturbation) if name is not None}


def make_thumbnails(
    records: Sequence[Mapping[str, Any]], folder: Place, made: Callable[[int], None] = lambda _: None
) -> list[Pictures]:
    """Make the thumbnails of attacks that are not in a folder yet.

    Args:
        records: of attacks that did not fail.
        folder: for the thumbnails; it is there.
        made: called with how many attacks have theirs.

    Returns:
        For each record its pictures.

    Raises:
        DiskError: the disk takes no more.
    """
    by_photo: dict[tuple[str, str], list[int]] = {}
    for place, record in enumerate(records):
        by_photo.setdefault((record["source"], record["source_sha256"]), []).append(place)

    def of_one_photo(places: Sequence[int]) -> dict[int, Pictures]:
        # The photo is read at most once.
        photo = HashedFile(records[places[0]]["source"], records[places[0]]["source_sha256"], "photo")
        return {place: _of_one_attack(records[place], photo, folder) for place in places}

    found: dict[int, Pictures] = {}
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="thumbnail") as pool:
        try:
            for pictures in pool.map(of_one_photo, by_photo.values()):
                found |= pictures
                made(len(found))
        finally:
            pool.shutdown(cancel_futures=True)
    return [found[place] for place in range(len(records))]


def _of_one_attack(record: Mapping[str, Any], photo: HashedFile, folder: Place) -> Pictures:
    width, height = record["size"]
    adversarial = HashedFile(record["outputs"]["adversarial"], record["adversarial_sha256"], "adversarial PNG")
    notes: list[str] = []
    before, after = _shown(photo, folder, notes), _shown(adversarial, folder, notes)
    perturbation, factor = _perturbation(record, photo, adversarial, folder)
    return Pictures(before, after, perturbation, _small((width, height), _LONGEST), factor, tuple(notes))


def _shown(file: HashedFile, folder: Place, notes: list[str]) -> str | None:
    """Return the name of a picture's thumbnail."""
    name = _name("picture", file.sha256)
    if is_there(folder / name):
        if not file.is_there:
            notes.append(file.gone)
        return name
    try:
        photo = file.photo
    except PhotoError as error:
        notes.append(str(error))
        return None
    _save(folder / name, resample(photo.levels, _small(photo.size, _LONGEST)), icc_profile=photo.icc_profile)
    return name


def _perturbation(
    record: Mapping[str, Any], photo: HashedFile, adversarial: HashedFile, folder: Place
) -> tuple[str | None, str]:
    """Return the name of the perturbation's thumbnail and its factor.

    It is made of the two pictures; where one is not to be had, of the perturbation's own file.
    """
    factor = factor_for("auto", record["linf"])
    name = _name("perturbation", f"{factor:g}", photo.sha256, adversarial.sha256)
    if is_there(folder / name):
        return name, f"{factor:g}"
    try:
        before, after = photo.photo, adversarial.photo
        if before.size == after.size:
            size = _small(before.size, _LONGEST_PERTURBATION)
            old, new = (pick_pixels(each.levels, size) for each in (before, after))
            _save(folder / name, amplified(old, new, factor))
            return name, f"{factor:g}"
    except PhotoError:
        pass
    file = place_of(record["outputs"].get("perturbation", ""))
    shown, in_name = shown_in(file), _FACTOR_IN_NAME.search(file.stem)
    if shown is None and in_name is None:
        return None, ""
    written = f"{shown.factor:g}" if shown is not None else in_name[1] if in_name is not None else ""
    name = _name("perturbation's file", written, photo.sha256, adversarial.sha256)
    if not is_there(folder / name):
        try:
            own = decode_photo(read_bytes(file), source=file.name)
        except (OSError, ValueError, PhotoError):
            return None, ""
        _save(folder / name, pick_pixels(own.levels, _small(own.size, _LONGEST_PERTURBATION)))
    return name, written


def _small(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the size of a thumbnail, never larger than the picture is."""
    width, height = size
    return fit(width, height, min(width, longest), min(height, longest))


def _name(*parts: str) -> str:
    return f"{hashlib.sha256(' '.join((_FORM, *parts)).encode()).hexdigest()[:32]}.jpg"


def _save(path: Place, levels: Levels, *, icc_profile: bytes | None = None) -> None:
    buffer = io.BytesIO()
    # Without subsampling: half of what an attack changes is colour.
    Image.fromarray(levels).save(buffer, "JPEG", quality=_QUALITY, subsampling=0, icc_profile=icc_profile)
    write_whole(path, buffer.getvalue(), overwrite=True)
