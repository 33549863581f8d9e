"""Places: paths of this machine, and URLs of object stores, which behave alike as far as names go.

fsspec's universal_pathlib has such a type, too, but takes 100 to 300 µs for each path it makes or compares with
another: minutes for a plan of a million photos.
"""

import os
import posixpath
import re
from functools import total_ordering
from pathlib import Path, PurePath, PurePosixPath

from advimg.errors import UsageError

STORES = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "az": ("adlfs", "az"),
    "hf": ("huggingface_hub", "hf"),
    "memory": ("fsspec", ""),
}
"""The stores by the schemes of their URLs: the package that fsspec needs, and the extra that brings it."""

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)


@total_ordering
class Url:
    """The place of an object, or of a folder of objects, such as ``s3://bucket/photos/dog.jpg``.

    It is pure text, and has those methods of a :class:`pathlib.PurePath` that are needed here. An object store has no
    links and knows no ``..``, so names are taken as they are.

    Args:
        text: the URL; slashes at its end are left out.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text.rstrip("/") if text.rstrip("/").find("://") >= 0 else text

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Url({self._text!r})"

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and self._text == other._text

    def __lt__(self, other: "Url") -> bool:
        return self._text.split("/") < other._text.split("/")

    def __truediv__(self, name: str | PurePath) -> "Url":
        inner = name.as_posix() if isinstance(name, PurePath) else name
        return self if inner in ("", ".") else Url(f"{self._text}/{inner}")

    @property
    def scheme(self) -> str:
        """The name of the protocol, such as ``s3``."""
        return self._text.partition("://")[0]

    @property
    def store(self) -> str:
        """The URL of the bucket: what all names are relative to."""
        return str(self)[: len(self._text) - len(self.key)].rstrip("/")

    @property
    def key(self) -> str:
        """The name within the bucket; empty for the bucket itself."""
        return self._text.partition("://")[2].partition("/")[2]

    @property
    def parent(self) -> "Url":
        """The folder; a bucket is its own."""
        return Url(self._text.rpartition("/")[0]) if self.key else self

    @property
    def parents(self) -> tuple["Url", ...]:
        """The folders, from the innermost to the bucket."""
        found, folder = [], self
        while folder.key:
            folder = folder.parent
            found.append(folder)
        return tuple(found)

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self._text.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part of the name, without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    def with_name(self, name: str) -> "Url":
        """Return the place of this name in the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "Url":
        """Return the place with another suffix, or with none."""
        return self.parent / f"{self.stem}{suffix}"

    def is_relative_to(self, folder: "Place") -> bool:
        """Tell whether a folder is this place or holds it."""
        return isinstance(folder, Url) and (self == folder or self._text.startswith(f"{folder}/"))

    def relative_to(self, folder: "Place") -> PurePosixPath:
        """Return the name within a folder.

        Raises:
            ValueError: the folder does not hold it.
        """
        if not self.is_relative_to(folder):
            raise ValueError(f"{self} is not in {folder}")
        return PurePosixPath(self._text[len(str(folder)) + 1 :])


Place = Path | Url
"""Where bytes are: a path of this machine, or the URL of an object."""


def is_below(where: Place, folder: Place) -> bool:
    """Tell whether a place is a folder or in it, by their names."""
    if isinstance(where, Url):
        return where.is_relative_to(folder)
    return isinstance(folder, Path) and where.is_relative_to(folder)


def is_url(text: object) -> bool:
    """Tell whether what a person wrote is a URL, and not a path."""
    return _URL.fullmatch(str(text)) is not None


def place(text: str | Place) -> Place:
    """Return the place that a person wrote: a URL, or a path, which is made absolute without following links.

    Raises:
        UsageError: no such kind of store, no bucket, or a URL that holds a password or a signature.
    """
    if isinstance(text, Url):
        return text
    if not is_url(text):
        return Path(os.path.abspath(text))  # noqa: PTH100 - a link keeps its own name and folder
    scheme, _, rest = str(text).partition("://")
    url = Url(f"{scheme.lower()}://{rest}")
    shown = _without_secrets(str(text))
    if url.scheme not in STORES:
        known = ", ".join(f"{scheme}://" for scheme in STORES)
        raise UsageError(f"{shown}: advimg does not know {url.scheme}://; it knows {known}")
    if shown != str(text) or _SIGNED.search(str(text)):
        raise UsageError(f"{shown}: leave credentials out of URLs; they belong into the store's environment variables")
    if not str(url).partition("://")[2].partition("/")[0]:
        raise UsageError(f"{shown} names no bucket")
    return url


def path_or_url(text: str | Place) -> Place:
    """Return what :func:`place` does, but a path as it was written.

    Raises:
        UsageError: as there.
    """
    return place(text) if is_url(text) else Path(str(text))


def located(text: str, folder: Place) -> Place:
    """Return the place that a text names which :func:`relative` gave for this folder."""
    if is_url(text):
        return Url(text)
    if isinstance(folder, Path):
        return Path(os.path.normpath(folder / text))
    if os.path.isabs(text):  # noqa: PTH117 - a photo of this machine, and results in a store
        return Path(text)
    inner = posixpath.normpath(posixpath.join("/", folder.key, text))
    return Url(f"{folder.store}{inner}")


def relative(where: Place, folder: Place) -> str:
    """Return a place as it is stored in a folder: relative to it, where both are on one disk or in one bucket."""
    if isinstance(where, Path) and isinstance(folder, Path):
        try:
            return os.path.relpath(where, folder)
        except ValueError:  # on another drive of Windows
            return str(where)
    if isinstance(where, Url) and isinstance(folder, Url) and where.store == folder.store:
        name = posixpath.relpath(f"/{where.key}", f"/{folder.key}")
        return name if located(name, folder) == where else str(where)  # a key may hold what paths leave out: a//b
    return str(where)


def place_of(text: str | Place) -> Place:
    """Return the place that a record or a listing names, whatever its characters: nobody wrote it by hand."""
    if isinstance(text, Url | Path):
        return text
    return Url(text) if is_url(text) else Path(text)


def _without_secrets(url: str) -> str:
    """Return a URL without a password, which may hold slashes, and without a query that is a signature."""
    scheme, _, rest = url.partition("://")
    if ":" in rest.partition("/")[0]:
        return f"{scheme}://…{rest[rest.rindex('@') :] if '@' in rest else ''}"
    return re.sub(r"\?.*", "?…", url, flags=re.DOTALL) if _SIGNED.search(url) else url


_SIGNED = re.compile(r"\?.*\b(?:sig|signature|token|X-Amz-[\w-]+|X-Goog-[\w-]+|AWSAccessKeyId)=", re.IGNORECASE)
"""A query that lets whoever has it read the object."""
