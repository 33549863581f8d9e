"""An attack as it unfolds: a point for every step, and small pictures of some of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from advimg.images.perturbation import Amplify, amplified, factor_for, measure_change
from advimg.images.photo import Levels
from advimg.images.scaling import fit, pick_pixels, resample
from advimg.report.layout import is_panorama

Probabilities = Sequence[npt.NDArray[np.float64]]
"""What each network sees in one picture: softmax of its logits, [classes]."""

Arrangement = Literal["above", "beside", "stacked"]
"""Where the pictures go: above what is seen in them, beside that, or one above the other."""

DPI = 144
"""Pixels an inch of what is drawn."""

# The widest and tallest that each of two pictures may be, in pixels.
_ROOM: dict[Arrangement, tuple[int, int]] = {"above": (440, 448), "beside": (290, 420), "stacked": (924, 236)}

_UPRIGHT_TO = 0.69
"""Photos that are as narrow as this leave room for all else beside them."""

# Every early step has a frame, for most happens there; when there are too many, later ones go.
_EARLY = 24
_MOST = 60


@dataclass(frozen=True, slots=True)
class Point:
    """Where each network stood at one step.

    Attributes:
        step: how many steps led there, from its own start.
        eps: that was tried.
        confidences: of what is wanted, 0..1.
        losses: what the attack went down, at temperature 1.
    """

    step: int
    eps: float
    confidences: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One step to be shown.

    Attributes:
        number: of its point.
        step, eps: as of a point.
        picture: at the size it is shown at.
        coarse: the picture at half that size, its pixels picked, for the perturbation.
        probabilities: what each network sees.
    """

    number: int
    step: int
    eps: float
    picture: Levels
    coarse: Levels
    probabilities: tuple[npt.NDArray[np.float32], ...]


class TraceData:
    """Keeps what is needed to show one attack: for every step a few numbers, and at most 60 frames.

    Args:
        photo: [height, width, 3].
        names: of each network's classes.
        amplify: how many times larger than it is the perturbation is shown, or "auto": by the change of the file.

    Attributes:
        arrangement: of the pictures, by the photo's shape.
        size: width and height at which pictures are shown, in pixels.
        points: one for each step, of all starts and eps, in order.
        factor: by which perturbations are shown; "auto" is known once the attack has ended.
        frames: rising; the file itself is the last, once the attack has ended.
    """

    def __init__(self, photo: Levels, names: Sequence[Sequence[str]], *, amplify: Amplify = "auto") -> None:
        self._photo = photo
        self.names = names
        self._amplify = amplify
        self.factor = factor_for(amplify, 0)
        height, width, _ = photo.shape
        upright: Arrangement = "beside" if width <= _UPRIGHT_TO * height else "above"
        self.arrangement: Arrangement = "stacked" if is_panorama(width, height) else upright
        room = _ROOM[self.arrangement]
        # Even, so that each pixel that is picked is two by two: lossy formats blur colours over squares of that size.
        self._coarse = fit(width, height, room[0] // 2, room[1] // 2)
        self.size = (2 * self._coarse[0], 2 * self._coarse[1])
        self.points: list[Point] = []
        self.frames: list[Frame] = []
        self._stride = 1

    def add(self, point: Point, levels: Levels, probabilities: Probabilities) -> None:
        """Add the next step: where it stands, its picture [height, width, 3], and what is seen in that."""
        number = len(self.points)
        self.points.append(point)
        if number >= _EARLY and number % self._stride:
            return
        self.frames.append(self._frame(number, point.step, point.eps, levels, probabilities))
        # One place is the file's.
        while len(self.frames) >= _MOST:
            self._stride *= 2
            self.frames = [frame for frame in self.frames if frame.number < _EARLY or frame.number % self._stride == 0]

    def end(self, levels: Levels, probabilities: Probabilities, *, step: int, eps: float) -> None:
        """Add the file: its picture, what is seen in it, how many steps led to it, and its eps."""
        self.factor = factor_for(self._amplify, measure_change(self._photo, levels).linf)
        # Of several starts, the last that came so far: rarely another than the one that gave the file.
        number = max(number for number, point in enumerate(self.points) if (point.step, point.eps) == (step, eps))
        if self.frames[-1].number == number:  # the same picture
            self.frames.pop()
        self.frames.append(self._frame(number, step, eps, levels, probabilities))

    def perturbation(self, frame: Frame) -> Levels:
        """Return a frame's perturbation, amplified, at the size of its picture."""
        before = pick_pixels(self._photo, self._coarse)
        return amplified(before, frame.coarse, self.factor).repeat(2, axis=0).repeat(2, axis=1)

    def _frame(self, number: int, step: int, eps: float, levels: Levels, probabilities: Probabilities) -> Frame:
        return Frame(
            number=number,
            step=step,
            eps=eps,
            picture=resample(levels, self.size),
            coarse=pick_pixels(levels, self._coarse),
            probabilities=tuple(each.astype(np.float32) for each in probabilities),
        )
