"""The targets of a batch as people write them: one by one, or as a table of photos and targets."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from advimg.batches.photos import absolute
from advimg.errors import UsageError
from advimg.labels import Labels
from advimg.settings import Eps, Norm, TargetRule, parse_eps_or_auto
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
    """A line of a table: a photo (an absolute path), its target, and its own eps, if it has one."""

    path: Path
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
    try:
        table = csv.DictReader(lines, strict=True)
        columns = [column.strip().lower() for column in table.fieldnames or ()]
        if not {"path", "target"} <= set(columns) <= {"path", "target", "eps"}:
            raise UsageError(f"{name}: the first line must be path,target or path,target,eps")
        table.fieldnames = columns
        pairs: list[Pair] = []
        for row in table:
            try:
                pairs += _pairs(row, labels, others, norm)
            except UsageError as error:
                raise UsageError(f"{name}, line {table.line_num}: {error}") from None
    except csv.Error as error:
        raise UsageError(f"{name} is not a CSV table: {error}") from None
    if not pairs:
        raise UsageError(f"{name} has no line below its header")
    return pairs


def _pairs(
    row: dict[str | None, str | None], labels: Labels, others: Mapping[str, Labels] | None, norm: Norm
) -> list[Pair]:
    path, target, eps = ((row.get(column) or "").strip() for column in ("path", "target", "eps"))
    if None in row:
        raise UsageError("more values than columns; a path or a name with a comma needs quotes")
    if not path or not target:
        raise UsageError("path and target are both needed")
    own_eps = parse_eps_or_auto(eps, norm) if eps else None
    return [Pair(absolute(path), each, own_eps) for each in read_targets((target,), labels, others)]
