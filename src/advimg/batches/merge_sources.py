"""The journals that are merged: which record of each attack counts, and where it is.

Only keys and places of lines are held, so journals may be larger than memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from advimg.batches.journal import store_of
from advimg.batches.journal_entry import Entry, differences
from advimg.batches.journal_files import sha256_or_none
from advimg.batches.journal_lines import Line as RecordLine
from advimg.batches.journal_lines import LineReader
from advimg.batches.shards import Attack, Shard, WrittenShare, read_share
from advimg.errors import OutputError, RecordError, unreadable
from advimg.settings import Eps
from advimg.storage.url import Place

NAMED = 10
"""How many attacks and files of a kind are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class Source:
    """A folder whose journal is merged.

    Attributes:
        folder: an absolute path.
        share: what it is to make, if it is a shard's.
    """

    folder: Place
    share: WrittenShare | None = None

    @classmethod
    def of(cls, folder: Place) -> "Source | None":
        """Return a folder with a journal, or of a shard; None if it is neither.

        Raises:
            OutputError: a file of it cannot be read.
        """
        share = read_share(folder)
        return cls(folder, share) if share or has_journal(folder) else None

    @property
    def shard(self) -> Shard | None:
        """Which shard it is of, if it is one's."""
        return Shard.parse(self.share.shard) if self.share else Shard.of_folder(self.folder.name)


class Line(NamedTuple):
    """Where a record is.

    Attributes:
        source: the number of its source.
        start: of its line, in bytes.
        size: of its line, in bytes.
        rank: 0 if the attack reached its target, 1 if not, 2 if it failed; the least counts.
        sha256: of its adversarial PNG; empty if there is none.
    """

    source: int
    start: int
    size: int
    rank: int
    sha256: str


class Double(NamedTuple):
    """An attack that is in several journals.

    Attributes:
        attack: which one.
        kept: the folder of the record that counts.
        other: the folder of another one.
    """

    attack: Attack
    kept: Place
    other: Place


