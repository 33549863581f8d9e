"""Files: hash them, write them whole or not at all, make their folders."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from advimg.errors import DiskError, OutputError, TakenError

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\.advimg-\d+-[0-9a-f]+\.tmp")
_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})
"""What a file system says that knows no locks, no hard links or no syncing of folders."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: the name holds a NUL.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_output(path: Path, *, overwrite: bool) -> None:
    """Check before the work that ``path`` can be written after it.

    Raises:
        OutputError: its folder does not exist or cannot be written, or the file exists and ``overwrite`` is false.
    """
    folder = path.parent
    try:
        if not folder.exists():
            raise OutputError(f"the output folder {folder} does not exist; create it first")
        if not folder.is_dir():
            raise OutputError(f"the output folder {folder} is a file; choose another")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give a file name")
        if _is_there(path) and not overwrite:
            raise OutputError(f"{path} exists; use --force to overwrite it")
        probe = _beside(path)
        probe.touch(exist_ok=False)
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def write_whole(
    path: Path,
    data: bytes | Iterable[bytes],
    *,
    overwrite: bool,
    check: Callable[[bytes], bool] | None = None,
    durable: bool = False,
) -> None:
    """Write ``data`` to a temporary file in the same folder, read it back, and put it in its place.

    Args:
        path: of the file.
        data: all its bytes, or parts of them one after the other.
        overwrite: whether an existing file is replaced.
        check: called with the bytes read back from the disk; the file does not appear if it returns False.
        durable: whether the bytes are on the disk, and not only in the system's memory, before the file appears.

    Raises:
        DiskError: the disk is full, over quota or read-only.
        TakenError: the file exists.
        OutputError: its name is impossible or not permitted, or it did not pass ``check``.
    """
    temporary = None
    try:
        with contextlib.ExitStack() as held:
            temporary, file = _begun(path)
            held.enter_context(file)
            file.writelines((data,) if isinstance(data, bytes) else data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if check is not None and not check(temporary.read_bytes()):
                raise OutputError(f"{path} did not read back as it was written; check the disk")
            if sys.platform == "win32":
                held.close()  # Windows does not rename files that are open
            _put_in_place(temporary, path, overwrite=overwrite)
    except FileExistsError:
        raise TakenError(f"{path} exists; use --force to overwrite it") from None
    except OSError as error:
        raise _refused(f"cannot write {path}", error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names of a folder's files on the disk, and not only in the system's memory.

    Raises:
        DiskError: the disk does not take them.
    """
    if sys.platform == "win32":
        return  # which cannot open a folder
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise DiskError(f"cannot write to {folder}: {error.strerror or error}") from error


def make_folder(path: Path) -> list[Path]:
    """Make a folder and its parents where they do not exist.

    Returns:
        The folders that were made, the outermost first.

    Raises:
        DiskError: the disk is full, over quota or read-only.
        OutputError: its name is impossible or not permitted.
    """
    made: list[Path] = []
    try:
        for folder in (*reversed(path.parents), path):
            if folder.is_dir():
                continue
            try:
                folder.mkdir()
            except FileExistsError:  # another process made it, or it is a file
                if not folder.is_dir():
                    raise
            else:
                made.append(folder)
    except OSError as error:
        _remove_empty(made)
        raise _refused(f"cannot make the folder {path}", error) from error
    return made


@contextlib.contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Make a folder and its parents; at the end of the context remove those that were made and are still empty.

    Raises:
        DiskError: the disk is full, over quota or read-only.
        OutputError: its name is impossible or not permitted.
    """
    made = make_folder(path)
    try:
        yield
    finally:
        _remove_empty(made)


def is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a file, not a link to one, is in a folder or its subfolders, also once all links are followed."""
    return is_inside_folder(path.parent, folder) and is_file_itself(path)


def is_inside_folder(inner: Path, folder: Path) -> bool:
    """Tell whether a folder is another or below it, once all links are followed."""
    try:
        return inner.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # ValueError: a NUL in the name; RuntimeError: links in a circle
        return False


def is_file_itself(path: Path) -> bool:
    """Tell whether a path is a file, and not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def remove_others(folder: Path, own: re.Pattern[str], kept: Collection[str], *, inside: Path) -> None:
    """Remove the files of a folder whose names are this tool's, but for those that are kept.

    Args:
        folder: with the files; nothing goes where it is a link that leads elsewhere.
        own: the names that this tool gives there.
        kept: names.
        inside: the folder that it belongs to.
    """
    for path in folder.iterdir():
        if own.fullmatch(path.name) and path.name not in kept and is_inside(path, inside):
            path.unlink(missing_ok=True)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove nested folders, from the innermost to the first that is not empty."""
    with contextlib.suppress(OSError):
        for folder in reversed(folders):
            folder.rmdir()


_OF_ONE_NAME = frozenset(
    {
        errno.ENAMETOOLONG,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
    }
)


def _refused(what: str, error: OSError) -> OutputError:
    # A name that is impossible, taken or not permitted says nothing about other files.
    kind = OutputError if error.errno in _OF_ONE_NAME else DiskError
    return kind(f"{what}: {error.strerror or error}")


def _is_there(path: Path) -> bool:
    """Tell whether the name exists, even as a dangling link.

    Raises:
        OSError: the name is too long, or its folder may not be searched.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder and its subfolders.

    Those that a process is writing are locked, and stay.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            if _TEMPORARY.fullmatch(name):
                _remove_abandoned(Path(place, name))


@contextlib.contextmanager
def marker(folder: Path) -> Iterator[Path]:
    """Keep a hidden file of a name that nobody else has in a folder while the context lasts.

    Other machines look for it, to find out whether they see the same folder. One that a killed process leaves is swept.

    Raises:
        DiskError: it cannot be made.
    """
    try:
        path, file = _begun(folder / "marker")
    except OSError as error:
        raise DiskError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield path
    finally:
        file.close()
        path.unlink(missing_ok=True)


def _remove_abandoned(temporary: Path) -> None:
    """Remove a temporary file unless a process holds it locked; links and pipes of such a name stay."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            temporary.unlink()  # which fails where the file is open
            return
        descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()
        finally:
            os.close(descriptor)


def _begun(path: Path) -> tuple[Path, BinaryIO]:
    """Make a temporary file beside a path, locked while it is open.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        temporary = _beside(path)
        file = temporary.open("xb")
        try:
            if _is_held(file, temporary):
                return temporary, file
        except BaseException:
            file.close()
            temporary.unlink(missing_ok=True)
            raise
        file.close()


def _is_held(file: BinaryIO, temporary: Path) -> bool:
    """Lock a file that was just made; return False if another process has swept it away before that."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), temporary.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return True  # and nothing is swept there
        raise


def _put_in_place(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a complete file its name.

    Raises:
        FileExistsError: the name is taken, and ``overwrite`` is false.
        OSError: it cannot be done.
    """
    if overwrite:
        temporary.replace(path)
        return
    try:
        path.hardlink_to(temporary)  # which never replaces a file, as a rename would
        return
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED | {errno.EPERM, errno.EMLINK}:
            raise
    # A file system without hard links, such as FAT.
    path.touch(exist_ok=False)
    try:
        temporary.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    # Without the file's name, which may be as long as the file system allows.
    return path.with_name(f".advimg-{os.getpid()}-{secrets.token_hex(4)}.tmp")
