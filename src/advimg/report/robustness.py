"""How a classifier's robustness falls with eps: from the records of many attacks to the points of a curve."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

from advimg.record_schema import record_of
from advimg.report.accuracy import Accuracy, TrueClasses, accuracies_of
from advimg.report.csv_table import csv_table
from advimg.report.survival import ALL, NONE, changes_in, held

_Z = 1.96
"""Standard deviations on either side that hold 95 % of a normal distribution."""
_ACCURACY = ("labelled", "clean_accuracy", "robust_accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterChange:
    """What of the files of a point is left after one change; the fields are as in :class:`Point`.

    Attributes:
        change: that the files are to survive; ``none`` where they are left as they are.
        verified: how many still show their target.
    """

    change: str
    files: int
    verified: int
    share: float
    share_low: float
    share_high: float
    confidence: float
    confidence_low: float
    confidence_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What came of all attacks on one model at one eps. The field names are the keys of JSON and the columns of CSV.

    Attributes:
        files: how many were written.
        verified: how many of them show their target, as they are and after every change that they are to survive.
        share: verified / files.
        share_low, share_high: its 95 % interval (Wilson 1927, doi:10.1080/01621459.1927.10502953).
        confidence: of the target, the mean over all files, as they are.
        confidence_low, confidence_high: its 95 % interval, by the normal distribution.
        gradients: passes through the network, the mean over all files.
        failed: attacks that came to nothing, which are in none of these numbers.
        labelled, clean_accuracy, robust_accuracy: as :class:`advimg.report.accuracy.Accuracy` has them, of photos whose
            true class is known; None where no such class was given.
        survives: the same for the files as they are, and after each change; empty where there is none to survive.
    """

    model: str
    eps: float
    files: int
    verified: int
    share: float
    share_low: float
    share_high: float
    confidence: float
    confidence_low: float
    confidence_high: float
    gradients: float
    failed: int
    labelled: int | None = None
    clean_accuracy: float | None = None
    robust_accuracy: float | None = None
    survives: tuple[AfterChange, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds of the point: accuracies and ``survives`` only where there is something to tell."""
        unknown = () if self.labelled is not None else _ACCURACY
        left_out = (*unknown, *(() if self.survives else ("survives",)))
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True, slots=True)
class Robustness:
    """How many photos withstand every attack on a model at one eps.

    Attributes:
        photos: those with at least one file.
        robust: those none of whose files shows its target, neither as it is nor after a change that it is to survive.
    """

    model: str
    photos: int
    robust: int

    @property
    def share(self) -> float:
        """The share of photos that withstand."""
        return self.robust / self.photos


def robustness_of(records: Iterable[Mapping[str, Any]], eps: float) -> list[Robustness]:
    """Count photos by model, in the order in which models come; one whose files all failed has no count."""
    fooled: dict[str, dict[str, bool]] = {}
    for record in records:
        if record["error"] is None and record["eps"] == eps:
            photos = fooled.setdefault(record["model"], {})
            photos[record["source"]] = photos.get(record["source"], False) or _is_ever_fooled(record)
    return [Robustness(model, len(photos), len(photos) - sum(photos.values())) for model, photos in fooled.items()]


def _is_ever_fooled(record: Mapping[str, Any]) -> bool:
    """Tell whether a file shows its target as it is or after any change; its own ``fooled`` means all of them."""
    if not record.get("survives"):
        return bool(record["fooled"])
    return any(held(record_of(record).attacked).values())


def points_of(records: Iterable[Mapping[str, Any]], true_classes: TrueClasses = MappingProxyType({})) -> list[Point]:
    """Sum records up, by model and eps; models in the order in which they come, eps rising.

    Args:
        records: plain JSON values.
        true_classes: of photos, where they are known.
    """
    groups: dict[str, dict[float, list[Mapping[str, Any]]]] = {}
    for record in records:
        groups.setdefault(record["model"], {}).setdefault(record["eps"], []).append(record)
    return [
        _point(model, eps, group, true_classes)
        for model, by_eps in groups.items()
        for eps, group in sorted(by_eps.items())
    ]


def to_csv(points: Sequence[Point]) -> str:
    """Return a table with a header.

    Where files are to survive changes, each point has a row for each ``change``: for ``none``, for each of them, and
    for ``all``, which is the point's own.
    """
    columns = [field.name for field in fields(Point) if field.name != "survives"]
    if all(point.labelled is None for point in points):
        columns = [name for name in columns if name not in _ACCURACY]
    if any(point.survives for point in points):
        columns.insert(columns.index("eps") + 1, "change")
    return csv_table(columns, (row for point in points for row in _rows(point)))


def _rows(point: Point) -> Iterator[dict[str, Any]]:
    own = asdict(point) | {"change": ALL}
    yield from (own | asdict(each) for each in point.survives)
    yield own


def _point(model: str, eps: float, records: Sequence[Mapping[str, Any]], true_classes: TrueClasses) -> Point:
    written = [record for record in records if record["error"] is None]
    return Point(
        model=model,
        eps=eps,
        **_sums([record["fooled"] for record in written], [record["confidence"] for record in written]),
        gradients=round(fmean(record["gradients"] for record in written), 2) if written else 0.0,
        failed=len(records) - len(written),
        **_accuracy(model, written, true_classes),
        survives=tuple(_after_changes(written)),
    )


def _accuracy(model: str, records: Sequence[Mapping[str, Any]], true_classes: TrueClasses) -> dict[str, Any]:
    """Return a model's accuracies as a point has them; none where no true class is known."""
    if model not in true_classes:
        return {}
    counted = (each for each in accuracies_of(records, true_classes) if each.model == model)
    right = next(counted, Accuracy(model, photos=0, clean=0, robust=0)).to_dict()
    return {"labelled": right["photos"]} | {name: right[name] for name in _ACCURACY[1:]}


def _after_changes(records: Iterable[Mapping[str, Any]]) -> Iterator[AfterChange]:
    read = [record_of(record) for record in records if record.get("survives")]
    if not read:
        return
    fooled = [held(record.attacked) for record in read]
    sure = [
        {NONE: record.confidence} | {each.change: each.confidence for each in record.least_survives} for record in read
    ]
    for change in changes_in(fooled)[:-1]:
        hits = [file[change] for file in fooled if change in file]
        confidences = [file[change] for file in sure if change in file]
        yield AfterChange(change=change, **_sums(hits, confidences))


def _sums(fooled: Sequence[bool], confidences: Sequence[float]) -> dict[str, Any]:
    """Return shares and confidences of files, and their intervals, as a point has them."""
    files, verified = len(fooled), sum(fooled)
    share_low, share_high = _wilson(verified, files)
    mean = fmean(confidences) if confidences else 0.0
    half = _Z * stdev(confidences) / math.sqrt(files) if files > 1 else 0.0
    return {
        "files": files,
        "verified": verified,
        "share": round(verified / files, 6) if files else 0.0,
        "share_low": share_low,
        "share_high": share_high,
        "confidence": round(mean, 6),
        "confidence_low": round(max(0.0, mean - half), 6),
        "confidence_high": round(min(1.0, mean + half), 6),
    }


def _wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share."""
    if not trials:
        return 0.0, 1.0
    share, square = hits / trials, _Z * _Z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials)) / (1 + square / trials)
    return round(max(0.0, centre - half), 6), round(min(1.0, centre + half), 6)
