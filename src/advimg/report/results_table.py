"""The results of a folder as one table, for a spreadsheet: a row for each attack and each network that judged its file.

All but the true labels comes from the records of the journal, so that a table that is lost or edited is written anew.
The true labels are those that the last run was given; a run without any leaves their columns empty.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from advimg.record import Target
from advimg.report.accuracy import TrueClasses
from advimg.report.csv_table import csv_lines

NAME = "results.csv"
COLUMNS = (
    "photo",
    "file",
    "model",
    "attacked",
    "target",
    "target_rule",
    "true_label",
    "before",
    "before_confidence",
    "before_correct",
    "after",
    "after_confidence",
    "after_correct",
    "fooled",
    "confidence",
    "attack",
    "eps",
    "norm",
    "linf",
    "l2",
    "psnr",
    "ssim",
    "delta_e_mean",
    "steps",
    "gradients",
    "seconds",
    "error",
)
"""The columns: the keys of a record, but for these.

``photo`` and ``file`` are paths relative to the folder. ``model`` is a network that judged the file, ``attacked`` tells
whether it was attacked or took no part. ``before`` and ``after`` are the classes that it sees in the photo and in the
file, each with its confidence, and whether it is the ``true_label``, where that is known; ``confidence`` is that of the
target in the file.
"""
_BEGINNING = re.compile(
    rb"(?:\xef\xbb\xbf)?"
    + rb"[,;\t]".join(rb'("?)%s\%d' % (name.encode(), n) for n, name in enumerate(COLUMNS[:3], 1))
    + rb"[,;\t]"
)
"""How a table begins: a spreadsheet may write a mark first, another delimiter, and names in quotes."""
_OF_THE_FILE = ("attack", "eps", "norm", "linf", "l2", "psnr", "steps", "gradients", "seconds")
_OF_THE_CHANGE = ("ssim", "delta_e_mean")


def results_table(
    records: Iterable[Mapping[str, Any]], folder: Path, true_classes: TrueClasses = MappingProxyType({})
) -> bytes:
    """Return the table of a folder, in UTF-8, sorted by photo and file.

    Args:
        records: of the folder's journal, plain JSON values with absolute paths.
        folder: an absolute path.
        true_classes: of photos, where they are known.
    """
    ordered = sorted(records, key=lambda record: place_in_table(record, folder))
    return b"".join(table_lines(ordered, folder, true_classes))


def table_lines(
    records: Iterable[Mapping[str, Any]], folder: Path, true_classes: TrueClasses = MappingProxyType({})
) -> Iterator[bytes]:
    """Yield the lines of :func:`results_table`, for more records than fit in memory.

    Args:
        records: in the order of :func:`place_in_table`.
        folder: an absolute path.
        true_classes: of photos, where they are known.
    """
    rows = (row for record in records for row in _rows(record, folder, true_classes))
    for line in csv_lines(COLUMNS, rows):
        yield line.encode("utf-8", "backslashreplace")  # a name that is no UTF-8 is written as Python escapes it


def place_in_table(record: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    """Return the photo and the file of a record as the table has them, by which it is sorted."""
    adversarial = record["outputs"].get("adversarial")
    return _relative(record["source"], folder), _relative(adversarial, folder) if adversarial else ""


def is_results_table(path: Path) -> bool:
    """Tell whether a file is such a table, be it as a spreadsheet saves it again."""
    try:
        with path.open("rb") as file:
            return _BEGINNING.match(file.read(100)) is not None
    except OSError:
        return False


def _rows(record: Mapping[str, Any], folder: Path, true_classes: TrueClasses) -> Iterator[dict[str, Any]]:
    """Yield a row for each network that was attacked, and then for each that took no part."""
    visibility = record.get("visibility") or {}
    photo, file = place_in_table(record, folder)
    common = {
        "photo": photo,
        "file": file,
        "target_rule": record["target_rule"],
        "error": record["error"],
        **{name: record.get(name) for name in _OF_THE_FILE},
        **{name: visibility.get(name) for name in _OF_THE_CHANGE},
    }
    attacked = ({**record, "fooled": _is_fooled(record)}, *record["ensemble"])
    for seen, took_part in (*((each, True) for each in attacked), *((each, False) for each in record["checked"])):
        true = true_classes.get(seen.get("model", ""), {}).get(record["source"])
        yield common | {"attacked": _word(took_part)} | _seen(seen, true)


def _is_fooled(record: Mapping[str, Any]) -> bool:
    """Tell whether the first network is fooled; the record's own ``fooled`` means all that were attacked."""
    if not record["ensemble"] or not record.get("after") or not record.get("target"):
        return bool(record["fooled"])
    itself = record["after"][0]["index"] == record["target"]["index"]
    return bool(itself and all(each["fooled"] for each in record.get("survives", ())))


def _seen(seen: Mapping[str, Any], true: Target | None) -> dict[str, Any]:
    """Return the cells of what one network sees; empty where it judged nothing, or a failure's record says nothing."""
    cells: dict[str, Any] = {"model": seen.get("model"), "target": (seen.get("target") or {}).get("name")}
    if true is not None:
        cells["true_label"] = true.name
    if not (seen.get("before") and seen.get("after")):
        return cells
    for when in ("before", "after"):
        first = seen[when][0]
        cells |= {when: first["name"], f"{when}_confidence": first["confidence"]}
        if true is not None:
            cells[f"{when}_correct"] = _word(first["index"] == true.index)
    return cells | {"fooled": _word(bool(seen.get("fooled"))), "confidence": seen.get("confidence")}


def _relative(path: str, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return path


def _word(value: bool) -> str:
    return "true" if value else "false"
