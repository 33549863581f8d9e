"""The targets of a batch as people write them: one by one, or as a table of photos and targets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TextIO

from advimg.batches.table import read_table
from advimg.labels import Labels
from advimg.settings import Eps, Norm, TargetRule, parse_eps_or_auto
from advimg.storage.url import Place, place
from advimg.target_names import read_target

ALL = "all"
"""The target that means every class."""


def read_targets(
    texts: tuple[str, ...], labels: Labels, others: Mapping[str, Labels] | None = None
) -> list[int | TargetRule]:
    """Read several targets, each once, as :func:`advimg.target_names.read_target` does; ``all`` is every class.

    Raises:
        UsageError: there is no such class.
    """
    every = range(len(labels))
    named = (each for text in texts for each in (every if text.strip().lower() == ALL else (text,)))
    return list(dict.fromkeys(read_target(each, labels, others) for each in named))


def words_of(texts: Iterable[str | int]) -> list[str | int]:
    """Return those of several targets that may be words."""
    return [text for text in texts if str(text).strip().lower() != ALL]


@dataclass(frozen=True, slots=True)
class Pair:
    """A line of a table: a photo (an absolute path or a URL), its target, and its own eps, if it has one."""

    path: Place
    target: int | TargetRule
    eps: Eps | None


def read_pairs(
    lines: TextIO, labels: Labels, others: Mapping[str, Labels] | None = None, *, name: str, norm: Norm = "linf"
) -> list[Pair]:
    """Read a CSV table with the header ``path,target`` or ``path,target,eps``, in any order.

    Paths are relative to the current folder. A line without an eps has that of the batch.

    Raises:
        UsageError: no such class, an eps out of range, a column that is missing or unknown; with the line.
    """

    def pairs(cells: Mapping[str, str]) -> list[Pair]:
        own_eps = parse_eps_or_auto(cells["eps"], norm) if cells["eps"] else None
        targets = read_targets((cells["target"],), labels, others)
        return [Pair(place(cells["path"]), each, own_eps) for each in targets]

    return read_table(lines, pairs, name=name, columns=("path", "target"), optional=("eps",))
