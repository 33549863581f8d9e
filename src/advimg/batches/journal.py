"""The journal of an output folder, ``results.jsonl``: one record a line, written as each attack ends.

A line is a record (:mod:`advimg.record`) with ``adversarial_sha256``, the hash of the PNG that was written, and
``outputs_sha256``, the hashes of all its files; that of a failure has ``tried_with``, the options it depends on. Where
several attacks took turns, ``worst_case`` names them, and ``attack`` is the one that gave the file. The paths in a line
are relative to the folder, so photos and results can be moved or copied together; here, and in what ``--json`` prints,
they are absolute.
A record is appended after its files are in place, in one write, so a killed process can damage the last line only.
Files that have no record yet are listed in a second, hidden file, with their hashes, and removed when the journal is
closed, or by the next run: a folder holds the files that its journal names.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from advimg.batches.journal_files import LineFile, UnfinishedFiles, locked, sha256_or_none
from advimg.batches.photos import is_own_picture
from advimg.batches.plan import Key
from advimg.errors import OutputError, RecordError
from advimg.images.decode import is_adversarial
from advimg.images.files import is_inside, made_folder, sweep, write_whole
from advimg.record_schema import check_record, parse_json
from advimg.settings import Settings, described

NAME = "results.jsonl"

_HEAD = b'{"advimg": '
"""The beginning of every journal."""

_NAMED = 10
"""How many lines that are no records are named."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The journal's record of one attack, as far as a later run needs it.

    Attributes:
        source_sha256: of the photo that was attacked; None where it could not be read.
        outputs: the files that were written, by the record's keys.
        outputs_sha256: the hashes of these files, by the same keys; of the PNG alone in journals of earlier versions.
        settings: as :func:`folder_settings` returns them.
        error: why there is no result; None if there is one.
        tried_with: of a failure, what it may depend on (:meth:`advimg.batches.options.Options.tried_with`).
        fooled: whether the file shows the target.
        gradients: passes through the network.
        checked: whether the file fools each network that took no part, by its name.
        unanswered: why programs that took no part gave no answer, by their names.
        delta_e: the mean colour difference CIEDE2000 of what changed; None where nothing did or it was not measured.
    """

    key: Key
    source_sha256: str | None
    outputs: dict[str, Path]
    outputs_sha256: dict[str, str]
    settings: dict[str, Any]
    error: str | None
    tried_with: dict[str, Any] | None
    fooled: bool
    gradients: int
    checked: dict[str, bool]
    unanswered: dict[str, str] = field(default_factory=dict)
    delta_e: float | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Read a record that is known to be one."""
        target = record["target_rule"] or record["target"]["index"]
        return cls(
            key=Key(Path(record["source"]), target, "auto" if record["max_eps"] is not None else record["eps"]),
            source_sha256=record["source_sha256"],
            outputs={key: Path(path) for key, path in record["outputs"].items()},
            outputs_sha256=dict(
                record["outputs_sha256"]
                if "outputs_sha256" in record
                else {"adversarial": record["adversarial_sha256"]}
            ),
            settings=folder_settings(record),
            error=record["error"],
            tried_with=record.get("tried_with"),
            fooled=record["fooled"],
            gradients=record["gradients"] or 0,
            checked=checked_in(record),
            unanswered={seen["model"]: seen["error"] for seen in record["checked"] if seen.get("error")},
            delta_e=(record.get("visibility") or {}).get("delta_e_mean"),
        )


def folder_settings(record: Mapping[str, Any], kind: type[Settings] = Settings) -> dict[str, Any]:
    """Return what has to be the same in a whole folder: the networks, and every setting that changes results but eps.

    Of several networks each value is a list; ``check_on`` names those that took no part.

    Args:
        record: plain JSON values.
        kind: the class of the settings.
    """
    networks = [record, *record["ensemble"]]
    values: dict[str, Any] = {name: record[name] for name in ("model", "weights_sha256", "view")}
    if len(networks) > 1:
        values = {name: [network[name] for network in networks] for name in values}
    values["check_on"] = list(checked_in(record))
    compared = (each for each in described(kind) if each.about.changes_results and each.name != "eps")
    values |= {each.recorded: each.read(record) for each in compared}
    if record.get("worst_case"):
        values["attack"] = ",".join(record["worst_case"])  # and not the one of them that gave this file
    return values


