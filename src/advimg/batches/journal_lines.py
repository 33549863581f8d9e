"""The lines of a journal: bytes to records and back, with the paths of today."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from advimg.batches.journal_entry import Entry, SharedEntries
from advimg.batches.journal_store import Store
from advimg.errors import OutputError, RecordError, first_line
from advimg.record_schema import check_record, parse_json, read_ended
from advimg.storage.url import Place, Url, is_below, is_url, located, place_of, relative

_HEAD = b'{"advimg": '
"""The beginning of every journal."""

_NAMED = 10
"""How many lines that are no records are named."""

_NEEDED = (b'"ensemble": ', b'"checked": ', b'"error": null')
"""What a line holds, besides what has no default, that can be read by its types."""


class Line(NamedTuple):
    """A line of a journal that is a record.

    Attributes:
        content: its bytes.
        source: the photo, an absolute path.
        outputs: the files that were written, absolute paths.
        moved: whether it is stored otherwise than it would be now: with the paths of an earlier version.
        make_entry: returns what it says, as far as a later run needs it.
    """

    content: bytes
    source: str
    outputs: dict[str, str]
    moved: bool
    make_entry: Callable[[], Entry]

    def record(self) -> dict[str, Any]:
        """Return the record, with the paths of today."""
        record: dict[str, Any] = _plain(self.content) | {"source": self.source, "outputs": self.outputs}
        record.pop("out_dir", None)
        if record.get("adversarial_sha256") is None:  # named among those of all files, as others may write it
            record["adversarial_sha256"] = (record.get("outputs_sha256") or {}).get("adversarial")
        return record


class Other(NamedTuple):
    """A line of a journal that is no record: its number from 1, its bytes, and why it is none."""

    number: int
    content: bytes
    reason: str


def tell_of_others(others: Sequence[Other], path: Place, warn: Callable[[str], None]) -> None:
    """Name the lines that are no records, in one line for a person."""
    if others:
        numbers = ", ".join(str(other.number) for other in others[:_NAMED]) + (", …" if len(others) > _NAMED else "")
        which = f"line {numbers} is no record" if len(others) == 1 else f"lines {numbers} are no records"
        warn(f"{path}: {which} ({others[0].reason}); left as it is, the others count")


def read_lines(store: Store, *, advice: str = "choose another -O") -> Iterator[Line | Other | None]:
    """Yield the lines of a journal; None for one that a crash has left incomplete at the end, or without content.

    Raises:
        FileNotFoundError: there is no journal.
        OutputError: it is not a journal, or cannot be read.
    """
    read = others = 0
    foreign = False
    reader = LineReader(store.folder)
    for number, line in enumerate(store.read(), 1):
        if number == 1 and not _HEAD.startswith(line[: len(_HEAD)]):
            foreign = True
            break
        if not line.endswith(b"\n"):
            yield None
            break  # its end may be written while this loop runs
        if not line.strip(b"\0\r\n"):  # a block that never came to the disk reads as zeros
            yield None
            continue
        try:
            yield reader.parsed(line)
            read += 1
        except RecordError as error:
            yield Other(number, line, str(error))
            others += 1
    if foreign or (others and not read):
        raise OutputError(f"{store.path} is no journal of advimg batch; {advice}")


class LineReader:
    """Reads the lines of one journal; equal folders and settings are looked at once.

    Args:
        folder: of the journal, an absolute path.
    """

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._entries = SharedEntries()
        self._folders: dict[str, tuple[str, bool]] = {}  # how their paths begin today, and whether they are in this one

    def parsed(self, content: bytes) -> Line:
        """Read a line.

        Raises:
            RecordError: it is no record of a journal.
        """
        return self._quickly(content) or _parsed(content, self._folder)

    def _quickly(self, content: bytes) -> Line | None:
        """Read the line of an attack that wrote files, as this version stores it; None if it is another."""
        read = read_ended(content) if all(needed in content for needed in _NEEDED) else None
        if read is None or read.out_dir is not None:
            return None
        hashes = {"adversarial": read.adversarial_sha256} if read.outputs_sha256 is None else read.outputs_sha256
        if not (read.outputs.get("adversarial") and hashes.get("adversarial")):
            return None
        source = self._located(read.source)
        outputs: dict[str, str] = {}
        for kind, path in read.outputs.items():
            today = self._located(path, output=True)
            if today is None:
                return None
            outputs[kind] = today
        if source is None:
            return None
        return Line(content, source, outputs, False, partial(self._entries.entry_of, read, source, outputs))

    def _located(self, path: str, *, output: bool = False) -> str | None:
        """Return a path today; None if it is not one that this version stores.

        Args:
            path: as it is stored.
            output: whether only a picture in the folder will do.
        """
        separator = "/" if is_url(path) or isinstance(self._folder, Url) else os.sep
        within, found, name = path.rpartition(separator)
        within += found
        beginning, inside = self._folders.get(within) or self._looked_at(within, separator)
        odd = not beginning or name in ("", ".", "..") or "\0" in path or (os.altsep is not None and os.altsep in name)
        return None if odd or (output and not (inside and name.endswith(".png"))) else beginning + name

    def _looked_at(self, within: str, separator: str) -> tuple[str, bool]:
        """Return how paths begin in a folder as it is stored, and whether they are in this one.

        They begin with "" where the folder would be stored otherwise now.
        """
        folder = located(within, self._folder)
        beginning = f"{folder}{'' if str(folder).endswith(separator) else separator}"
        as_now = relative(folder / "x", self._folder) == f"{within}x"
        self._folders[within] = beginning if as_now else "", is_below(folder, self._folder)
        return self._folders[within]


def _parsed(content: bytes, folder: Place) -> Line:
    """Read any line.

    Raises:
        RecordError: it is no record of a journal.
    """
    record = parse_json(content)
    check_record(record)
    try:
        today = _located(record, folder)
        entry = Entry.of(today)
        moved = _stored(today, folder) != record
        return Line(content, today["source"], today["outputs"], moved, lambda: entry)
    except KeyError as error:
        raise RecordError(f"it has no key {error}") from None
    except TypeError:  # a record of a failure may lack what tells it from others
        raise RecordError("it names no target") from None
    except (AttributeError, ValueError) as error:  # what the schema lets through, and no batch writes
        raise RecordError(first_line(error)) from None


def _plain(content: bytes) -> Any:
    """Return the values of a line that is known to be a record."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, ValueError):  # half of a surrogate pair, which names that are no UTF-8 have
        return parse_json(content)


