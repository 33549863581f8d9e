"""The trace of one attack: an animation of the photo, its perturbation, what the network sees, and how far it came."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageColor

from advimg.images.photo import Levels
from advimg.record import Prediction, Record
from advimg.report.drawing import BarList, Sheet, fitted, own_style, text_width, thin_percent, wrapped
from advimg.report.layout import (
    ABOVE_PICTURE,
    BASELINE,
    BELOW_PICTURES,
    FACT,
    GREY,
    HEADLINE,
    INK,
    LINE,
    MARGIN,
    NAME,
    OTHER,
    TARGET,
    TARGET_NAME,
    TRACK,
)
from advimg.report.trace_data import DPI, Arrangement, Frame, Point, TraceData

Animation = Literal["webp", "gif"]

# T is the title, P the picture, N the perturbation, b the bars, C and L the heads of the curves c and l.
_MOSAICS: dict[Arrangement, str] = {
    "above": """
        ......
        .TTTT.
        ......
        .P.NN.
        ......
        .b.CC.
        .b..c.
        .b.LL.
        .b..l.
        .b....
        ......
    """,
    "beside": """
        ........
        .TTTTTT.
        .....bb.
        .P.N.bb.
        .P.N.CC.
        .P.N..c.
        .P.N.LL.
        .P.N..l.
        .P.N....
        ........
    """,
    "stacked": """
        ......
        .TTTT.
        ......
        .PPPP.
        ......
        .NNNN.
        ......
        .b.CC.
        .b..c.
        .b.LL.
        .b..l.
        .b....
        ......
    """,
}
_COLUMN, _GUTTER = 220, 22
_NARROWEST = 108
"""Room for a picture's title, where the picture is narrower."""
_SIDE_FROM, _SIDE_TO = 170, 224
_BETWEEN = 14
_SCALE = 32
_CURVE_HEAD, _NEXT_CURVE_HEAD, _STEPS = 12, 21, 11
_CURVE_FROM = 26
_ROWS = 5

# Milliseconds: a photo is looked at before it changes, and the file for long.
_FIRST_LASTS, _LAST_LASTS = 1000, 3500
_ALL_LAST, _LEAST, _MOST = 12_000, 150, 500

_LARGEST = 2_800_000
"""Frames go until the file has no more bytes than this."""
_FEWEST = 16

_QUALITY = 75
# Few, for each further colour makes a GIF larger.
_PAGE_COLOURS = (INK, GREY, TRACK, TARGET, OTHER)
_PHOTO_COLOURS, _PERTURBATION_COLOURS = 80, 32


