"""The journal of an output folder, ``results.jsonl``: one record a line, written as each attack ends.

A line is a record (:mod:`advimg.record`) with ``adversarial_sha256``, the hash of the PNG that was written, and
``out_dir``, the folder: a folder that was moved or copied gets the paths of its new place when it is opened.
A record is appended after its files are in place, in one write, so a process that is killed leaves a whole journal but
for its last line. Before files are written their names go into a second, hidden list: what stands there and not in the
journal was left by a killed process, and is removed. So a folder holds what its journal says, whatever happened.
"""

import contextlib
import errno
import io
import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from filelock import FileLock, Timeout

from advimg.batch.plan import Key
from advimg.errors import DiskError, OutputError
from advimg.images.files import made_folder, sweep, write_whole
from advimg.settings import Settings, described

NAME = "results.jsonl"
_LOCK = ".advimg.lock"
_CLAIMS = ".advimg.unfinished"

_HEAD = b'{"advimg": '
"""What every journal begins with."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal holds of one attack.

    Attributes:
        source_sha256: of the photo that was attacked; None where it could not be read.
        outputs: the files that were written, by the record's keys.
        adversarial_sha256: of the adversarial PNG.
        settings: as :func:`folder_settings` returns them.
        error: why there is no result; None if there is one.
        fooled: whether the file shows the target.
        gradients: passes through the network.
        checked: whether the file fools each network that took no part, by its name.
    """

    key: Key
    source_sha256: str | None
    outputs: dict[str, Path]
    adversarial_sha256: str | None
    settings: dict[str, Any]
    error: str | None
    fooled: bool
    gradients: int
    checked: dict[str, bool]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Read a record.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: it is none.
        """
        target = record["target_rule"] or record["target"]["index"]
        return cls(
            key=Key(Path(record["source"]), target, "auto" if record["max_eps"] is not None else record["eps"]),
            source_sha256=record["source_sha256"],
            outputs={key: Path(path) for key, path in record["outputs"].items()},
            adversarial_sha256=record["adversarial_sha256"],
            settings=folder_settings(record),
            error=record["error"],
            fooled=record["fooled"],
            gradients=record["gradients"] or 0,
            checked=checked_in(record),
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
    return values | {each.recorded: record[each.recorded] for each in compared}


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


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return what a folder's journal holds now, as :func:`read_attacks` does, each attack once."""
    return list(read_attacks(folder).values())


def read_attacks(folder: Path) -> dict[Key, dict[str, Any]]:
    """Return what a folder's journal holds now, by attack, with the paths of today.

    Nothing is locked and nothing changed, so a batch may be writing there; a last line that is not whole is passed
    over.

    Args:
        folder: an absolute path.

    Raises:
        OutputError: there is no journal, or it cannot be read.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise OutputError(f"{path} does not exist; give a folder that advimg batch wrote to") from None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    whole = data[: data.rfind(b"\n") + 1]
    try:
        if not _HEAD.startswith(data[: len(_HEAD)]):
            raise _no_journal(path)
        lines = [_parsed(line, folder) for line in whole.splitlines()]
    except OutputError:
        raise OutputError(f"{path} is no journal of advimg batch; give a folder that it wrote to") from None
    return {line.entry.key: line.record for line in lines if line is not None}


class Journal:
    """The journal of a folder, locked against other processes; use :meth:`opened`.

    Attributes:
        folder: the output folder.
        entries: what it held when it was opened and still holds, by key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / NAME
        self._claims = folder / _CLAIMS
        self._lock = threading.Lock()
        self.entries, state = self._read()
        sweep(folder)
        if state.torn is not None:
            _cut(self._path, state.torn)
        if state.odd:
            self._rewrite()
        recorded = {path for entry in self.entries.values() for path in entry.outputs.values()}
        self._claimed = set(_read_claims(self._claims)) - recorded
        self._remove_claimed()
        self._file = _append_to(self._path)
        self._claims_file = _append_to(self._claims)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path) -> Iterator[Self]:
        """Make the folder if it is not there, lock it, and mend what a killed process left.

        If nothing comes of it, the folders that were made go again.

        Raises:
            OutputError: another process writes there, the folder cannot be written, or the file is another's.
        """
        with made_folder(folder), _locked(folder):
            journal = cls(folder)
            try:
                yield journal
            finally:
                journal._close()

    def owns(self, path: Path) -> bool:
        """Tell whether a file is of an attack of this folder that the journal does not hold, or no longer."""
        return path in self._claimed

    def claim(self, paths: Iterable[Path]) -> None:
        """Note that files are about to be written. Those that are there already, and are others', are passed over.

        Raises:
            DiskError: the disk takes no more.
        """
        new = [path for path in paths if path not in self._claimed and not os.path.lexists(path)]
        self._note(new)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record, after its files are in place.

        Args:
            record: plain JSON values, with ``adversarial_sha256`` and ``out_dir``.

        Raises:
            DiskError: the disk takes no more; the journal is as it was before.
        """
        with self._lock:
            _write_line(self._file, json.dumps(record, allow_nan=False))
            self._claimed.difference_update(map(Path, record["outputs"].values()))

    def drop(self, keys: Collection[Key]) -> None:
        """Take records out, whose attacks shall be made anew; their files are owned until then."""
        if not keys:
            return
        paths = {path for key in keys for path in self.entries[key].outputs.values()}
        self._note(paths)
        for key in keys:
            del self.entries[key]
        self._file.close()
        try:
            self._rewrite()
        except BaseException:
            self._claimed -= paths  # for they are still in the journal
            raise
        self._file = _append_to(self._path)

    def _note(self, paths: Iterable[Path]) -> None:
        with self._lock:
            for path in paths:
                _write_line(self._claims_file, json.dumps(os.path.relpath(path, self.folder)))
                self._claimed.add(path)

    def _read(self) -> "tuple[dict[Key, Entry], _State]":
        """Read the journal.

        Raises:
            OutputError: it is no journal, or cannot be read.
        """
        entries: dict[Key, Entry] = {}
        lines = whole = 0
        torn: int | None = None
        moved = False
        try:
            with self._path.open("rb") as file:
                head = file.read(len(_HEAD))
                if not _HEAD.startswith(head):
                    raise _no_journal(self._path)
                file.seek(0)
                for line in file:
                    if not line.endswith(b"\n"):
                        torn = whole
                        break
                    whole, lines = whole + len(line), lines + 1
                    parsed = _parsed(line, self.folder)
                    if parsed is not None:
                        entries[parsed.entry.key] = parsed.entry
                        moved = moved or parsed.moved
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(f"cannot read {self._path}: {error.strerror or error}") from error
        return entries, _State(torn, odd=moved or lines > len(entries))

    def _rewrite(self) -> None:
        """Write the journal anew with one line for each entry: the last that was written, with the paths of today."""
        lines: dict[Key, bytes] = {}
        for line in self._path.read_bytes().splitlines(keepends=True):
            parsed = _parsed(line, self.folder)
            if parsed is not None and parsed.entry.key in self.entries:
                lines[parsed.entry.key] = json.dumps(parsed.record).encode("ascii") + b"\n"
        write_whole(self._path, b"".join(lines.values()), overwrite=True)

    def _remove_claimed(self) -> None:
        """Remove the files that no record names."""
        while self._claimed:
            with contextlib.suppress(OSError):
                self._claimed.pop().unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._claims.unlink(missing_ok=True)

    def _close(self) -> None:
        self._file.close()
        self._claims_file.close()
        self._remove_claimed()
        with contextlib.suppress(OSError):
            if not self._path.stat().st_size:
                self._path.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder while the context lasts.

    Raises:
        OutputError: another process writes there, or the folder cannot be written.
    """
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(f"another advimg batch is writing to {folder}; wait for it, or choose another -O") from None
    except OSError as error:
        raise DiskError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove files that are open
            (folder / _LOCK).unlink(missing_ok=True)
        lock.release()


