"""The results of a folder as one table, for a spreadsheet: a row for each attack and each network that judged its file.

All but the true labels comes from the records of the journal, so that a table that is lost or edited is written anew.
The true labels are those that the last run was given; a run without any leaves their columns empty.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from advimg.record import Target
from advimg.report.accuracy import TrueClasses
from advimg.report.csv_table import csv_header, csv_rows
from advimg.storage.places import read_beginning
from advimg.storage.url import Place, is_url, place_of, relative

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
    records: Iterable[Mapping[str, Any]], folder: Place, true_classes: TrueClasses = MappingProxyType({})
) -> Iterator[bytes]:
    """Yield the lines of the table of a folder, in UTF-8, sorted by photo and file.

    Of each record no more than its lines is held.

    Args:
        records: of the folder's journal, plain JSON values with absolute paths.
        folder: an absolute path.
        true_classes: of photos, where they are known.
    """
    attacks: list[tuple[str, str, bytes]] = []
    beginning = cache(lambda inner: _beginning(inner, folder))
    for record in records:
        rows = list(_rows(record, beginning, true_classes))
        # A name that is no UTF-8 is written as Python escapes it.
        lines = "".join(csv_rows(COLUMNS, rows)).encode("utf-8", "backslashreplace")
        attacks.append((rows[0]["photo"], rows[0]["file"], lines))
    attacks.sort(key=itemgetter(0, 1))
    yield csv_header(COLUMNS).encode("ascii")
    yield from (lines for _, _, lines in attacks)


def is_results_table(path: Place) -> bool:
    """Tell whether a file is such a table, be it as a spreadsheet saves it again."""
    try:
        return _BEGINNING.match(read_beginning(path, 100)) is not None
    except OSError:
        return False


def _rows(
    record: Mapping[str, Any], beginning: Callable[[str], str], true_classes: TrueClasses
) -> Iterator[dict[str, Any]]:
    """Yield a row for each network that was attacked, and then for each that took no part.

    Args:
        record: plain JSON values with absolute paths.
        beginning: returns how relative paths begin that lead into a folder.
        true_classes: of photos, where they are known.
    """
    visibility = record.get("visibility") or {}
    adversarial = record["outputs"].get("adversarial")
    common = {
        "photo": _named(record["source"], beginning),
        "file": _named(adversarial, beginning) if adversarial else "",
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


def _named(path: str, beginning: Callable[[str], str]) -> str:
    """Return the relative path of a file."""
    within, _, name = path.rpartition("/" if is_url(path) else os.sep)
    return f"{beginning(within)}{name}"


def _beginning(inner: str, folder: Place) -> str:
    """Return how paths begin that lead into a folder, relative to that of the table."""
    separator = "/" if is_url(inner) else os.sep
    within = relative(place_of(inner or separator), folder)
    return "" if within == os.curdir else within if within.endswith(separator) else f"{within}{separator}"


def _word(value: bool) -> str:
    return "true" if value else "false"
