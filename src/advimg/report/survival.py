"""What files are still taken for their target after: no change, each change that they are to survive, and all of that.

Counted over the files of a folder, for the networks that were attacked and for each one that took no part.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from advimg.record import CheckedRecord, NetworkRecord, Record

NONE, ALL = "none", "all"
"""What stands for a change where the file is left as it is, and where it has to hold as it is and after each change."""

_ATTACKED, _TOOK_NO_PART = "attacked", "took no part"


@dataclass(frozen=True, slots=True)
class Cell:
    """How many of the files that were judged hold."""

    held: int
    files: int

    @property
    def share(self) -> float:
        """The share of files that hold; 0 where there are none."""
        return self.held / self.files if self.files else 0.0


@dataclass(frozen=True, slots=True)
class Column:
    """Who judged: networks of which each has to be fooled, and their part in the attack."""

    models: tuple[str, ...]
    part: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """A row for each change, in words, with a cell for each column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def in_words(change: str) -> str:
    """Write a change for people, :data:`NONE` and :data:`ALL` too."""
    return {NONE: "the file itself", ALL: "all of these"}.get(change, change)


def held(networks: Sequence[NetworkRecord | CheckedRecord]) -> dict[str, bool]:
    """Tell after which changes a file fools every one of some networks: first :data:`NONE`, last :data:`ALL`."""
    itself = all(seen.sees_target for seen in networks)
    by_change = zip(*(seen.survives for seen in networks), strict=True)
    changed = {each[0].change: all(survival.fooled for survival in each) for each in by_change}
    return {NONE: itself, **changed, ALL: itself and all(changed.values())}


def changes_in(files: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return the changes after which any file was judged, each once, in their order; :data:`ALL` is the last."""
    found = dict.fromkeys(change for file in files for change in file)
    found.pop(ALL, None)
    return (*found, ALL)


def matrix_of(records: Iterable[Record]) -> Matrix | None:
    """Count files, for each network that judged them; None where they are to survive nothing."""
    by_column: dict[Column, list[dict[str, bool]]] = defaultdict(list)
    for record in records:
        if not record.survives:
            continue
        models = tuple(seen.model for seen in record.attacked)
        by_column[Column(models, _ATTACKED)].append(held(record.attacked))
        for seen in record.answered:
            by_column[Column((seen.model,), _TOOK_NO_PART)].append(held([seen]))
    if not by_column:
        return None
    changes = changes_in(file for files in by_column.values() for file in files)
    rows = ((in_words(change), tuple(_cell(files, change) for files in by_column.values())) for change in changes)
    return Matrix(tuple(by_column), tuple(rows))


def _cell(files: Iterable[dict[str, bool]], change: str) -> Cell:
    judged = [file[change] for file in files if change in file]
    return Cell(sum(judged), len(judged))
