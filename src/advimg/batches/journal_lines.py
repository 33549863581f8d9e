"""The lines of a journal: bytes to records and back, with the paths of today."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from advimg.batches.journal_entry import Entry
from advimg.batches.journal_store import Store
from advimg.errors import OutputError, RecordError
from advimg.record_schema import check_record, parse_json
from advimg.storage.url import Place, is_below, located, path_or_url, relative

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


def _parsed(line: bytes, folder: Place) -> Line:
    """Read a line.

    Raises:
        RecordError: it is no record of a journal.
    """
    record = parse_json(line)
    check_record(record)
    try:
        today = _located(record, folder)
        return Line(today, Entry.of(today), moved=_stored(today, folder) != record)
    except KeyError as error:
        raise RecordError(f"it has no key {error}") from None
    except TypeError:  # a record of a failure may lack what tells it from others
        raise RecordError("it names no target") from None


def _located(record: Mapping[str, Any], folder: Place) -> dict[str, Any]:
    """Return a record with absolute paths.

    Earlier versions wrote absolute paths, and the folder of that time as ``out_dir``.

    Raises:
        KeyError: it lacks what the journal needs.
        RecordError: an output lies outside the folder, or is no PNG; someone has edited the journal.
    """
    before = Path(record["out_dir"]) if record.get("out_dir") else None
    hashes = record.get("outputs_sha256") or {"adversarial": record.get("adversarial_sha256")}
    if record["error"] is None and not (record["outputs"]["adversarial"] and hashes.get("adversarial")):
        raise RecordError("it names no adversarial PNG")
    try:
        outputs = {
            key: located(str(Path(path).relative_to(before)) if before and Path(path).is_absolute() else path, folder)
            for key, path in record["outputs"].items()
        }
    except ValueError:  # it lay outside of the earlier folder, too
        outputs = {"": folder.parent}
    if not all(is_below(path, folder) and "\0" not in str(path) and path.suffix == ".png" for path in outputs.values()):
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
    outputs = {key: relative(path_or_url(path), folder) for key, path in record["outputs"].items()}
    return {**record, "source": relative(path_or_url(record["source"]), folder), "outputs": outputs}
