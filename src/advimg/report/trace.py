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
from advimg.report import layout
from advimg.report.drawing import BarList, Sheet, fitted, own_style, text_width, thin_percent, wrapped, write
from advimg.report.trace_data import DPI, Arrangement, Frame, TraceData

Animation = Literal["webp", "gif"]

# T is the title, P the picture, N the perturbation, b the bars, C and L the heads of the curves c and l.
_TOP = """
TTTT
....
"""
_BELOW = """
....
b.CC
b..c
b.LL
b..l
b...
"""
_MOSAICS: dict[Arrangement, str] = {
    "above": f"{_TOP}P.NN{_BELOW}",
    "stacked": f"{_TOP}PPPP\n....\nNNNN{_BELOW}",
    "beside": """
TTTTTT
....bb
P.N.bb
P.N.CC
P.N..c
P.N.LL
P.N..l
P.N...
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
_PAGE_COLOURS = (layout.INK, layout.GREY, layout.TRACK, layout.TARGET, layout.OTHER)
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
        palette = _palette(frames[0].picture, unfolding.perturbation(frames[-1]))
        common["append_images"] = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
        next(common["append_images"]).save(buffer, "GIF", optimize=True, **common)
    else:
        next(pictures).save(buffer, "WEBP", quality=_QUALITY, method=4, **common)
    return buffer.getvalue()


def _palette(photo: Levels, perturbation: Levels) -> Image.Image:
    """Return a picture whose palette has the colours of the page, of the photo, and of the perturbation."""
    greys = [channel for grey in (0, 64, 128, 160, 200, 230, 255) for channel in (grey, grey, grey)]
    page = [channel for colour in _PAGE_COLOURS for channel in ImageColor.getrgb(colour)]
    pictures = (photo, _PHOTO_COLOURS), (perturbation, _PERTURBATION_COLOURS)
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


class _Drawing:
    """The sheet on which one frame after another is drawn; what is the same in all of them stays."""

    def __init__(self, record: Record, unfolding: TraceData) -> None:
        self._record, self._unfolding = record, unfolding
        self.seen = record.least_fooled
        self._number = record.attacked.index(self.seen)
        self._starts = [number for number, point in enumerate(unfolding.points) if point.step == 0]
        present, target = self.seen.before[0], self.seen.target
        self.rows = _rows(unfolding.frames, self._number, (present.index, target.index))
        untargeted = record.target_rule == "untargeted"
        self._draw_sheet(f"{present.name} → {'any other class' if untargeted else target.name}")
        self._draw_curves(f"not {present.name}" if untargeted else target.name)

    def _draw_sheet(self, title: str) -> None:
        """Lay the sheet out by the photo's shape, and draw its title and bars."""
        names, arrangement = self._unfolding.names[self._number], self._unfolding.arrangement
        width, height = (pixels * 72 / DPI for pixels in self._unfolding.size)
        beside = arrangement == "beside"
        column = max(width, _NARROWEST) if beside else min(width, _COLUMN)
        side = min(_SIDE_TO, max(_SIDE_FROM, 2 * (_COLUMN - column) - _GUTTER)) if beside else column
        classes = [Prediction(index, names[index], 0) for index in self.rows]
        bars = BarList(classes, self.seen.target.index, side)
        for_curves = layout.ABOVE_PICTURE + height - bars.height - _BETWEEN if beside else bars.height
        curve = max(_CURVE_FROM, (for_curves - _CURVE_HEAD - _NEXT_CURVE_HEAD - _STEPS) / 2)
        columns, above_curves = [column, _GUTTER], [height, layout.BELOW_PICTURES]
        if beside:
            columns += [column, _GUTTER]
            above_curves = [bars.height + _BETWEEN - layout.ABOVE_PICTURE]
        elif arrangement == "stacked":
            above_curves = [height, layout.BASELINE + layout.ABOVE_PICTURE, *above_curves]
        widths = [*columns, _SCALE, side - _SCALE]
        lines = wrapped(title, layout.HEADLINE, sum(widths))
        top = (len(lines) + 1) * layout.LINE + layout.BASELINE
        curves = [_CURVE_HEAD, curve, _NEXT_CURVE_HEAD, curve, _STEPS]
        heights = [top, layout.ABOVE_PICTURE, *above_curves, *curves]
        self._sheet = Sheet(_MOSAICS[arrangement], widths, heights, DPI)
        self._show_bars = bars.draw(self._sheet.areas["b"])
        model = fitted(self._record.least_fooled_model, layout.FACT, sum(widths), middle=True)
        for number, line in enumerate([*lines, model]):
            type_ = layout.HEADLINE if number < len(lines) else layout.FACT
            write(self._sheet.areas["T"], 0, layout.BASELINE + number * layout.LINE, line, type_)

    def _draw_curves(self, wanted: str) -> None:
        """Draw the scales on which the curves of confidence and loss come to lie."""
        points = self._unfolding.points
        confidences = [point.confidences[self._number] for point in points]
        losses = [point.losses[self._number] for point in points]
        finite = list(filter(math.isfinite, losses)) or [0.0]
        # A cross-entropy is never below 0, which is where the target is certain.
        lowest = 0.0 if self._record.loss == "ce" else min(finite)
        ends = lowest, max(*finite, lowest + 1e-9)
        self._show_curves = (
            self._curve("Cc", f"Confidence: {wanted}", confidences, (0.0, 1.0), thin_percent, layout.TARGET),
            self._curve("Ll", f"Loss ({self._record.loss})", losses, ends, _number, layout.INK),
        )
        last = len(points) - 1
        what = "step" if len(self._starts) == 1 else "iteration"  # those of all starts and eps, counted on
        ticks = self._sheet.areas["l"].set_xticks([0, last or 1], ["0", f"{last} {what}{'' if last == 1 else 's'}"])
        for tick, side in zip(ticks, ("left", "right"), strict=True):
            tick.label1.set_ha(side)

    def levels(self, frame: Frame) -> Levels:
        """Draw a frame."""
        is_last = frame is self._unfolding.frames[-1]
        grey = f"×{self._unfolding.factor:g}; grey is unchanged"
        self._sheet.picture("P", frame.picture, *self._state(frame, is_last))
        self._sheet.picture("N", self._unfolding.perturbation(frame), "Perturbation", grey)
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
        where = f"ε = {replace(self._record, settings={**self._record.settings, 'eps': frame.eps}).budget}"
        if self._record.restarts > 0 and len(self._starts) > 1:
            where = f"ε = {frame.eps:g} · start {sum(number <= frame.number for number in self._starts)}"
        return f"After {steps}" if frame.number else "The photo", where

    def _curve(
        self,
        areas: str,
        title: str,
        values: Sequence[float],
        ends: tuple[float, float],
        written: Callable[[float], str],
        colour: str,
    ) -> Callable[[int, bool], None]:
        """Draw a curve with its scale, and thin lines where steps are counted anew.

        Returns:
            What shows it up to one step, or all of it, with a dot at that step.
        """
        head, axes = (self._sheet.areas[area] for area in areas)
        (_, room), (below, _) = head.get_xlim(), head.get_ylim()
        value = write(head, room, below - 4, "", layout.TARGET_NAME, "right")
        room -= text_width(thin_percent(0.9999), layout.TARGET_NAME) + 6
        write(head, 0, below - 4, fitted(title, layout.NAME, room), layout.NAME)
        axes.set_axis_on()
        axes.set(facecolor=layout.TRACK, xlim=(0, max(1, len(values) - 1)), ylim=ends, xticks=[])
        axes.spines[:].set_visible(False)
        for tick, side in zip(axes.set_yticks(ends, list(map(written, ends))), ("bottom", "top"), strict=True):
            tick.label1.set_va(side)
        axes.tick_params(length=0, labelcolor=layout.GREY, labelsize=layout.FACT.size, pad=3)
        for number in self._starts[1:]:
            axes.axvline(number, color=layout.GREY, linewidth=0.5)
        (line,) = axes.plot([], [], color=colour, linewidth=1.25, solid_joinstyle="round", clip_on=False)
        (dot,) = axes.plot([], [], "o", color=colour, markersize=5, markeredgewidth=0, clip_on=False)
        places = np.where(np.isfinite(values), np.clip(values, *ends), np.nan)

        def show(number: int, whole: bool) -> None:
            value.set_text(written(values[number]))
            steps = np.arange(len(values) if whole else number + 1)
            steps = steps[np.isfinite(places[steps])]
            line.set_data(steps, places[steps])
            dot.set_data([number], [places[number]])

        return show


def _number(value: float) -> str:
    """Write a loss with as many digits as tell it from the next."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"
