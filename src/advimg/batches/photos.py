"""The photos of a batch, from files, folders and lists, without the files that advimg wrote itself."""

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from advimg.errors import PhotoError, UsageError
from advimg.images.decode import SUFFIXES, is_adversarial
from advimg.images.perturbation import shown_in
from advimg.outputs import is_report

_BESIDE = re.compile(r"(.+)_(?:perturbation|figure|x[\d.e+-]+)")
"""The names of the pictures beside an adversarial PNG (``outputs.plan_outputs``).

The last form is that of perturbations in 0.1, whose names held the factor.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """The photos that were found.

    Attributes:
        photos: absolute paths, each once, in the order they were named; folders are sorted.
        root: the deepest folder that holds all named paths: outputs mirror the tree below it.
        own: the number of files left out because advimg wrote them.
    """

    photos: tuple[Path, ...]
    root: Path
    own: int = 0


def find_photos(paths: Sequence[str | Path], *, out_dir: Path, recursive: bool = False) -> Found:
    """Find the photos at paths of files and folders.

    A named file is taken whatever its suffix; of a folder, the files with a photo's suffix. A path that does not exist
    is kept beside others, so that its attack fails with a reason like that of any photo that cannot be read.

    Args:
        paths: at least one.
        out_dir: the output folder; files in it are left out.
        recursive: whether to look into the folders of folders.

    Raises:
        PhotoError: no photo was found, a folder cannot be listed, or it is the output folder.
    """
    named = [absolute(path) for path in paths]
    photos: dict[Path, None] = {}
    own = 0
    outputs = out_dir.resolve()
    in_outputs = cache(lambda folder: _is_below(folder, outputs))
    for path in named:
        for photo in _listed(path, outputs, recursive=recursive) if _is_folder(path) else (path,):
            if in_outputs(photo.parent) or _is_own(photo):
                own += 1
            else:
                photos[photo] = None
    if not any(map(os.path.lexists, named)):
        missing = f"{paths[0]} does not exist; check the path" if len(paths) == 1 else "none of the paths given exists"
        raise PhotoError(missing)
    if not photos:
        raise PhotoError(_nothing(paths, own=own, recursive=recursive))
    return Found(tuple(photos), common_root(path if _is_folder(path) else path.parent for path in named), own)


def common_root(paths: Iterable[Path]) -> Path:
    """Return the deepest folder that holds all folders."""
    folders = list(paths)
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # on different drives of Windows
        return folders[0]


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


def absolute(path: str | Path) -> Path:
    """Return an absolute path, without following links: a link keeps its own name and folder."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def is_output(photo: Path, out_dir: Path) -> bool:
    """Tell whether a file is in the output folder, or was written by advimg: a batch never attacks such files."""
    return _is_below(photo.parent, out_dir.resolve()) or _is_own(photo)


def _is_below(folder: Path, outputs: Path) -> bool:
    try:
        return folder.resolve().is_relative_to(outputs)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


def _is_own(photo: Path) -> bool:
    try:
        return is_own_picture(photo)
    except (OSError, ValueError):
        return False


def _listed(folder: Path, outputs: Path, *, recursive: bool) -> Iterator[Path]:
    """Yield the photos of a folder, sorted, those of its folders after its own."""
    if folder.resolve() == outputs:
        raise PhotoError(f"{folder} is the output folder, whose pictures are never taken as photos; choose another -O")
    for path, folders, files in os.walk(folder, onerror=_cannot_list):
        # Names that begin with a dot are hidden, such as the resource forks that macOS leaves on other file systems.
        place = Path(path)
        for name in sorted(files):
            # Without making a path of it: a folder may have a million files.
            is_photo = not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122
            if is_photo and _may_be_read(os.path.join(path, name)):  # noqa: PTH118
                yield place / name
        if not recursive:
            return
        inner = (Path(path, name) for name in folders if not name.startswith("."))
        folders[:] = sorted(each.name for each in inner if each.resolve() != outputs and not is_report(each))


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir() raises on impossible names


def _may_be_read(path: str) -> bool:
    """Tell whether reading a file ends: that of a pipe may not, that of a broken link fails at once."""
    return os.path.isfile(path) or not os.path.exists(path)  # noqa: PTH110, PTH113


def _cannot_list(error: OSError) -> None:
    raise PhotoError(f"the folder {error.filename} cannot be listed: {error.strerror or error}") from error


def is_own_picture(photo: Path) -> bool:
    """Tell whether advimg wrote a file: a PNG with its record, or a picture named like one that goes with it."""
    if photo.suffix.lower() != ".png":
        return False
    beside = _BESIDE.fullmatch(photo.stem)
    if is_adversarial(photo) or shown_in(photo) is not None:
        return True
    return beside is not None and is_adversarial(photo.with_name(f"{beside[1]}.png"))


def _nothing(paths: Sequence[str | Path], *, own: int, recursive: bool) -> str:
    where = f"{paths[0]}" if len(paths) == 1 else f"the {len(paths)} paths given"
    if own:
        return (
            f"{where}: only files that advimg wrote or that are in the output folder, which are never taken as photos"
        )
    hint = "" if recursive else "; --recursive looks into its folders"
    return f"{where}: no photos (JPEG, PNG, WebP, BMP, TIFF, GIF){hint}"
