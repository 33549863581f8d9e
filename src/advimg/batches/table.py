"""Tables that people write as CSV, with a header that names the columns."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TextIO, TypeVar

from advimg.errors import PhotoError, UsageError, unreadable
from advimg.storage.places import read_bytes
from advimg.storage.url import Place, path_or_url

_Row = TypeVar("_Row")


def open_table(path: str | Place) -> TextIO:
    """Return the lines of a table, for :func:`read_table`.

    Raises:
        PhotoError: the file cannot be read.
        UsageError: it is not UTF-8.
    """
    try:
        return io.StringIO(read_bytes(path_or_url(path)).decode("utf-8-sig"), newline="")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PhotoError(unreadable(path, error)) from error


def read_table(
    lines: TextIO,
    read: Callable[[Mapping[str, str]], Iterable[_Row]],
    *,
    name: str,
    columns: Sequence[str],
    optional: Sequence[str] = (),
) -> list[_Row]:
    """Read a table whose columns stand in any order.

    Args:
        lines: of the table.
        read: called with the cells of each line, by column; empty where an optional one is missing.
        name: of the table, for messages.
        columns: two that it has to have.
        optional: those that it may have, too.

    Returns:
        What ``read`` returned, one after the other.

    Raises:
        UsageError: a column or a cell is missing, one is too many, or ``read`` refuses a line, which is named.
    """
    try:
        table = csv.DictReader(lines, strict=True)
        found = [column.strip().lower() for column in table.fieldnames or ()]
        if not set(columns) <= set(found) <= {*columns, *optional}:
            headers = dict.fromkeys((",".join(columns), ",".join((*columns, *optional))))
            raise UsageError(f"{name}: the first line must be {' or '.join(headers)}")
        table.fieldnames = found
        rows: list[_Row] = []
        for row in table:
            try:
                rows += read(_cells(row, columns, optional))
            except UsageError as error:
                raise UsageError(f"{name}, line {table.line_num}: {error}") from None
    except csv.Error as error:
        raise UsageError(f"{name} is not a CSV table: {error}") from None
    if not rows:
        raise UsageError(f"{name} has no line below its header")
    return rows


def _cells(row: Mapping[str | None, str | None], columns: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    if None in row:
        raise UsageError("more values than columns; a path or a name with a comma needs quotes")
    cells = {column: (row.get(column) or "").strip() for column in (*columns, *optional)}
    if not all(cells[column] for column in columns):
        raise UsageError(f"{' and '.join(columns)} are both needed")
    return cells
