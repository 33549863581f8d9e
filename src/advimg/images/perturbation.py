"""The difference between a photo and its adversarial picture: its size, and a picture of it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from advimg.images.photo import Levels
from advimg.settings import Norm

# Rows at a time: the temporaries of a whole 12-megapixel photo would need more memory than anything else.
_ROWS = 128


@dataclass(frozen=True, slots=True)
class Change:
    """How much a picture was changed.

    Attributes:
        linf: the largest change of any channel of any pixel, in levels.
        l2: the Euclidean length of the change of all channels; 255 levels are 1.
        psnr: peak signal-to-noise ratio over all channels, in decibels; None where nothing changed.
    """

    linf: int
    l2: float
    psnr: float | None

    def within(self, eps: float, norm: Norm) -> bool:
        """Tell whether the change is within a budget."""
        return (self.linf if norm == "linf" else self.l2) <= eps


def measure_change(before: Levels, after: Levels) -> Change:
    """Measure the change between two pictures of one shape [height, width, 3]."""
    counts = np.zeros(256, dtype=np.int64)
    for old, new in _strips(before, after):
        counts += np.bincount((np.maximum(old, new) - np.minimum(old, new)).ravel(), minlength=256)
    sizes = np.arange(256)
    squares = int((counts * sizes**2).sum())
    mean_square = squares / int(counts.sum())
    psnr = round(10 * math.log10(255**2 / mean_square), 2) if mean_square > 0 else None
    return Change(linf=int(sizes[counts > 0].max()), l2=math.sqrt(squares) / 255, psnr=psnr)


def amplified(before: Levels, after: Levels, factor: float) -> Levels:
    """Return a picture of the perturbation: mid-grey + factor·δ, clipped to 0..255; [height, width, 3]."""
    table = np.rint(128 + factor * np.arange(-255, 256)).clip(0, 255).astype(np.uint8)
    picture = np.empty_like(before)
    for old, new, out in _strips(before, after, picture):
        np.take(table, new.astype(np.int16) - old + 255, out=out, mode="clip")
    return picture


def _strips(*pictures: Levels) -> Iterator[tuple[Levels, ...]]:
    for top in range(0, len(pictures[0]), _ROWS):
        yield tuple(picture[top : top + _ROWS] for picture in pictures)