def checked_in(record: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether the file fools each network that took no part, by its name."""
    return {seen["model"]: seen["fooled"] for seen in record["checked"]}


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], *, same_eps: bool = True, kind: type[Settings] = Settings
) -> list[str]:
    """Say in which :func:`folder_settings` two records differ, for a person.

    Args:
        there: of the one record.
        here: of the other.
        same_eps: whether both have the same eps; if not, settings that depend on it are passed over.
        kind: the class of the settings.
    """
    by_eps = {each.recorded for each in described(kind) if each.about.by_eps}
    return [
        f"{name} {_in_words(there[name])} there, {_in_words(here[name])} here"
        for name in here
        if there[name] != here[name] and (same_eps or name not in by_eps)
    ]


def _in_words(value: object) -> str:
    return "unset" if value is None else str(value)


def read_records(folder: Path, *, warn: Callable[[str], None] = warnings.warn) -> list[dict[str, Any]]:
    """Return the records of :func:`read_attacks`."""
    return list(read_attacks(folder, warn=warn).values())


def read_attacks(folder: Path, *, warn: Callable[[str], None] = warnings.warn) -> dict[Key, dict[str, Any]]:
    """Return the last record of each attack in a folder's journal, with the paths of today.

    Nothing is locked and nothing changed, so a batch may be writing there; an incomplete last line is left out.

    Args:
        folder: an absolute path.
        warn: called with a line for a person, if lines of the journal are no records.

    Raises:
        OutputError: there is no journal, or it cannot be read.
    """
    attacks: dict[Key, dict[str, Any]] = {}
    others: list[_Other] = []
    try:
        for line in _read_lines(folder / NAME, advice="give a folder that it wrote to"):
            if isinstance(line, _Line):
                attacks[line.entry.key] = line.record
            elif line is not None:
                others.append(line)
    except FileNotFoundError:
        raise OutputError(f"{folder / NAME} does not exist; give a folder that advimg batch wrote to") from None
    _tell_of_others(others, folder / NAME, warn)
    return attacks


class KnownPhoto(NamedTuple):
    """A photo as a journal knows it: its path at that time, and the SHA-256 of its bytes."""

    source: Path
    sha256: str


class Journal:
    """The journal of a folder, locked against other processes; use :meth:`opened`.

    A line that is no record is left in its place and does not count.

    Attributes:
        folder: the output folder.
        entries: the attacks it held when it was opened and still holds, by key.
    """

    def __init__(self, folder: Path, *, warn: Callable[[str], None] = warnings.warn) -> None:
        self.folder = folder
        self.entries: dict[Key, Entry] = {}
        self._renamed: dict[Key, Key] = {}  # the keys of entries whose photos were moved, by those on the disk
        self._replaced: list[Entry] = []  # entries in whose place those of moved photos come
        self._path = folder / NAME
        repair = False
        others: list[_Other] = []
        with contextlib.suppress(FileNotFoundError):
            for line in _read_lines(self._path):
                if isinstance(line, _Other):
                    others.append(line)
                    continue
                repair = repair or line is None or line.moved or line.entry.key in self.entries
                if line is not None:
                    self.entries[line.entry.key] = line.entry
        _tell_of_others(others, self._path, warn)
        sweep(folder)
        if repair:
            self._rewrite()
        self._file = LineFile(self._path)
        self._unfinished = UnfinishedFiles(
            folder, {path for entry in self.entries.values() for path in entry.outputs.values()}
        )

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, *, warn: Callable[[str], None] = warnings.warn) -> Iterator[Self]:
        """Make the folder if it is not there, lock it, and repair what a killed process left.

        Folders that were made and are still empty at the end are removed.

        Args:
            folder: an absolute path.
            warn: called with a line for a person, if lines of the journal are no records.

        Raises:
            OutputError: another process writes there, the folder cannot be written, or the file is not a journal.
        """
        with made_folder(folder), locked(folder):
            journal = cls(folder, warn=warn)
            try:
                yield journal
            finally:
                journal._close()

    def begin(self, hashes: Mapping[Path, str]) -> set[Path]:
        """List files that are about to be written, with the SHA-256 of their bytes.

        Returns:
            Those that are there already and may be replaced: they are of an attack that no longer has a record.

        Raises:
            DiskError: the disk is full.
        """
        replaced = {path for path in hashes if path in self._unfinished}
        self._unfinished.add(hashes)
        return replaced

    def own_files(self, entry: Entry) -> dict[Path, str]:
        """Return the files of an attack that are certainly those that were written, with their SHA-256.

        They are in the folder, and have the bytes that were recorded. A PNG that was altered but holds the record of an
        attack counts, too. In journals of earlier versions other pictures count that are named after such a PNG.
        """
        own = {}
        for kind, path in entry.outputs.items():
            sha256 = sha256_or_none(path) if is_inside(path, self.folder) else None
            recorded = entry.outputs_sha256.get(kind)
            if sha256 is not None and (
                sha256 == recorded or (is_own_picture(path) if recorded is None else is_adversarial(path))
            ):
                own[path] = sha256
        return own

    def rename(self, moved: Mapping[KnownPhoto, Path]) -> None:
        """Take over where photos are now; the file is changed by :meth:`remove`.

        Results that a photo of other content has left under such a name are removed with it.
        """
        for old, entry in self.entries.items():
            now = moved.get(KnownPhoto(old.source, entry.source_sha256 or ""))
            if now is not None:
                self._renamed[old] = old._replace(source=now)
        arrived = {new: replace(self.entries.pop(old), key=new) for old, new in self._renamed.items()}
        self._replaced += [self.entries[key] for key in arrived if key in self.entries]
        self.entries |= arrived

    def append(self, *records: Mapping[str, Any]) -> None:
        """Add records, after their files are in place.

        Args:
            records: plain JSON values, each with ``outputs_sha256`` and absolute paths.

        Raises:
            DiskError: the disk is full; the journal is as it was before.
        """
        # A failure that is lost when the power fails is found again.
        lines = [json.dumps(_stored(record, self.folder), allow_nan=False) for record in records]
        self._file.append(*lines, durable=any(record["error"] is None for record in records))
        for record in records:
            self._unfinished.discard(map(Path, record["outputs"].values()))

    def remove(self, keys: Collection[Key]) -> None:
        """Remove the records of attacks that are to be repeated; their files are unfinished until then."""
        if not keys and not self._renamed:
            return
        own: dict[Path, str] = {}
        for entry in (*self._replaced, *(self.entries[key] for key in keys)):
            own |= self.own_files(entry)
        self._unfinished.add(own)
        for key in keys:
            del self.entries[key]
        self._file.close()
        try:
            self._rewrite()
        except BaseException:
            self._unfinished.discard(own)  # they are still in the journal
            raise
        self._file = LineFile(self._path)

    def _rewrite(self) -> None:
        """Write the journal anew with the last line of each entry, the paths of today, and what is no record."""
        replaced = {entry.key for entry in self._replaced}
        lines: dict[Key | int, bytes] = {}
        for line in _read_lines(self._path):
            if isinstance(line, _Other):
                lines[line.number] = line.content
                continue
            if line is None or (line.entry.key in replaced and line.entry.key not in self._renamed):
                continue
            key = self._renamed.get(line.entry.key, line.entry.key)
            if key in self.entries:
                record = line.record | {"source": str(key.source)}
                lines[key] = f"{json.dumps(_stored(record, self.folder))}\n".encode("ascii")
        write_whole(self._path, b"".join(lines.values()), overwrite=True, durable=True)
        self._renamed.clear()
        self._replaced.clear()

    def _close(self) -> None:
        self._file.close()
        self._unfinished.close()
        with contextlib.suppress(OSError):
            if not self._path.stat().st_size:
                self._path.unlink()


class _Line(NamedTuple):
    """A line of a journal.

    Attributes:
        record: with the paths of today.
        entry: the same, as far as a later run needs it.
        moved: whether it is stored otherwise than it would be now: with the paths of an earlier version.
    """

    record: dict[str, Any]
    entry: Entry
    moved: bool


class _Other(NamedTuple):
    """A line of a journal that is no record: its number from 1, its bytes, and why it is none."""

    number: int
    content: bytes
    reason: str


def _tell_of_others(others: Sequence[_Other], path: Path, warn: Callable[[str], None]) -> None:
    """Name the lines that are no records, in one line for a person."""
    if others:
        numbers = ", ".join(str(other.number) for other in others[:_NAMED]) + (", …" if len(others) > _NAMED else "")
        which = f"line {numbers} is no record" if len(others) == 1 else f"lines {numbers} are no records"
        warn(f"{path}: {which} ({others[0].reason}); left as it is, the others count")


def _read_lines(path: Path, *, advice: str = "choose another -O") -> Iterator[_Line | _Other | None]:
    """Yield the lines of a journal; None for one that a crash has left incomplete at the end, or without content.

    Raises:
        FileNotFoundError: there is no such file.
        OutputError: it is not a journal, or cannot be read.
    """
    read = others = 0
    try:
        with path.open("rb") as file:
            foreign = not _HEAD.startswith(file.read(len(_HEAD)))
            file.seek(0)
            for number, line in enumerate(() if foreign else file, 1):
                if not line.endswith(b"\n"):
                    yield None
                    break  # its end may be written while this loop runs
                if not line.strip(b"\0\r\n"):  # a block that never came to the disk reads as zeros
                    yield None
                    continue
                try:
                    yield _parsed(line, path.parent)
                    read += 1
                except RecordError as error:
                    yield _Other(number, line, str(error))
                    others += 1
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    if foreign or (others and not read):
        raise OutputError(f"{path} is no journal of advimg batch; {advice}")


def _parsed(line: bytes, folder: Path) -> _Line:
    """Read a line.

    Raises:
        RecordError: it is no record of a journal.
    """
    record = parse_json(line)
    check_record(record)
    try:
        located = _located(record, folder)
        return _Line(located, Entry.of(located), moved=_stored(located, folder) != record)
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


def _stored(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a record as the journal of a folder stores it, with paths relative to the folder."""
    outputs = {key: _relative(path, folder) for key, path in record["outputs"].items()}
    return {**record, "source": _relative(record["source"], folder), "outputs": outputs}


def _relative(path: str, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return path