def _located(record: Mapping[str, Any], folder: Place) -> dict[str, Any]:
    """Return a record with absolute paths.

    Earlier versions wrote absolute paths, and the folder of that time as ``out_dir``.

    Raises:
        KeyError: it lacks what the journal needs.
        RecordError: an output lies outside the folder, or is no PNG; someone has edited the journal.
    """
    before = Path(record["out_dir"]) if record.get("out_dir") else folder
    hashes = record.get("outputs_sha256") or {"adversarial": record.get("adversarial_sha256")}
    if record["error"] is None and not (record["outputs"]["adversarial"] and hashes.get("adversarial")):
        raise RecordError("it names no adversarial PNG")
    try:
        outputs = {
            key: located(str(Path(path).relative_to(str(before))) if Path(path).is_absolute() else path, folder)
            for key, path in record["outputs"].items()
        }
        inside = all(is_below(path, folder) and "\0" not in str(path) for path in outputs.values())
    except ValueError:  # it lay outside of the earlier folder, too
        inside = False
    if not inside or not all(path.name.endswith(".png") for path in outputs.values()):
        raise RecordError("a file of it lies outside the folder, or is none that a batch writes")
    texts = {key: str(path) for key, path in outputs.items()}
    today = {**record, "source": str(located(record["source"], folder)), "outputs": texts}
    today.pop("out_dir", None)
    return today


def line_of(record: Mapping[str, Any], folder: Place) -> bytes:
    """Return the line of a record with absolute paths, with its end.

    Args:
        record: plain JSON values.
        folder: of the journal.
    """
    return f"{json.dumps(_stored(record, folder), allow_nan=False)}\n".encode("ascii")


def _stored(record: Mapping[str, Any], folder: Place) -> dict[str, Any]:
    """Return a record as the journal of a folder stores it, with paths relative to the folder."""
    outputs = {key: relative(place_of(path), folder) for key, path in record["outputs"].items()}
    return {**record, "source": relative(place_of(record["source"]), folder), "outputs": outputs}
