"""The photos of a batch, from files, folders, archives and lists, without the files that advimg wrote itself."""

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from advimg.errors import PhotoError, UsageError, unreadable
from advimg.images.decode import SUFFIXES, is_adversarial, text_chunks
from advimg.images.perturbation import PERTURBATION_KEY, shown_by
from advimg.outputs import is_report
from advimg.record import CHUNK_KEY
from advimg.storage import stores, tars
from advimg.storage.places import exists, is_folder
from advimg.storage.url import Place, Url, is_below, place

_BESIDE = re.compile(r"(.+)(?:[_.](?:perturbation|figure)|_x[\d.e+-]+)")
"""The names of the pictures beside an adversarial PNG (``outputs.plan_outputs``; with a dot, ``packed.member_name``).

The last form is that of perturbations in 0.1, whose names held the factor.
"""
_LOOKED_AT = 16
"""PNGs in a store that are looked at, at a time: each takes a request."""


@dataclass(frozen=True, slots=True)
class Found:
    """The photos that were found.

    Attributes:
        photos: absolute paths and URLs, each once, in the order they were named; folders are sorted.
        root: the deepest folder that holds all named places: outputs mirror the tree below it.
        own: the number of files left out because advimg wrote them.
    """

    photos: tuple[Place, ...]
    root: Place
    own: int = 0


def find_photos(paths: Sequence[str | Place], *, out_dir: Place, recursive: bool = False) -> Found:
    """Find the photos at paths and URLs of files, folders and tar archives.

    A named file is taken whatever its suffix; of a folder or an archive, the files with a photo's suffix. A place that
    does not exist is kept beside others, so that its attack fails with a reason like that of any photo that cannot be
    read.

    Args:
        paths: at least one.
        out_dir: the output folder; files in it are left out.
        recursive: whether to look into the folders, and the archives, of folders.

    Raises:
        PhotoError: no photo was found, a folder cannot be listed, or it is the output folder.
        UsageError: a URL of an unknown store, or photos in several stores.
    """
    named = dict.fromkeys(map(place, paths), False)
    photos: dict[Place, None] = {}
    own = 0
    in_outputs = cache(lambda folder: _is_below(folder, out_dir))
    for where in named:
        try:
            named[where] = is_folder(where)
            found = list(_listed(where, out_dir, recursive=recursive)) if named[where] else [where]
        except OSError as error:
            raise PhotoError(unreadable(where, error)) from error
        for photo, is_own in zip(found, _are_own(found), strict=True):
            if is_own or in_outputs(photo.parent):
                own += 1
            else:
                photos[photo] = None
    if not any(named.values()) and not any(map(_exists, named)):
        missing = f"{paths[0]} does not exist; check the path" if len(paths) == 1 else "none of the paths given exists"
        raise PhotoError(missing)
    if not photos:
        raise PhotoError(_nothing(paths, own=own, recursive=recursive))
    return Found(tuple(photos), common_root(each if folder else each.parent for each, folder in named.items()), own)


def common_root(folders: Iterable[Place]) -> Place:
    """Return the deepest folder that holds all folders.

    Raises:
        UsageError: they are in several stores.
    """
    first, *others = dict.fromkeys(folders)
    if isinstance(first, Path) and not any(isinstance(each, Url) for each in others):
        try:
            return Path(os.path.commonpath([str(each) for each in (first, *others)]))
        except ValueError:  # on different drives of Windows
            return first
    folders_of: tuple[Place, ...] = (first, *first.parents)
    for folder in folders_of:
        if all(is_below(each, folder) for each in others):
            return folder
    raise UsageError("the photos are in several stores, or in one and on this machine; attack those of each by itself")


def read_list(lines: Iterable[bytes], *, name: str) -> list[str]:
    """Read paths, one a line; empty lines are left out.

    Raises:
        UsageError: there is none.
    """
    paths = [os.fsdecode(line.rstrip(b"\r\n")) for line in lines]
    paths[:1] = [path.removeprefix(codecs.BOM_UTF8.decode()) for path in paths[:1]]
    paths = [path for path in paths if path.strip()]
    if not paths:
        raise UsageError(f"{name} names no photo; give one path a line")
    return paths


def is_output(photo: Place, out_dir: Place) -> bool:
    """Tell whether a file is in the output folder, or was written by advimg: a batch never attacks such files."""
    return _is_below(photo.parent, out_dir) or _is_own(photo)


def _is_below(folder: Place, out_dir: Place) -> bool:
    try:
        if isinstance(folder, Path) and isinstance(out_dir, Path):
            return folder.resolve().is_relative_to(out_dir.resolve())
        return is_below(folder, out_dir)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


