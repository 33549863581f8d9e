"""How a classifier's robustness falls with eps: from the records of many attacks to the points of a curve."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from statistics import fmean, stdev
from typing import Any

_Z = 1.96
"""Standard deviations on either side that hold 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What came of all attacks on one model at one eps. The field names are the keys of JSON and the columns of CSV.

    Attributes:
        files: how many were written.
        verified: how many of them show their target.
        share: verified / files.
        share_low, share_high: its 95 % interval (Wilson 1927, doi:10.1080/01621459.1927.10502953).
        confidence: of the target, the mean over all files.
        confidence_low, confidence_high: its 95 % interval, by the normal distribution.
        gradients: passes through the network, the mean over all files.
        failed: attacks that came to nothing, which are in none of these numbers.
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


def points_of(records: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Sum records up, by model and eps; models in the order in which they come, eps rising."""
    groups: dict[str, dict[float, list[Mapping[str, Any]]]] = {}
    for record in records:
        groups.setdefault(record["model"], {}).setdefault(record["eps"], []).append(record)
    return [_point(model, eps, group) for model, by_eps in groups.items() for eps, group in sorted(by_eps.items())]


def to_csv(points: Iterable[Point]) -> str:
    """Return a table with a header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    return text.getvalue()


def _point(model: str, eps: float, records: list[Mapping[str, Any]]) -> Point:
    written = [record for record in records if record["error"] is None]
    verified = sum(record["fooled"] for record in written)
    confidences = [record["confidence"] for record in written]
    share_low, share_high = _wilson(verified, len(written))
    mean = fmean(confidences) if confidences else 0.0
    half = _Z * stdev(confidences) / math.sqrt(len(confidences)) if len(confidences) > 1 else 0.0
    return Point(
        model=model,
        eps=eps,
        files=len(written),
        verified=verified,
        share=round(verified / len(written), 6) if written else 0.0,
        share_low=share_low,
        share_high=share_high,
        confidence=round(mean, 6),
        confidence_low=round(max(0.0, mean - half), 6),
        confidence_high=round(min(1.0, mean + half), 6),
        gradients=round(fmean(record["gradients"] for record in written), 2) if written else 0.0,
        failed=len(records) - len(written),
    )


def _wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share."""
    if not trials:
        return 0.0, 1.0
    share, square = hits / trials, _Z * _Z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials)) / (1 + square / trials)
    return round(max(0.0, centre - half), 6), round(min(1.0, centre + half), 6)
