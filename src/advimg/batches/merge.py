"""Bring the results of several folders together: one journal, one table and one sum, above files that stay in place.

The folders are those of shards, or of any batches with the same settings. They are only read, so batches may be
running there; what they add later is taken by merging again.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from advimg import __version__
from advimg.batches.journal import read_journal, store_of
from advimg.batches.journal_entry import Entry
from advimg.batches.journal_files import sha256_or_none
from advimg.batches.journal_lines import line_of
from advimg.batches.merge_sources import NAMED, Double, Index, Source, has_journal
from advimg.batches.photos import common_root
from advimg.batches.shards import Attack, Shard, WrittenShare, absent, name_of, shard_number, shards_in
from advimg.batches.stats import SUMMARY, BatchStats
from advimg.errors import ExitCode, OutputError, UsageError
from advimg.outputs import is_summary
from advimg.report.results_table import NAME as TABLE
from advimg.report.results_table import is_results_table, results_table
from advimg.storage.places import exists, is_folder, is_there, write_whole
from advimg.storage.url import Place, is_below, located, place, place_of, relative

_OF_A_RUN = ("earlier", "seconds", "per_second")
"""What the summary of a batch tells of the run itself."""


@dataclass(slots=True)
class Merged:
    """What several folders hold together.

    Attributes:
        folder: where the merged journal is.
        folders: those that were merged.
        shards: those of them that are a shard's.
        settings: of all records, as the journal compares them, and each ``eps``.
        stats: the counts of the records; ``total`` counts what is missing, too.
        absent: shards that are not there, and whose attacks no other folder has.
        missing: the number of attacks that have no record.
        missing_known: those of them that a shard says are its own; the others are of shards that are not there.
        missing_named: the first of these.
        unknown: folders of shards that do not say what they are to make.
        plans: how many different plans the shards have: photos or targets have come or gone since some began.
        double: how many attacks are in several journals.
        double_named: the first of them.
        gone: the number of files of records that are not there, or not what they were.
        gone_named: the first of them.
    """

    folder: Place
    folders: list[Place]
    shards: list[Shard]
    settings: dict[str, Any]
    stats: BatchStats
    absent: list[Shard]
    missing: int
    missing_known: int
    missing_named: list[Attack]
    unknown: list[Place]
    plans: int
    double: int
    double_named: list[Double]
    gone: int = 0
    gone_named: list[Place] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """FAILED where something is missing, gone or failed; else as that of a batch."""
        incomplete = self.missing or self.absent or self.unknown or self.gone
        return ExitCode.FAILED if incomplete else self.stats.exit_code

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the summary of a batch but for the time it took, and what is missing."""
        counts = self.stats.summary({"advimg": __version__, **self.settings})
        return {
            **{name: value for name, value in counts.items() if name not in _OF_A_RUN},
            "folders": [_from(folder, self.folder) for folder in self.folders],
            "shards": list(map(str, self.shards)),
            "absent": list(map(str, self.absent)),
            "plans": self.plans,
            "missing": self.missing,
            "missing_attacks": [each._asdict() for each in self.missing_named],
            "double": self.double,
            "double_attacks": [
                each.attack._asdict() | {"kept": _from(each.kept, self.folder), "other": _from(each.other, self.folder)}
                for each in self.double_named
            ],
            "gone": self.gone,
            "gone_files": [_from(path, self.folder) for path in self.gone_named],
        }


