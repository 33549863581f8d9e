"""What is done with a place, wherever it is: on this machine's disk, in an object store, or in a tar archive.

Errors are OSErrors, or ValueErrors where a name holds a NUL, as :mod:`pathlib` has them; what writes raises
OutputErrors.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from advimg.errors import DiskError, OutputError, TakenError
from advimg.storage import files, stores, tars
from advimg.storage.url import Place, Url, is_below


def read_bytes(where: Place) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: the name holds a NUL.
    """
    inside = tars.split(where)
    if inside is not None:
        return tars.read(*inside)
    return stores.read(where) if isinstance(where, Url) else where.read_bytes()


def read_beginning(where: Place, count: int) -> bytes:
    """Return the first bytes of a file.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: the name holds a NUL.
    """
    if isinstance(where, Url):
        return stores.read(where, 0, count)
    with where.open("rb") as file:
        return file.read(count)


def sha256(where: Place) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: the name holds a NUL.
    """
    if isinstance(where, Path) and tars.split(where) is None:
        return files.file_sha256(where)
    return hashlib.sha256(read_bytes(where)).hexdigest()


def exists(where: Place) -> bool:
    """Tell whether a name is taken, even by a dangling link.

    Raises:
        OSError: a store does not answer.
    """
    inside = tars.split(where)
    if inside is not None:
        return inside[1] in tars.members(inside[0])
    return stores.find(where) is not None if isinstance(where, Url) else os.path.lexists(where)


def is_file(where: Place) -> bool:
    """Tell whether a place is a file that can be read to its end, or a link to one.

    Raises:
        OSError: a store does not answer.
    """
    if isinstance(where, Url) or tars.split(where) is not None:
        return exists(where)
    return os.path.isfile(where)  # noqa: PTH113 - Path.is_file() raises on impossible names


def is_there(where: Place) -> bool:
    """Tell whether :func:`is_file` says so; False where a store does not answer."""
    try:
        return is_file(where)
    except (OSError, ValueError):
        return False


def is_folder(where: Place) -> bool:
    """Tell whether a place holds others: a folder, or an archive.

    Raises:
        OSError: a store does not answer.
    """
    if tars.is_archive(where):
        return True
    if isinstance(where, Url):
        return stores.is_folder(where)
    return os.path.isdir(where)  # noqa: PTH112 - Path.is_dir() raises on impossible names


def names_in(folder: Place) -> list[str]:
    """Return the names that are taken directly in a folder; none if it is not there. A store has no names of folders.

    Raises:
        OSError: it cannot be listed, or a store does not answer.
    """
    try:
        if isinstance(folder, Url):
            return [url.name for url, _ in stores.listed(folder, recursive=False)]
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


def is_inside(where: Place, folder: Place) -> bool:
    """Tell whether a file, not a link to one, is in a folder or its subfolders, also once all links are followed.

    Raises:
        OSError: a store does not answer.
    """
    if isinstance(where, Path) and isinstance(folder, Path):
        if (inside := tars.split(where)) is not None:
            return is_there(where) and files.is_inside(Path(str(inside[0])), folder)
        return files.is_inside(where, folder)
    return is_below(where, folder) and exists(where)


def is_same_file(one: Place, other: Place) -> bool:
    """Tell whether two places are one file, under whatever names; of places in stores, whether they are one place."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.exists() and other.exists() and one.samefile(other)
    return one == other


def write_whole(
    where: Place,
    data: bytes | Iterable[bytes],
    *,
    overwrite: bool,
    check: Callable[[bytes], bool] | None = None,
    durable: bool = False,
) -> None:
    """Write a file, read it back, and leave it only if what was read is right.

    On a disk, the file appears after it was read back (:func:`advimg.storage.files.write_whole`). In a store it appears
    first, is read back from there, and removed if it is not what it has to be.

    Args:
        where: of the file.
        data: all its bytes, or parts of them one after the other.
        overwrite: whether an existing file is replaced.
        check: called with the bytes read back.
        durable: whether the bytes are on the disk, and not only in the system's memory, before the file appears.

    Raises:
        DiskError: the disk is full, over quota or read-only; the store refuses access, or there is no such bucket.
        TakenError: the file exists.
        OutputError: its name is not possible, it did not pass ``check``, or a store does not answer.
    """
    if isinstance(where, Path):
        files.write_whole(where, data, overwrite=overwrite, check=check, durable=durable)
        return
    tars.forget(where)
    try:
        stores.put(where, data if isinstance(data, bytes) else b"".join(data), overwrite=overwrite)
        if check is None or check(stores.read(where)):
            return
        stores.remove([where])
    except FileExistsError:
        raise TakenError(f"{where} exists; use --force to overwrite it") from None
    except OSError as error:
        raise _refused(f"cannot write {where}", error) from error
    raise OutputError(f"{where} did not read back as it was written; check the store")


def remove(where: Place) -> None:
    """Remove a file; one that is gone is no error.

    Raises:
        OSError: it cannot be removed.
    """
    if isinstance(where, Url):
        tars.forget(where)
        stores.remove([where])
    else:
        where.unlink(missing_ok=True)


def remove_others(folder: Place, own: re.Pattern[str], kept: Collection[str], *, inside: Place) -> None:
    """Remove the files of a folder whose names are this tool's, but for those that are kept.

    Args:
        folder: with the files; nothing goes where it is a link that leads elsewhere.
        own: the names that this tool gives there.
        kept: names.
        inside: the folder that it belongs to.

    Raises:
        OSError: one cannot be removed.
    """
    if isinstance(folder, Path) and isinstance(inside, Path):
        files.remove_others(folder, own, kept, inside=inside)
    elif isinstance(folder, Url):
        found = [url for url, _ in stores.listed(folder, recursive=False)]
        stores.remove(url for url in found if own.fullmatch(url.name) and url.name not in kept)


def check_output(where: Place, *, overwrite: bool) -> None:
    """Check before the work that a file can be written after it.

    Raises:
        OutputError: its folder does not exist or cannot be written, or the file exists and ``overwrite`` is false.
    """
    if isinstance(where, Path):
        files.check_output(where, overwrite=overwrite)
        return
    try:
        there = exists(where)
        if not there and not stores.is_folder(Url(where.store)):
            raise OutputError(f"cannot write {where}: there is no bucket {where.store}")
    except OSError as error:
        raise _refused(f"cannot write {where}", error) from error
    if there and not overwrite:
        raise OutputError(f"{where} exists; use --force to overwrite it")


@contextlib.contextmanager
def made_folder(where: Place) -> Iterator[None]:
    """Make a folder and its parents; at the end remove those that were made and are still empty. A store needs none.

    Raises:
        DiskError: the disk is full, over quota or read-only.
        OutputError: its name is impossible or not permitted.
    """
    if isinstance(where, Url):
        yield
        return
    with files.made_folder(where):
        yield


def make_folder(where: Place) -> None:
    """Make a folder and its parents where they do not exist; a store needs none.

    Raises:
        DiskError: the disk is full, over quota or read-only.
        OutputError: its name is impossible or not permitted.
    """
    if isinstance(where, Path):
        files.make_folder(where)


def _refused(what: str, error: OSError) -> OutputError:
    # Without access, or without the bucket, no other file can be written either.
    kind = DiskError if isinstance(error, PermissionError | FileNotFoundError) else OutputError
    return kind(f"{what}: {error.strerror or error}")