@dataclass(slots=True)
class Index:
    """The record of each attack that counts, of all sources.

    The last source may be the merged journal of an earlier time, :meth:`add_merged`. Of its records those count that
    are no copies: the attacks that a batch has made in the folder itself since.

    Attributes:
        sources: those that were added.
        lines: the record of each attack.
        double: how many attacks are in several journals.
        named: the first :data:`NAMED` of them.
        settings: of the first record, as :func:`advimg.batches.journal.folder_settings` returns them.
        eps: all there are.
        others: lines of the merged journal of an earlier time that are no records, which stay in it.
    """

    warn: Callable[[str], None]
    sources: list[Source] = field(default_factory=list)
    lines: dict[Attack, Line] = field(default_factory=dict)
    double: int = 0
    named: list[Double] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    eps: set[Eps] = field(default_factory=set)
    others: list[bytes] = field(default_factory=list)
    _by_eps: dict[Eps, dict[str, Any]] = field(default_factory=dict)
    _first: Place | None = None

    def add(self, source: Source) -> None:
        """Add the records of a folder, after those of others.

        Raises:
            OutputError: it was made with other settings, or its journal is none or cannot be read.
        """
        number, own = len(self.sources), dict[Attack, Line]()
        eps: set[Eps] = set(source.share.eps) if source.share else set()  # type: ignore[arg-type]
        self.sources.append(source)
        for start, read in self._read(source):
            entry = read.make_entry()
            differing = self._differing(source, entry)
            if differing:
                raise self._refused(source, differing)
            eps.add(entry.key.eps)
            own[_attack_of(entry)] = _line(number, start, len(read.content), entry)  # the last of an attack counts
        self._check_eps(source, eps)
        for attack, line in own.items():
            kept = self.lines.setdefault(attack, line)
            if kept is not line:
                self._choose(attack, min(kept, line, key=lambda each: each.rank), kept, line)

    def add_merged(self, folder: Place) -> None:
        """Add what the journal of the folder that is merged into holds besides copies of the sources' records.

        A record is a copy if its files are in a source's folder, or if it has none: then the source knows better, but
        where a later batch has made the same file anew.

        Raises:
            OutputError: a batch has attacked there with other settings, or its journal is none or cannot be read.
        """
        number, own = len(self.sources), dict[Attack, Line]()
        folders = {source.folder for source in self.sources}
        source = Source(folder)
        self.sources.append(source)
        eps: set[Eps] = set()
        for start, read in self._read(source, others=self.others):
            entry = read.make_entry()
            attack, line = _attack_of(entry), _line(number, start, len(read.content), entry)
            adversarial = entry.outputs.get("adversarial")
            differing = self._differing(source, entry)
            if adversarial is not None and folders.isdisjoint(adversarial.parents):
                if differing:
                    raise self._refused(source, differing)
                eps.add(entry.key.eps)
                own[attack] = line
                continue
            known = self.lines.get(attack)
            if differing or (known and known.sha256 == line.sha256) or (self.eps and attack.eps not in self.eps):
                continue
            if known is None if adversarial is None else sha256_or_none(adversarial) == line.sha256:
                self.lines[attack] = line
        if eps:
            self._check_eps(source, eps)
        for attack, line in own.items():
            kept = self.lines.setdefault(attack, line)
            if kept is not line:  # between equals its own counts, so that its file stays in a journal
                self._choose(attack, min(line, kept, key=lambda each: each.rank), kept, line)

    def records(self) -> Iterator[tuple[dict[str, Any], Entry]]:
        """Yield the records that count, with absolute paths, source by source.

        Raises:
            OutputError: a journal was changed since it was added.
        """
        of_source: list[list[tuple[Attack, Line]]] = [[] for _ in self.sources]
        for item in self.lines.items():
            of_source[item[1].source].append(item)
        for source, items in zip(self.sources, of_source, strict=True):
            items.sort(key=lambda item: item[1].start)
            if items:
                yield from _reread(source.folder, items)

    def _choose(self, attack: Attack, kept: Line, *both: Line) -> None:
        self.lines[attack] = kept
        self.double += 1
        if len(self.named) < NAMED:
            (other,) = (line for line in both if line is not kept)
            self.named.append(Double(attack, self.sources[kept.source].folder, self.sources[other.source].folder))

    def _read(self, source: Source, *, others: list[bytes] | None = None) -> Iterator[tuple[int, RecordLine]]:
        """Yield the records, each with where its line begins; a line without an end is left out.

        Args:
            source: whose journal is read.
            others: takes the lines that are no records; they are left out otherwise.

        Raises:
            OutputError: the journal is none, or cannot be read.
        """
        store, reader = store_of(source.folder), LineReader(source.folder)
        start, read = 0, 0
        reasons: list[tuple[int, str]] = []
        try:
            for number, line in enumerate(store.read(), 1):
                start, begun = start + len(line), start
                if not line.strip(b"\0\r\n"):
                    continue  # a block that never came to the disk reads as zeros
                if not line.endswith(b"\n"):
                    if not line.startswith(b"{"):
                        reasons.append((number, "it is not JSON"))
                    continue  # its end may be written while this loop runs
                try:
                    found = reader.parsed(line)
                except RecordError as error:
                    reasons.append((number, str(error)))
                    if others is not None:
                        others.append(line)
                    continue
                read += 1
                yield begun, found
        except FileNotFoundError:
            return  # a shard that has not begun, or has nothing to do
        if reasons and not read:
            raise OutputError(f"{store.path} is no journal of advimg batch; leave its folder out")
        if reasons:
            numbers = ", ".join(str(number) for number, _ in reasons[:NAMED]) + ", …" * (len(reasons) > NAMED)
            left = "left as it is" if others is not None else "left out"
            self.warn(f"{store.path}: no record in line {numbers} ({reasons[0][1]}); {left}, the others count")

    def _differing(self, source: Source, entry: Entry) -> list[str]:
        """Say in what a record differs from the first of its eps, or else from the first of all."""
        eps = entry.key.eps
        if not self._by_eps:
            self.settings = dict(entry.settings)
            self._first = source.folder
        known = self._by_eps.get(eps)
        if known is None:
            differing = differences(entry.settings, self.settings, same_eps=not self._by_eps)
            if not differing:
                self._by_eps[eps] = dict(entry.settings)
            return differing
        return [] if known == entry.settings else differences(entry.settings, known)

    def _check_eps(self, source: Source, eps: set[Eps]) -> None:
        """Refuse a folder that has an eps that the others have not, and lacks one of theirs.

        Raises:
            OutputError: it does.
        """
        if self.eps and not (eps <= self.eps or self.eps <= eps):
            there, here = (" and ".join(sorted(map(_in_words, each))) for each in (eps, self.eps))
            raise self._refused(source, [f"eps {there} there, {here} here"])
        self.eps |= eps

    def _refused(self, source: Source, differing: Sequence[str]) -> OutputError:
        first = self._first or self.sources[0].folder
        return OutputError(
            f"{source.folder} has other settings than {first} ({'; '.join(differing)}); merge results of the same "
            "settings only"
        )


def has_journal(folder: Place) -> bool:
    """Tell whether a folder has a journal.

    Raises:
        OutputError: it cannot be told.
    """
    store = store_of(folder)
    try:
        return store.is_there()
    except OSError as error:
        raise OutputError(unreadable(store.path, error)) from error


def _reread(folder: Place, items: Sequence[tuple[Attack, Line]]) -> Iterator[tuple[dict[str, Any], Entry]]:
    """Yield the records of lines that were read before.

    Args:
        folder: of the journal.
        items: in the order of their lines.
    """
    reader = LineReader(folder)
    changed = f"{store_of(folder).path} was changed while it was merged; run advimg merge again"
    wanted = iter(items)
    attack, line = next(wanted)
    start = 0
    try:
        for content in store_of(folder).read():
            if start == line.start:
                read = reader.parsed(content)
                entry = read.make_entry()
                if _attack_of(entry) != attack:
                    raise OutputError(changed)
                yield read.record(), entry
                following = next(wanted, None)
                if following is None:
                    return
                attack, line = following
            start += len(content)
    except (FileNotFoundError, RecordError):
        pass
    raise OutputError(changed)


def _in_words(eps: Eps) -> str:
    return eps if isinstance(eps, str) else f"{eps:g}"


def _attack_of(entry: Entry) -> Attack:
    return Attack(str(entry.key.source), entry.key.target, entry.key.eps)


def _line(source: int, start: int, size: int, entry: Entry) -> Line:
    rank = 2 if entry.error is not None else 0 if entry.fooled else 1
    adversarial = entry.file("adversarial")
    return Line(source, start, size, rank, (adversarial.sha256 if adversarial else None) or "")
