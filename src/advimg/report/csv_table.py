"""Tables as CSV (RFC 4180, lines ending in a newline alone), for a spreadsheet or a script."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def csv_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table with a header; see :func:`csv_rows`."""
    return "".join([csv_header(columns), *csv_rows(columns, rows)])


def csv_header(columns: Sequence[str]) -> str:
    """Return the first line of a table, with its end."""
    header: str = csv.writer(_Echo(), lineterminator="\n").writerow(columns)
    return header


def csv_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield each row of a table, with its end.

    Args:
        columns: their names, in order.
        rows: the values by column; those of other columns are left out, and None is an empty cell.
    """
    writer = csv.writer(_Echo(), lineterminator="\n")
    for row in rows:
        yield writer.writerow([row.get(column) for column in columns])


class _Echo:
    """A file that hands what is written to it back to the writer, which returns it."""

    def write(self, text: str) -> str:
        return text