class _State(NamedTuple):
    """In what state a journal was found.

    Attributes:
        torn: where its torn last line begins, if it has one.
        odd: whether it has to be written anew.
    """

    torn: int | None
    odd: bool


class _Line(NamedTuple):
    """A line of a journal.

    Attributes:
        record: with the paths of today.
        entry: what it says.
        moved: whether the paths were others.
    """

    record: dict[str, Any]
    entry: Entry
    moved: bool


def _parsed(line: bytes, folder: Path) -> _Line | None:
    """Read a line; None where a crash of the machine left one that cannot be read."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    try:
        placed = _placed(record, folder)
        return _Line(placed, Entry.of(placed), moved=placed != record)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise _no_journal(folder / NAME) from None


def _placed(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a record whose outputs are where the folder is now.

    Raises:
        ValueError: an output lies outside the folder.
    """
    there = Path(record.get("out_dir", folder))
    outputs = {key: os.path.normpath(folder / Path(path).relative_to(there)) for key, path in record["outputs"].items()}
    if not all(_is_within(path, folder) for path in outputs.values()):
        raise ValueError("a file of the journal lies outside its folder")
    return {**record, "outputs": outputs} | ({"out_dir": str(folder)} if there != folder else {})


def _is_within(path: str | Path, folder: Path) -> bool:
    """Tell whether a path leads into a folder; whoever changed a journal shall not have other files removed by it."""
    return Path(path).is_relative_to(folder)


def _no_journal(path: Path) -> OutputError:
    return OutputError(f"{path} is no journal of advimg batch; choose another -O")


def _read_claims(path: Path) -> Iterator[Path]:
    """Yield the files that were to be written; a torn last line names one that was not begun."""
    with contextlib.suppress(OSError):
        for line in path.read_bytes().splitlines(keepends=True):
            with contextlib.suppress(ValueError, TypeError):
                claimed = Path(os.path.normpath(path.parent / json.loads(line)))
                if line.endswith(b"\n") and _is_within(claimed, path.parent):
                    yield claimed


def _append_to(path: Path) -> io.FileIO:
    try:
        return io.FileIO(path, "ab")
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error


def _write_line(file: io.FileIO, text: str) -> None:
    """Append a line in one write, or nothing."""
    data = text.encode("ascii") + b"\n"
    before = os.fstat(file.fileno()).st_size
    try:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        with contextlib.suppress(OSError):
            file.truncate(before)
        raise DiskError(f"cannot write {file.name!s}: {error.strerror or error}") from error


def _cut(path: Path, length: int) -> None:
    try:
        os.truncate(path, length)
    except OSError as error:
        raise DiskError(f"cannot mend {path}: {error.strerror or error}") from error
