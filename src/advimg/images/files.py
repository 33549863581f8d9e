"""Files: hash them, write them whole or not at all, make their folders."""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from advimg.errors import DiskError, OutputError

_TEMPORARY = ".advimg-{process}-{random}.tmp"


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
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def write_whole(path: Path, data: bytes, *, overwrite: bool, check: Callable[[bytes], bool] | None = None) -> None:
    """Write ``data`` to a temporary file in the same folder, read it back, and rename it into place.

    Args:
        path: of the file.
        data: all its bytes.
        overwrite: whether an existing file is replaced.
        check: called with the bytes read back from the disk; the file does not appear if it returns False.

    Raises:
        DiskError: the disk is full, over quota or read-only.
        OutputError: the file exists, has a name that is impossible or not permitted, or did not pass ``check``.
    """
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
        if check is not None and not check(temporary.read_bytes()):
            raise OutputError(f"{path} did not read back as it was written; check the disk")
        if _is_there(path) and not overwrite:
            raise OutputError(f"{path} exists; use --force to overwrite it")
        temporary.replace(path)
    except OSError as error:
        raise _refused(f"cannot write {path}", error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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

    Only where no other process writes: its temporary files look the same.
    """
    for path in folder.rglob(_TEMPORARY.format(process="*", random="*")):
        path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    # Without the file's name, which may be as long as the file system allows.
    return path.with_name(_TEMPORARY.format(process=os.getpid(), random=secrets.token_hex(4)))