def merge(
    folders: Sequence[str | Place],
    *,
    out_dir: str | Place | None = None,
    check: bool = False,
    force: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> Merged:
    """Write one journal, table and summary for several folders of results.

    Args:
        folders: one that holds the folders of shards, or several folders that ``batch`` wrote to.
        out_dir: for what is written; it holds all of them. By default the deepest folder that does.
        check: whether every PNG is held against its recorded hash, and not only looked for.
        force: whether a summary and a table that are of something else are overwritten.
        warn: called with a line for a person.

    Raises:
        UsageError: no folder is given, or ``out_dir`` does not hold them.
        OutputError: a folder holds no results or has other settings, a batch is writing to the merged folder, or that
            cannot be written.
    """
    sources, target = _sources(folders, out_dir)
    own = {SUMMARY: ("summary", is_summary), TABLE: ("table", is_results_table)}
    for name, (what, is_own) in own.items():
        if exists(target / name) and not force and not is_own(target / name):
            raise OutputError(f"{target / name} exists and is no {what} of a batch; choose another -O, or --force")
    store = store_of(target, warn=warn)
    with store.locked():
        index = Index(warn)
        for source in sources:
            index.add(source)
        if has_journal(target):
            index.add_merged(target)
        merged = _counted(index, sources, target)
        store.replace(_lines(index, merged, check=check))
        merged.stats.end()
        write_whole(target / TABLE, results_table(read_journal(target), target), overwrite=True)
        summary = json.dumps(merged.to_dict(), indent=2) + "\n"
        write_whole(target / SUMMARY, summary.encode("ascii"), overwrite=True)
    return merged


def _sources(folders: Sequence[str | Place], out_dir: str | Place | None) -> tuple[list[Source], Place]:
    """Return the folders to merge, and where to write.

    Raises:
        UsageError: no folder is given, or ``out_dir`` does not hold them.
        OutputError: one holds no results.
    """
    if not folders:
        raise UsageError("which folders? give one that holds shards, or several folders of results")
    given = list(dict.fromkeys(map(place, folders)))
    if len(given) > 1:
        found = [(folder, Source.of(folder)) for folder in given]
        target = common_root(given)
    else:
        found = [(folder, source) for folder in shards_in(given[0]) if (source := Source.of(folder))]
        target = given[0]
        if not found:
            own = " it is a folder of results itself: name others to merge it with" if has_journal(given[0]) else ""
            raise OutputError(
                f"{given[0]} holds no folder of a shard, such as shard-1-of-4;"
                f"{own or ' give the -O of advimg batch --shard, or several folders of results'}"
            )
    if out_dir is not None:
        chosen = place(out_dir)
        if not all(is_below(folder, chosen) for folder in given):
            raise UsageError(
                f"-O {out_dir} has to be a folder that holds all that is merged; its journal names files below it"
            )
        target = chosen
    for folder, source in found:
        if source is None:
            shards = len(shards_in(folder)) if is_folder(folder) else 0
            hint = "; merge its shards first" if shards else "; give folders that advimg batch wrote to"
            raise OutputError(f"{folder} holds no journal{hint}")
    sources = [source for _, source in found if source and source.folder != target]
    target_source = Source.of(target)
    if target_source and target_source.share:
        raise OutputError(
            f"{target} is the folder of a shard, which only its own batch writes to; give -O a folder above"
        )
    return sources, target


def _counted(index: Index, sources: Sequence[Source], target: Place) -> Merged:
    """Count what is missing."""
    shares = [(source.folder, share) for source in sources if (share := source.share)]
    missing, named = 0, list[Attack]()
    for folder, share in shares:
        for attack in share.attacks_from(folder):
            if attack not in index.lines:
                missing += 1
                named += [attack] * (len(named) < NAMED)
    shards = sorted({shard for source in sources if (shard := source.shard)})
    away = absent(shards)
    others = _others(index, shares, away)
    return Merged(
        folder=target,
        folders=[source.folder for source in sources],
        shards=shards,
        settings={**index.settings, "eps": sorted(index.eps, key=str)},
        stats=BatchStats(len(index.lines) + missing + others),
        absent=away if others or not shares else [],
        missing=missing + others,
        missing_known=missing,
        missing_named=named,
        unknown=[source.folder for source in sources if source.shard and not source.share],
        plans=len({share.plan_sha256 for _, share in shares}),
        double=index.double,
        double_named=index.named,
    )


def _others(index: Index, shares: Sequence[tuple[Place, WrittenShare]], away: Sequence[Shard]) -> int:
    """Return how many attacks of shards that are not there have no record; another batch may have made some."""
    if not away:
        return 0
    count, numbers = away[0].count, {shard.number for shard in away}
    known = [(folder, share) for folder, share in shares if Shard.parse(share.shard).count == count]
    if not known:
        return 0  # their folders do not say what they are to make
    planned = max(share.planned for _, share in known)
    expected = planned - sum(share.attacks for _, share in known)
    folder, share = known[0]
    root = located(share.root, folder)
    photos = (place_of(attack.source) for attack in index.lines)
    made = sum(is_below(photo, root) and shard_number(name_of(photo, root), count) in numbers for photo in photos)
    return max(0, expected - made)


def _lines(index: Index, merged: Merged, *, check: bool) -> Iterator[bytes]:
    """Yield the lines of the merged journal, and count their records."""
    for record, entry in index.records():
        merged.stats.add(entry)
        for path in _gone(entry, check=check):
            merged.gone += 1
            merged.gone_named += [path] * (len(merged.gone_named) < NAMED)
        yield line_of(record, merged.folder)
    yield from index.others


def _gone(entry: Entry, *, check: bool) -> Iterator[Place]:
    """Yield the files of an attack that are not there, or, with ``check``, not what they were."""
    for each in entry.files:
        path = place_of(each.path)
        if not is_there(path) or (check and each.sha256 and sha256_or_none(path) != each.sha256):
            yield path


def _from(path: Place, folder: Place) -> str:
    return relative(path, folder)
