"""Objects in stores, through fsspec: one attempt after another, and errors as those of a disk.

The errors are OSErrors whose ``strerror`` is a line without credentials: FileNotFoundError, PermissionError,
FileExistsError, and :class:`StoreError` for a store that does not answer.
"""

import contextlib
import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from advimg.errors import DiskError, UsageError, first_line
from advimg.storage.url import STORES, Url

_Answer = TypeVar("_Answer")

TRIES = 6
"""How often a store is asked that does not answer, or asks to slow down."""
_FIRST_WAIT = 0.5
"""Seconds before the second attempt; before each further one twice as many, so 15 s in all."""
_S3 = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}
"""For botocore: seconds after which an attempt has failed, and no attempts that it makes by itself."""

_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|SAS|CONNECTION_STRING")
"""In the names of environment variables whose values are credentials."""
_STAMPS = ("ETag", "etag", "md5Hash", "generation", "blob_id")
"""What stores say of an object that is another once its bytes are, in the order of preference."""


class StoreError(OSError):
    """A store does not answer, or refuses what it is asked for reasons of its own."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object as a store lists it.

    Attributes:
        stamp: another one, once its bytes are others.
        size: in bytes.
    """

    stamp: str
    size: int


@contextlib.contextmanager
def errors_as(what: str) -> Iterator[None]:
    """Turn what a store answers into an error of one line.

    Args:
        what: could not be done.

    Raises:
        DiskError: the store refuses, or does not answer.
    """
    try:
        yield
    except OSError as error:
        raise DiskError(f"{what}: {error.strerror or error}") from error