def draw_trace(record: Record, unfolding: TraceData, kind: Animation) -> bytes:
    """Draw an attack that has ended as an animation.

    Of several networks, the one is shown that is fooled least in the end, as in the figure.

    Args:
        record: what was done and seen.
        unfolding: its steps, and the file.
        kind: of the animation.

    Returns:
        The bytes of a WebP or GIF that is repeated for ever; the same input gives the same bytes.
    """
    frames = unfolding.frames
    while True:
        data = _encoded(record, unfolding, frames, kind)
        if len(data) <= _LARGEST or len(frames) <= _FEWEST:
            return data
        early, late = frames[: _FEWEST // 2], frames[_FEWEST // 2 :]
        frames = early + late[::-2][::-1]  # the last one stays


def draw_frames(record: Record, unfolding: TraceData, frames: Sequence[Frame] | None = None) -> Iterator[Levels]:
    """Draw the pictures of which the animation consists, each [height, width, 3]; all frames if none are given."""
    with own_style():
        drawing = _Drawing(record, unfolding)
    for frame in unfolding.frames if frames is None else frames:
        with own_style():
            levels = drawing.levels(frame)
        yield levels


def _encoded(record: Record, unfolding: TraceData, frames: Sequence[Frame], kind: Animation) -> bytes:
    # Drawn one by one as the encoder asks for them: together they would be large.
    pictures = (Image.fromarray(levels) for levels in draw_frames(record, unfolding, frames))
    lasts = min(_MOST, max(_LEAST, _ALL_LAST // len(frames)))
    durations = [_FIRST_LASTS, *[lasts] * (len(frames) - 2), _LAST_LASTS][-len(frames) :]
    buffer = io.BytesIO()
    common: dict[str, Any] = {"save_all": True, "append_images": pictures, "duration": durations, "loop": 0}
    if kind == "gif":
        # One palette, or colours would flicker; and no dithering, so that what stays the same is stored once.
        palette = _palette(frames)
        common["append_images"] = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
        next(common["append_images"]).save(buffer, "GIF", optimize=True, **common)
    else:
        next(pictures).save(buffer, "WEBP", quality=_QUALITY, method=4, **common)
    return buffer.getvalue()


def _palette(frames: Sequence[Frame]) -> Image.Image:
    """Return a picture whose palette has the colours of the page, of the photo, and of the perturbation."""
    greys = [channel for grey in (0, 64, 128, 160, 200, 230, 255) for channel in (grey, grey, grey)]
    page = [channel for colour in _PAGE_COLOURS for channel in ImageColor.getrgb(colour)]
    pictures = (frames[0].picture, _PHOTO_COLOURS), (frames[-1].perturbation, _PERTURBATION_COLOURS)
    values = [*greys, *page, *(channel for levels, count in pictures for channel in _colours(levels, count))]
    palette = Image.new("P", (1, 1))
    palette.putpalette(values)
    return palette


def _colours(levels: Levels, count: int) -> list[int]:
    """Return the channels of the colours, so many at the most, that stand for those of a picture."""
    reduced = Image.fromarray(levels).quantize(count, method=Image.Quantize.MEDIANCUT)
    return (reduced.getpalette() or [])[: 3 * count]


def _rows(frames: Sequence[Frame], number: int, first: Sequence[int]) -> list[int]:
    """Choose the classes that have bars: these first, then those that are most probable in any frame.

    They are in the order of the last frame, which lasts longest; those that it writes with one number are in the order
    of their peaks. Rows that changed places from frame to frame could not be followed.
    """
    peaks = np.max([frame.probabilities[number] for frame in frames], axis=0)
    last = frames[-1].probabilities[number].round(3)
    chosen = list(dict.fromkeys([*first, *np.argsort(-peaks, kind="stable").tolist()]))[:_ROWS]
    return sorted(chosen, key=lambda index: (-last[index], -peaks[index]))


def _starts(points: Sequence[Point]) -> list[int]:
    """Return at which points the counting of steps began."""
    return [number for number, point in enumerate(points) if point.step == 0]


class _Drawing:
    """The sheet on which one frame after another is drawn; what is the same in all of them stays."""

    def __init__(self, record: Record, unfolding: TraceData) -> None:
        self._record, self._unfolding = record, unfolding
        self.seen = record.least_fooled
        self._number = record.attacked.index(self.seen)
        self._starts = _starts(unfolding.points)
        present, target = self.seen.before[0], self.seen.target
        self.rows = _rows(unfolding.frames, self._number, (present.index, target.index))
        names = unfolding.names[self._number]

        width, height = (pixels * 72 / DPI for pixels in unfolding.size)
        beside = unfolding.arrangement == "beside"
        column = max(width, _NARROWEST) if beside else min(width, _COLUMN)
        side = column
        if beside:
            side = min(_SIDE_TO, max(_SIDE_FROM, 2 * (_COLUMN - column) - _GUTTER))
        bars = BarList([Prediction(index, names[index], 0) for index in self.rows], target.index, side)
        curve = (bars.height if not beside else ABOVE_PICTURE + height - bars.height - _BETWEEN) / 2
        curve = max(_CURVE_FROM, curve - (_CURVE_HEAD + _NEXT_CURVE_HEAD + _STEPS) / 2)
        curves = _CURVE_HEAD, curve, _NEXT_CURVE_HEAD, curve, _STEPS, MARGIN
        if beside:
            widths = [MARGIN, column, _GUTTER, column, _GUTTER, _SCALE, side - _SCALE, MARGIN]
            below = [bars.height + _BETWEEN - ABOVE_PICTURE, *curves]
        else:
            widths = [MARGIN, column, _GUTTER, _SCALE, column - _SCALE, MARGIN]
            pictures = [height, BASELINE + ABOVE_PICTURE, height] if unfolding.arrangement == "stacked" else [height]
            below = [*pictures, BELOW_PICTURES, *curves]

        untargeted = record.target_rule == "untargeted"
        title = wrapped(
            f"{present.name} → {'any other class' if untargeted else target.name}", HEADLINE, sum(widths[1:-1])
        )
        self._sheet = Sheet(
            _MOSAICS[unfolding.arrangement],
            widths,
            [MARGIN, (len(title) + 1) * LINE + BASELINE, ABOVE_PICTURE, *below],
            DPI,
        )
        for number, line in enumerate(title):
            self._sheet.text("T", 0, BASELINE + number * LINE, line, HEADLINE)
        model = fitted(record.least_fooled_model, FACT, sum(widths[1:-1]), middle=True)
        self._sheet.text("T", 0, BASELINE + len(title) * LINE, model, FACT)
        first = unfolding.frames[0]
        self._texts = self._sheet.picture("P", first.picture, "", "")
        grey = f"×{unfolding.amplify:g}; grey is unchanged"
        self._sheet.picture("N", first.perturbation, "Perturbation", grey)
        self._show_bars = bars.draw(self._sheet.areas["b"])
        wanted = f"not {present.name}" if untargeted else target.name
        confidences = [point.confidences[self._number] for point in unfolding.points]
        losses = [point.losses[self._number] for point in unfolding.points]
        finite = list(filter(math.isfinite, losses)) or [0.0]
        # A cross-entropy is never below 0, which is where the target is certain.
        lowest = 0.0 if record.loss == "ce" else min(finite)
        ends = lowest, max(*finite, lowest + 1e-9)
        self._show_curves = (
            self._curve("Cc", f"Confidence: {wanted}", confidences, (0.0, 1.0), thin_percent, TARGET),
            self._curve("Ll", f"Loss ({record.loss})", losses, ends, _number, INK),
        )
        last = len(unfolding.points) - 1
        what = "step" if len(self._starts) == 1 else "iteration"  # those of all starts and eps, counted on
        low, high = self._sheet.areas["l"].set_xticks([0, last or 1], ["0", f"{last} {what}{'' if last == 1 else 's'}"])
        low.label1.set_ha("left")
        high.label1.set_ha("right")

    def levels(self, frame: Frame) -> Levels:
        """Draw a frame."""
        is_last = frame is self._unfolding.frames[-1]
        self._sheet.show("P", frame.picture)
        self._sheet.show("N", frame.perturbation)
        for text, words in zip(self._texts, self._state(frame, is_last), strict=True):
            text.set_text(words)
        self._show_bars([float(frame.probabilities[self._number][index]) for index in self.rows])
        for show in self._show_curves:
            show(frame.number, is_last)
        return self._sheet.pixels()

    def _state(self, frame: Frame, is_last: bool) -> tuple[str, str]:
        """Say which step a frame shows, and with which eps and start."""
        steps = "1 step" if frame.step == 1 else f"{frame.step} steps"
        if is_last:
            reached = self._record.fooled
            return ("The file", f"✓ reached · {steps}") if reached else ("Best attempt", f"✗ not reached · {steps}")
        where = f"ε = {replace(self._record, eps=frame.eps).budget}"
        if self._record.restarts > 0 and len(self._starts) > 1:
            where = f"ε = {frame.eps:g} · start {sum(number <= frame.number for number in self._starts)}"
        return f"After {steps}" if frame.number else "The photo", where

    def _curve(
        self,
        areas: str,
        title: str,
        values: Sequence[float],
        ends: tuple[float, float],
        write: Callable[[float], str],
        colour: str,
    ) -> Callable[[int, bool], None]:
        """Draw a curve with its scale, and thin lines where steps are counted anew.

        Returns:
            What shows it up to one step, or all of it, with a dot at that step.
        """
        head, axes = (self._sheet.areas[area] for area in areas)
        room, _ = head.get_xlim()[::-1]
        value_room = text_width(thin_percent(0.9999), TARGET_NAME) + 6
        self._sheet.text(areas[0], 0, head.get_ylim()[0] - 4, fitted(title, NAME, room - value_room), NAME)
        value = self._sheet.text(areas[0], room, head.get_ylim()[0] - 4, "", TARGET_NAME, "right")
        axes.set_axis_on()
        axes.set(facecolor=TRACK, xlim=(0, max(1, len(values) - 1)), ylim=ends, xticks=[])
        axes.spines[:].set_visible(False)
        low, high = axes.set_yticks(ends, [write(end) for end in ends])
        low.label1.set_va("bottom")
        high.label1.set_va("top")
        axes.tick_params(length=0, labelcolor=GREY, labelsize=FACT.size, pad=3)
        for number in self._starts[1:]:
            axes.axvline(number, color=GREY, linewidth=0.5)
        (line,) = axes.plot([], [], color=colour, linewidth=1.25, solid_joinstyle="round", clip_on=False)
        (dot,) = axes.plot([], [], "o", color=colour, markersize=5, markeredgewidth=0, clip_on=False)
        places = np.clip(values, *ends)

        def show(number: int, whole: bool) -> None:
            value.set_text(write(values[number]))
            steps = np.arange(len(values) if whole else number + 1)
            steps = steps[np.isfinite(places[steps])]
            line.set_data(steps, places[steps])
            dot.set_data([number], [places[number]])

        return show


def _number(value: float) -> str:
    """Write a loss with as many digits as tell it from the next."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"
