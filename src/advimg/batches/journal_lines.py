"""The lines of a journal: bytes to records and back, with the paths of today."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from advimg.batches.journal_entry import Entry
from advimg.batches.journal_store import Store
from advimg.errors import OutputError, RecordError
from advimg.record_schema import check_record, parse_json

_HEAD = b'{"advimg": '
"""The beginning of every journal."""

_NAMED = 10
"""How many lines that are no records are named."""


class Line(NamedTuple):
    """A line of a journal.

    Attributes:
        record: with the paths of today.
        entry: the same, as far as a later run needs it.
        moved: whether it is stored otherwise than it would be now: with the paths of an earlier version.
    """

    record: dict[str, Any]
    entry: Entry
    moved: bool


class Other(NamedTuple):
    """A line of a journal that is no record: its number from 1, its bytes, and why it is none."""

    number: int
    content: bytes
    reason: str


def tell_of_others(others: Sequence[Other], path: Path, warn: Callable[[str], None]) -> None:
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
            yield _parsed(line, store.folder)
            read += 1
        except RecordError as error:
            yield Other(number, line, str(error))
            others += 1
    if foreign or (others and not read):
        raise OutputError(f"{store.path} is no journal of advimg batch; {advice}")


def _parsed(line: bytes, folder: Path) -> Line:
    """Read a line.

    Raises:
        RecordError: it is no record of a journal.
    """
    record = parse_json(line)
    check_record(record)
    try:
        located = _located(record, folder)
        return Line(located, Entry.of(located), moved=_stored(located, folder) != record)
    except KeyError as error:
        raise RecordError(f"it has no key {error}") from None
    except TypeError:  # a record of a failure may lack what tells it from others
        raise RecordError("it names no target") from None


def _located(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a record with absolute paths.

    Earlier versions wrote absolute paths, and the folder of that time as ``out_dir``.

    Raises:
        KeyError: it lacks what the journal needs.
        RecordError: an output lies outside the folder, or is no PNG; someone has edited the journal.
    """
    before = Path(record.get("out_dir") or folder)
    hashes = record.get("outputs_sha256") or {"adversarial": record.get("adversarial_sha256")}
    if record["error"] is None and not (record["outputs"]["adversarial"] and hashes.get("adversarial")):
        raise RecordError("it names no adversarial PNG")
    try:
        outputs = {
            key: os.path.normpath(folder / (Path(path).relative_to(before) if Path(path).is_absolute() else path))
            for key, path in record["outputs"].items()
        }
        inside = all(Path(path).is_relative_to(folder) and "\0" not in path for path in outputs.values())
    except ValueError:  # it lay outside of the earlier folder, too
        inside = False
    if not inside or not all(path.endswith(".png") for path in outputs.values()):
        raise RecordError("a file of it lies outside the folder, or is none that a batch writes")
    located = {**record, "source": os.path.normpath(folder / record["source"]), "outputs": outputs}
    located.pop("out_dir", None)
    return located


def line_of(record: Mapping[str, Any], folder: Path) -> bytes:
    """Return the line of a record with absolute paths, with its end.

    Args:
        record: plain JSON values.
        folder: of the journal.
    """
    return f"{json.dumps(_stored(record, folder), allow_nan=False)}\n".encode("ascii")


def _stored(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a record as the journal of a folder stores it, with paths relative to the folder."""
    outputs = {key: _relative(path, folder) for key, path in record["outputs"].items()}
    return {**record, "source": _relative(record["source"], folder), "outputs": outputs}


def _relative(path: str, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return path