def read(url: Url, begin: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes of an object, or those from ``begin`` to before ``end``.

    Raises:
        OSError: as the module says.
    """
    try:
        data: bytes = _asked(url, lambda files: files.cat_file(str(url), start=begin, end=end))
    except StoreError as error:
        if begin is None or error.errno != errno.EINVAL:
            raise
        return b""  # there is nothing from there on, as HTTP says with 416
    return data


def fetch(url: Url, path: Path) -> None:
    """Copy an object to a file of this machine, without holding it in memory.

    Raises:
        OSError: as the module says.
    """
    _asked(url, lambda files: files.get_file(str(url), str(path)))


def put(url: Url, data: bytes, *, overwrite: bool) -> None:
    """Store an object.

    Args:
        url: its place.
        data: its bytes.
        overwrite: whether one that is there is replaced. If not, the store itself sees to it, where it can
            (``If-None-Match``, as S3, Google Cloud and Azure have it); else the name is looked up before.

    Raises:
        OSError: as the module says.
    """
    if overwrite:
        _asked(url, lambda files: files.pipe_file(str(url), data))
        return
    attempts = 0

    def create(files: Any) -> None:
        nonlocal attempts
        attempts += 1
        if files.exists(str(url)):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(url))
        try:
            files.pipe_file(str(url), data, mode="create")
        except OSError as error:
            if error.errno != errno.ENOSYS:  # as OpenStack Swift says, which knows no such condition
                raise
            files.pipe_file(str(url), data)

    try:
        _asked(url, create)
    except FileExistsError:
        # The answer to an earlier attempt may be what was lost.
        if attempts == 1 or read(url) != data:
            raise


def find(url: Url) -> Found | None:
    """Return an object as the store lists it; None if there is none of this name.

    Raises:
        OSError: as the module says.
    """
    try:
        info = _asked(url, lambda files: files.info(str(url)))
    except FileNotFoundError:
        return None
    return _found(info) if info["type"] == "file" else None


def is_folder(url: Url) -> bool:
    """Tell whether there are objects below a URL.

    Raises:
        OSError: as the module says.
    """
    if not url.key:
        try:
            _asked(url, lambda files: files.info(str(url)))  # which tells a refusal from an absence, unlike exists()
        except FileNotFoundError:
            return False
        return True
    return bool(_asked(url, lambda files: files.isdir(str(url))))


def listed(folder: Url, *, recursive: bool = True) -> Iterator[tuple[Url, Found]]:
    """Yield the objects of a folder, sorted by name; none if there is no such folder.

    Raises:
        OSError: as the module says; FileNotFoundError if there is no such bucket.
    """
    depth = None if recursive else 1
    found: Mapping[str, Mapping[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError):  # as some stores say of a folder without objects
        found = _asked(folder, lambda files: files.find(str(folder), maxdepth=depth, detail=True))
    if not found and not _asked(folder, lambda files: files.exists(folder.store)):
        raise FileNotFoundError(errno.ENOENT, "there is no such bucket", folder.store)
    # fsspec leaves the scheme out; some stores' names begin with a slash.
    own = str(folder).partition("://")[2]
    for name in sorted(found):
        inner = name.strip("/").removeprefix(own).strip("/")
        if inner:
            yield folder / inner, _found(found[name])


def remove(urls: Iterable[Url]) -> None:
    """Remove objects; one that is gone is no error.

    Raises:
        OSError: as the module says.
    """
    for url in urls:
        with contextlib.suppress(FileNotFoundError):
            _remove(url)


def _remove(url: Url) -> None:
    _asked(url, lambda files: files.rm_file(str(url)))


def _found(info: Mapping[str, Any]) -> Found:
    size = int(info.get("size") or 0)
    tag = next((info[name] for name in _STAMPS if info.get(name)), None)
    if tag is None:
        tag = next((info[name] for name in ("LastModified", "mtime", "created") if info.get(name)), "")
    return Found(f"{size}-{str(tag).strip(chr(34))}", size)


def _asked(url: Url, ask: Callable[[Any], _Answer]) -> _Answer:
    """Ask a store, again and again if need be.

    Raises:
        OSError: as the module says.
        UsageError: the package for this kind of store is not installed.
    """
    files = file_system(url.scheme)
    for attempt in range(1, TRIES + 1):
        try:
            return ask(files)
        except Exception as error:
            answer = _as_of_a_disk(error, url)
            if answer is None:
                raise
            if not isinstance(answer, StoreError) or answer.errno == errno.EINVAL or attempt == TRIES:
                raise answer from None  # whose text may hold more than a person is to see
        time.sleep(_FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1))
    raise AssertionError("unreachable")


@cache
def file_system(scheme: str) -> Any:
    """Return fsspec's file system for URLs that begin so, one for a process.

    Raises:
        UsageError: its package is not installed.
        PermissionError: it lacks what the environment has to tell it.
    """
    import fsspec

    package, extra = STORES[scheme]
    options: dict[str, Any] = {}
    if scheme == "s3":
        options["config_kwargs"] = dict(_S3)
        if "AWS_REQUEST_CHECKSUM_CALCULATION" not in os.environ:
            # Many stores that speak S3 refuse botocore's checksums; what is written is read back in any case.
            options["config_kwargs"]["request_checksum_calculation"] = "when_required"
    try:
        files = fsspec.filesystem(scheme, use_listings_cache=False, **options)
    except ImportError:
        raise UsageError(f"{scheme}:// needs the package {package}: pip install 'advimg-cli[{extra}]'") from None
    except Exception as error:  # such as an account that no variable names
        raise PermissionError(
            errno.EACCES, f"{scheme}:// cannot be used ({without_secrets(first_line(error))})"
        ) from None
    if scheme == "s3":
        files.retries = 1  # of its own, which take no argument
    return files


def _as_of_a_disk(error: Exception, url: Url) -> OSError | None:
    """Return what a disk would raise; None for what is no answer of a store."""
    text = without_secrets(first_line(error).partition(": ")[2] or type(error).__name__)
    module = type(error).__module__.partition(".")[0]
    if isinstance(error, FileExistsError) or _refuses_to_replace(error):
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(url))
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such object, or no such bucket", str(url))
    if isinstance(error, PermissionError) or _status(error) in (401, 403):
        return PermissionError(errno.EACCES, f"the store refuses access ({text})", str(url))
    if "Credential" in type(error).__name__ or "Authentication" in type(error).__name__:
        return PermissionError(errno.EACCES, f"the store was given no valid credentials ({text})", str(url))
    if isinstance(error, OSError | TimeoutError) or module in _CLIENTS:
        number = errno.EINVAL if getattr(error, "errno", None) == errno.EINVAL or _status(error) == 416 else errno.EIO
        return StoreError(number, f"the store failed ({text})", str(url))
    return None


_CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "httpx", "huggingface_hub", "requests"}
"""The packages whose errors are those of a connection, or of a store."""


def _refuses_to_replace(error: BaseException) -> bool:
    """Tell whether a store says that a name is taken: it answers 412 (RFC 9110, section 15.5.13), or 409 meanwhile."""
    cause = error.__cause__ or error
    response = getattr(cause, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code in ("PreconditionFailed", "ConditionalRequestConflict") or _status(error) == 412


def _status(error: BaseException) -> int | None:
    """Return the status of the HTTP answer that an error is about, as the clients of Azure and Google name it."""
    for each in (error, error.__cause__):
        for name in ("status_code", "code", "status"):
            value = getattr(each, name, None)
            if type(value) is int:
                return value
    return None


def without_secrets(text: str) -> str:
    """Return a text without the values of environment variables that hold credentials, and without signed queries."""
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET.search(name.upper()):
            text = text.replace(value, "…")
    return re.sub(r"(https?://[^\s?]+)\?\S*", r"\1?…", text)
