"""Towards what: targets as people write them, one by one or as a table of pairs."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from advimg.batch.photos import absolute
from advimg.errors import UsageError
from advimg.labels import Labels
from advimg.settings import Eps, Norm, TargetRule, parse_eps_or_auto
from advimg.target_names import read_target

ALL = "all"
"""The target that stands for every class."""


def read_targets(
    texts: tuple[str, ...], labels: Labels, others: Mapping[str, Labels] | None = None
) -> list[int | TargetRule]:
    """Read several targets, each once, as :func:`advimg.target_names.read_target` does; ``all`` is every class.

    Raises:
        UsageError: there is no such class.
    """
    return list(dict.fromkeys(target for text in texts for target in _targets(text, labels, others)))


def _targets(text: str, labels: Labels, others: Mapping[str, Labels] | None) -> Iterable[int | TargetRule]:
    every = range(len(labels)) if text.strip().lower() == ALL else [text]
    return [read_target(each, labels, others) for each in every]


@dataclass(frozen=True, slots=True)
class Pair:
    """A line of a table: a photo (an absolute path), what it shall be taken for, and its own eps, if it has one."""

    path: Path
    target: int | TargetRule
    eps: Eps | None


def read_pairs(
    lines: TextIO, labels: Labels, others: Mapping[str, Labels] | None = None, *, name: str, norm: Norm = "linf"
) -> list[Pair]:
    """Read a CSV table with the header ``path,target`` or ``path,target,eps``, in any order.

    Paths are relative to the current folder. A line without an eps gets the batch's.

    Raises:
        UsageError: naming the line: no such class, an eps out of range, a column that is missing or not known.
    """
    try:
        table = csv.DictReader(lines, strict=True)
        columns = [column.strip().lower() for column in table.fieldnames or ()]
        if not {"path", "target"} <= set(columns) <= {"path", "target", "eps"}:
            raise UsageError(f"{name}: the first line must be path,target or path,target,eps")
        table.fieldnames = columns
        pairs = [
            pair
            for row in table
            for pair in _pairs(row, labels, others, norm=norm, where=f"{name}, line {table.line_num}")
        ]
    except csv.Error as error:
        raise UsageError(f"{name} is not a CSV table: {error}") from None
    if not pairs:
        raise UsageError(f"{name} has no line below its header")
    return pairs


def _pairs(
    row: dict[str | None, str | None],
    labels: Labels,
    others: Mapping[str, Labels] | None,
    *,
    norm: Norm,
    where: str,
) -> list[Pair]:
    path, target, eps = ((row.get(column) or "").strip() for column in ("path", "target", "eps"))
    if None in row:
        raise UsageError(f"{where}: more values than columns; a path or a name with a comma needs quotes")
    if not path or not target:
        raise UsageError(f"{where}: path and target are both needed")
    try:
        budget = parse_eps_or_auto(eps, norm) if eps else None
        return [Pair(absolute(path), each, budget) for each in _targets(target, labels, others)]
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
