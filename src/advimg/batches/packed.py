"""The names of packed results, members of archives that webdataset reads: ``results-00000.tar/sub/dog_pelican.png``.

webdataset takes files for one sample whose names are the same up to the first dot of their last part, and that follow
each other. So the stem of an adversarial PNG has no dot, and the files beside it add a suffix to it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath, PurePosixPath

from advimg.storage.places import read_bytes
from advimg.storage.tars import SUFFIX, contents
from advimg.storage.url import Place

_TAR = re.compile(rf"results-(?:[A-Za-z0-9]+-)?(\d{{5,}}){re.escape(SUFFIX)}")


def tar_name(number: int, tag: str = "") -> str:
    """Return the name of an archive of results.

    Args:
        number: of the archive.
        tag: letters and digits that tell the archives of one worker from those of others.
    """
    return f"results-{f'{tag}-' * bool(tag)}{number:05}{SUFFIX}"


def first_free(names: Iterable[str], tag: str = "") -> int:
    """Return the number after those of all archives of one worker among the names of a folder's files."""
    numbers = ((name, int(found[1])) for name in names if (found := _TAR.fullmatch(name)))
    return max((number for name, number in numbers if name == tar_name(number, tag)), default=-1) + 1


def tar_of(where: Place) -> Place | None:
    """Return the archive of results that a place is in, by its name; None for any other place."""
    if SUFFIX not in str(where):
        return None
    return next((folder for folder in where.parents if _TAR.fullmatch(folder.name)), None)


def file_of(where: Place) -> Place:
    """Return the file that holds a result: the archive of a packed one, else the result itself."""
    return tar_of(where) or where


def unpacked(adversarial: Place) -> Place:
    """Return the place that an adversarial PNG has where results are not packed."""
    tar = tar_of(adversarial)
    return adversarial if tar is None else tar.parent / _inner(adversarial, tar)


def can_be_packed(adversarial: Place) -> bool:
    """Tell whether a packed result may keep the name of an adversarial PNG."""
    return "." not in adversarial.stem


def without_dots(stem: str) -> str:
    """Return the stem that a packed result has in place of another."""
    return stem.replace(".", "_")


def member_name(adversarial: PurePath, kind: str) -> str:
    """Return the name of a member within its archive.

    Args:
        adversarial: the name of the PNG, relative to the output folder.
        kind: of the file, by the record's keys.
    """
    return adversarial.with_suffix(".png" if kind == "adversarial" else f".{kind}.png").as_posix()


def record_name(adversarial: PurePath) -> str:
    """Return the name of the member with the record of a sample."""
    return adversarial.with_suffix(".json").as_posix()


def sha256_of_results(tar: Place) -> str | None:
    """Return the SHA-256 of an archive that holds nothing but samples as they were packed; None for any other."""
    try:
        data = read_bytes(tar)
        return hashlib.sha256(data).hexdigest() if _are_results(dict(contents(data))) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # of JSON that others wrote
        return None


def _are_results(files: Mapping[str, bytes]) -> bool:
    known: set[str] = set()
    for name, data in files.items():
        if name.endswith(".json"):
            told = json.loads(data)
            known |= {name, *told["outputs"].values()}
            for kind, inner in told["outputs"].items():
                if hashlib.sha256(files[inner]).hexdigest() != told["outputs_sha256"][kind]:
                    return False
    return bool(files) and known == set(files)


def _inner(where: Place, tar: Place) -> PurePosixPath:
    return PurePosixPath(where.relative_to(tar))  # type: ignore[arg-type] # both are paths, or both are URLs
