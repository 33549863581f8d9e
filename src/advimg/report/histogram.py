"""How values are spread: counts in up to about ten bins."""

from collections import Counter
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
    def description(self) -> str:
        """The same in words, without the empty bins."""
        return f"{self.title}: " + "; ".join(f"{each.label}: {each.count}" for each in self.bins if each.count)


def of_confidences(title: str, values: Sequence[float]) -> Histogram:
    """Count confidences (0..1) by tenths; the last bin holds 1, too."""
    width = 100 // _BINS
    labels = [f"{place * width}–{(place + 1) * width} %" for place in range(_BINS)]
    return _counted(title, labels, [min(int(value * _BINS), _BINS - 1) for value in values])


def of_numbers(title: str, values: Sequence[float]) -> Histogram:
    """Count numbers, at least one, in bins of the same width; of whole numbers one for each where they are few."""
    low, high = min(values), max(values)
    if all(float(value).is_integer() for value in values):
        first, last = int(low), int(high)
        width = -(-(last - first + 1) // _BINS)
        starts = range(first, last + 1, width)
        labels = [f"{at}" if width == 1 else f"{at}–{at + width - 1}" for at in starts]
        return _counted(title, labels, [(int(value) - first) // width for value in values])
    ends = [low + (high - low) * place / _BINS for place in range(_BINS + 1)]
    labels = [f"{start:.3g}–{end:.3g}" for start, end in pairwise(ends)]
    return _counted(title, labels, [min(int((value - low) / (high - low or 1) * _BINS), _BINS - 1) for value in values])


def _counted(title: str, labels: Sequence[str], places: Sequence[int]) -> Histogram:
    counts = Counter(places)
    fullest = max(1, *counts.values())
    return Histogram(
        title, tuple(Bin(label, counts[place], counts[place] / fullest) for place, label in enumerate(labels))
    )
