"""Tables as CSV (RFC 4180, lines ending in a newline alone), for a spreadsheet or a script."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def csv_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table with a header.

    Args:
        columns: their names, in order.
        rows: the values by column; those of other columns are left out, and None is an empty cell.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
