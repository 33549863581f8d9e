"""How values are spread: counts in up to about ten bins."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin: what it holds, as people write it, how many, and that as a share of the fullest."""

    label: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """A row of bins under a title."""

    title: str
    bins: tuple[Bin, ...]

    @property
    def told(self) -> str:
        """The same in words, without the empty bins."""
        return f"{self.title}: " + "; ".join(f"{each.label}: {each.count}" for each in self.bins if each.count)


def of_confidences(title: str, values: Sequence[float]) -> Histogram:
    """Count confidences (0..1) by tenths; the last bin holds 1, too."""
    counts = [0] * _BINS
    for value in values:
        counts[min(int(value * _BINS), _BINS - 1)] += 1
    width = 100 // _BINS
    return _histogram(title, [f"{place * width}–{(place + 1) * width} %" for place in range(_BINS)], counts)


def of_numbers(title: str, values: Sequence[float]) -> Histogram:
    """Count numbers, at least one, in bins of the same width; of whole numbers one for each where they are few."""
    if all(float(value).is_integer() for value in values):
        return _of_whole(title, [int(value) for value in values])
    low, high = min(values), max(values)
    counts = [0] * _BINS
    for value in values:
        counts[min(int((value - low) / (high - low or 1) * _BINS), _BINS - 1)] += 1
    ends = [low + (high - low) * place / _BINS for place in range(_BINS + 1)]
    return _histogram(title, [f"{start:.3g}–{end:.3g}" for start, end in pairwise(ends)], counts)


def _of_whole(title: str, values: Sequence[int]) -> Histogram:
    low, high = min(values), max(values)
    width = -(-(high - low + 1) // _BINS)
    counts = [0] * ((high - low) // width + 1)
    for value in values:
        counts[(value - low) // width] += 1
    starts = [low + place * width for place in range(len(counts))]
    return _histogram(title, [f"{at}" if width == 1 else f"{at}–{at + width - 1}" for at in starts], counts)


def _histogram(title: str, labels: Sequence[str], counts: Sequence[int]) -> Histogram:
    fullest = max(1, *counts)
    return Histogram(
        title, tuple(Bin(label, count, count / fullest) for label, count in zip(labels, counts, strict=True))
    )
