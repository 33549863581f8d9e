"""The difference between a photo and its adversarial picture: its size, and a picture of it."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from advimg.errors import UsageError
from advimg.images.decode import text_chunk
from advimg.images.photo import Levels
from advimg.settings import Norm
from advimg.storage.url import Place

Amplify = float | Literal["auto"]
"""The factor by which a perturbation is shown, or "auto", which lets its largest change span the range."""

PERTURBATION_KEY = "advimg-perturbation"
"""The key of the text chunk by which the picture of a perturbation is known."""

_LEAST = 10
_SPAN = 127

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


class Shown(NamedTuple):
    """How much a perturbation was amplified in its picture: what was asked for, and the factor."""

    asked: Amplify
    factor: float

    def to_chunk(self) -> str:
        """Return the text chunk of the picture."""
        return json.dumps({"amplify": self.factor, "asked": self.asked})


def check_amplify(amplify: Amplify) -> Amplify:
    """Return ``amplify`` if it is "auto" or a factor that shows something.

    Raises:
        UsageError: it is neither.
    """
    # Not a number is out of range, too. 255 makes a change of one level black or white.
    if amplify != "auto" and not 0 < amplify <= 255:
        raise UsageError(f"amplify {amplify:g}: give auto, or a factor above 0 and at most 255, like 10")
    return amplify


def factor_for(amplify: Amplify, linf: int) -> float:
    """Return the factor for a perturbation whose largest change has so many levels: "auto" is never less than 10."""
    if amplify != "auto":
        return amplify
    return max(_LEAST, _SPAN // linf) if linf else _LEAST


def shown_in(path: Place) -> Shown | None:
    """Return how much a perturbation was amplified in a picture; None if its file does not say."""
    return shown_by(text_chunk(path, PERTURBATION_KEY))


def shown_by(chunk: str | None) -> Shown | None:
    """Return what the text chunk of a perturbation's picture says; None if it is none."""
    try:
        values = json.loads(chunk or "")
        return Shown(values["asked"], float(values["amplify"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


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