def _is_own(photo: Place) -> bool:
    try:
        return is_own_picture(photo)
    except (OSError, ValueError):
        return False


def _are_own(photos: Sequence[Place]) -> Iterator[bool]:
    """Yield whether advimg wrote each of several files."""
    if not any(isinstance(photo, Url) for photo in photos):
        yield from map(_is_own, photos)
        return
    with ThreadPoolExecutor(_LOOKED_AT, thread_name_prefix="look") as pool:
        yield from pool.map(_is_own, photos)


def _listed(folder: Place, out_dir: Place, *, recursive: bool) -> Iterator[Place]:
    """Yield the photos of a folder or an archive, sorted, those of its folders after its own.

    Raises:
        OSError: a store or an archive cannot be read.
    """
    if tars.is_archive(folder):
        yield from (folder / name for name in tars.members(folder) if _is_photo(name))
        return
    if isinstance(folder, Url):
        yield from _listed_in_store(folder, out_dir, recursive=recursive)
        return
    outputs = out_dir.resolve() if isinstance(out_dir, Path) else None
    if folder.resolve() == outputs:
        raise _is_output_folder(folder)
    for path, folders, files in os.walk(folder, onerror=_cannot_list):
        inside = Path(path)
        for name in sorted(files):
            if _is_photo(name) and _may_be_read(os.path.join(path, name)):  # noqa: PTH118
                yield inside / name
            elif recursive and not name.startswith(".") and tars.is_archive(inside / name):
                yield from _listed(inside / name, out_dir, recursive=True)
        if not recursive:
            return
        inner = (Path(path, name) for name in folders if not name.startswith("."))
        folders[:] = sorted(each.name for each in inner if each.resolve() != outputs and not is_report(each))


def _listed_in_store(folder: Url, out_dir: Place, *, recursive: bool) -> Iterator[Place]:
    if folder == out_dir:
        raise _is_output_folder(folder)
    urls = [url for url, _ in stores.listed(folder, recursive=recursive) if not url.is_relative_to(out_dir)]
    reports = {url.parent for url in urls if url.name == "index.html" and is_report(url.parent)}
    for url in urls:
        hidden = any(part.startswith(".") for part in url.relative_to(folder).parts)
        if hidden or (reports and not reports.isdisjoint(url.parents)):
            continue
        if _is_photo(url.name):
            yield url
        elif recursive and url.suffix.lower() == tars.SUFFIX:
            yield from _listed(url, out_dir, recursive=True)


def _is_output_folder(folder: Place) -> PhotoError:
    return PhotoError(f"{folder} is the output folder, whose pictures are never taken as photos; choose another -O")


def _is_photo(name: str) -> bool:
    """Tell whether a file's name is that of a photo.

    Names that begin with a dot are hidden, such as the resource forks that macOS leaves on other file systems.
    """
    last = name.rpartition("/")[2]
    return not last.startswith(".") and os.path.splitext(last)[1].lower() in SUFFIXES  # noqa: PTH122 - of a member, too


def _exists(where: Place) -> bool:
    try:
        return exists(where)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


def _may_be_read(path: str) -> bool:
    """Tell whether reading a file ends: that of a pipe may not, that of a broken link fails at once."""
    return os.path.isfile(path) or not os.path.exists(path)  # noqa: PTH110, PTH113


def _cannot_list(error: OSError) -> None:
    raise PhotoError(f"the folder {error.filename} cannot be listed: {error.strerror or error}") from error


def is_own_picture(photo: Place) -> bool:
    """Tell whether advimg wrote a file: a PNG with its record, or a picture named like one that goes with it."""
    if photo.suffix.lower() != ".png":
        return False
    beside = _BESIDE.fullmatch(photo.stem)
    record, perturbation = text_chunks(photo, CHUNK_KEY, PERTURBATION_KEY)
    if record is not None or shown_by(perturbation) is not None:
        return True
    return beside is not None and is_adversarial(photo.with_name(f"{beside[1]}.png"))


def _nothing(paths: Sequence[str | Place], *, own: int, recursive: bool) -> str:
    where = f"{paths[0]}" if len(paths) == 1 else f"the {len(paths)} paths given"
    if own:
        return (
            f"{where}: only files that advimg wrote or that are in the output folder, which are never taken as photos"
        )
    hint = "" if recursive else "; --recursive looks into its folders and archives"
    return f"{where}: no photos (JPEG, PNG, WebP, BMP, TIFF, GIF){hint}"
