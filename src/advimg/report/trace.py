"""The trace of one attack: an animation of the photo, its perturbation, what the network sees, and how far it came."""

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.style
import numpy as np
from PIL import Image, ImageColor

from advimg.images.photo import Levels
from advimg.record import NetworkRecord, Record
from advimg.report.page import (
    GREY,
    INK,
    OTHER_COLOUR,
    TARGET_COLOUR,
    TRACK_COLOUR,
    Page,
    Type,
    cut_end,
    cut_middle,
    thin_percent,
)
from advimg.report.trace_data import WIDEST, WIDEST_STACKED, Frame, Point, TraceData

Animation = Literal["webp", "gif"]

# All lengths are pixels of a frame, y grows downwards.
_WIDTH = 1000
_MARGIN = (_WIDTH - WIDEST_STACKED) // 2
_COLUMN = WIDEST
_LEFT, _RIGHT = _MARGIN, _WIDTH - _MARGIN - _COLUMN
_FIRST_BASELINE = 44
_TOP = 62
_CAPTION = 34
_CAPTION_BASELINE = 24
_BELOW_PICTURES = 26
_ROWS = 5
_ROW = 47
_NAME_BASELINE = 18
_BAR_DOWN = 27
_BAR = 10
_PLOT = 66
_PLOT_DOWN = 30
_NEXT_PLOT = 116
_SCALE = 58
_BELOW_PLOTS = 24
_MARK = "◆"
_MARK_ROOM = 20

_TITLE = Type(5.4, bold=True)
_CAPTION_TYPE = Type(4.8, bold=True)
_NAME = Type(4.8)
_TARGET_NAME = Type(4.8, bold=True)
_TARGET_MARK = Type(4.8, colour=TARGET_COLOUR)
_FACT = Type(4.4, colour=GREY)

# Milliseconds: a photo is looked at before it changes, and the file for long.
_FIRST_LASTS, _LAST_LASTS = 1000, 3500
_ALL_LAST, _LEAST, _MOST = 12_000, 150, 500

_LARGEST = 2_800_000
"""Frames go until the file has no more bytes than this."""
_FEWEST = 16

_QUALITY = 75
# Few, for each further colour makes a GIF larger.
_PAGE_COLOURS = (INK, GREY, TRACK_COLOUR, TARGET_COLOUR, OTHER_COLOUR)
_PHOTO_COLOURS, _PERTURBATION_COLOURS = 80, 32


@dataclass(frozen=True, eq=False, slots=True)
class _Story:
    """What is the same in all frames.

    Attributes:
        number: of the network that is shown.
        seen: what it sees before and after.
        rows: the indices of the classes that have bars.
        names: of all its classes.
        ends: the lowest and the highest loss.
        several_eps, several_starts: whether it takes these to say which step a frame shows.
    """

    record: Record
    unfolding: TraceData
    number: int
    seen: NetworkRecord
    rows: tuple[int, ...]
    names: Sequence[str]
    ends: tuple[float, float]
    several_eps: bool
    several_starts: bool


@dataclass(frozen=True, eq=False, slots=True)
class _Curve:
    """What is plotted: a value for each step, the ends of the scale, and how values are written."""

    title: str
    values: Sequence[float]
    ends: tuple[float, float]
    write: Callable[[float], str]
    colour: str


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
    """Draw the pictures of which the animation consists, each [height, 1000, 3]; all frames if none are given."""
    story = _story(record, unfolding)
    for frame in unfolding.frames if frames is None else frames:
        # The user's own matplotlib settings (dark styles, TeX) do not reach a picture that looks the same everywhere.
        with matplotlib.style.context("default"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)  # a letter no font has is drawn as a box
            levels = _draw(story, frame)
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


def _story(record: Record, unfolding: TraceData) -> _Story:
    seen = record.least_fooled
    number = record.attacked.index(seen)
    losses = [point.losses[number] for point in unfolding.points if math.isfinite(point.losses[number])] or [0.0]
    # A cross-entropy is never below 0, which is where the target is certain.
    lowest = 0.0 if record.loss == "ce" else min(losses)
    return _Story(
        record=record,
        unfolding=unfolding,
        number=number,
        seen=seen,
        rows=_rows(unfolding.frames, number, (seen.before[0].index, seen.target.index)),
        names=unfolding.names[number],
        ends=(lowest, max(*losses, lowest + 1e-9)),
        several_eps=len({point.eps for point in unfolding.points}) > 1,
        several_starts=record.restarts > 0 and len(_starts(unfolding.points)) > 1,
    )


def _rows(frames: Sequence[Frame], number: int, first: Sequence[int]) -> tuple[int, ...]:
    """Choose the classes that have bars: these first, then those that are most probable in any frame."""
    peaks = np.max([frame.probabilities[number] for frame in frames], axis=0)
    by_peak = np.argsort(-peaks, kind="stable").tolist()
    return tuple(dict.fromkeys([*first, *by_peak]))[:_ROWS]


def _starts(points: Sequence[Point]) -> list[int]:
    """Return at which points the counting of steps began."""
    return [number for number, point in enumerate(points) if point.step == 0]


def _draw(story: _Story, frame: Frame) -> Levels:
    _, height = story.unfolding.size
    if story.unfolding.stacked:
        places = [(_MARGIN, _TOP + place * (_CAPTION + height + 14) + _CAPTION) for place in range(2)]
    else:
        places = [(x, _TOP + _CAPTION) for x in (_LEFT, _RIGHT)]
    below = places[1][1] + height + _BELOW_PICTURES
    page = Page(_WIDTH, below + 2 * _NEXT_PLOT + _BELOW_PLOTS)
    _draw_title(page, story)
    texts = _state(story, frame), f"Perturbation ×{story.unfolding.amplify:g}; grey is unchanged"
    room = WIDEST_STACKED if story.unfolding.stacked else _COLUMN
    for (x, y), text, levels in zip(places, texts, (frame.picture, frame.perturbation), strict=True):
        caption = cut_end(page, text, _CAPTION_TYPE, room)
        page.text(x, y - _CAPTION + _CAPTION_BASELINE, caption, _CAPTION_TYPE)
        page.picture(x, y, levels)
    for row, index in enumerate(story.rows):
        _draw_bar(page, story, index, float(frame.probabilities[story.number][index]), below + row * _ROW)
    _draw_plots(page, story, frame, below)
    return page.levels()


def _draw_title(page: Page, story: _Story) -> None:
    """Write what the network saw and what it shall see; who it is; and what of the photo may change."""
    record, seen = story.record, story.seen
    facts = cut_middle(page, f"{record.least_fooled_model} · ε = {record.budget}", _FACT, WIDEST_STACKED / 2)
    page.text(_WIDTH - _MARGIN, _FIRST_BASELINE, facts, _FACT, "right")
    untargeted = record.target_rule == "untargeted"
    wanted = f"{seen.before[0].name} → {'any other class' if untargeted else seen.target.name}"
    room = WIDEST_STACKED - page.text_width(facts, _FACT) - 40
    page.text(_MARGIN, _FIRST_BASELINE, cut_end(page, wanted, _TITLE, room), _TITLE)


def _state(story: _Story, frame: Frame) -> str:
    """Say which step a frame shows."""
    steps = "1 step" if frame.step == 1 else f"{frame.step} steps"
    if frame is story.unfolding.frames[-1]:
        reached = story.record.fooled
        return f"The file, {steps}: ✓ target reached" if reached else f"Best attempt, {steps}: ✗ target not reached"
    where = f", ε = {frame.eps}" if story.several_eps else ""
    if story.several_starts:
        start = sum(number <= frame.number for number in _starts(story.unfolding.points))
        where += f", start {start}"
    return f"The photo after {steps}{where}" if frame.number else f"The photo{where}"


def _draw_bar(page: Page, story: _Story, index: int, confidence: float, y: int) -> None:
    """Draw a class's name and confidence, and a bar under them on a track as long as 100 %."""
    is_target = index == story.seen.target.index
    type_ = _TARGET_NAME if is_target else _NAME
    figure = thin_percent(confidence)
    page.text(_LEFT + _COLUMN, y + _NAME_BASELINE, figure, type_, "right")
    indent = _MARK_ROOM if is_target else 0
    # As if the figure were the widest there is: a name that is cut is cut the same in every frame.
    room = _COLUMN - indent - page.text_width(thin_percent(0.99999), type_) - 16
    if is_target:
        page.text(_LEFT, y + _NAME_BASELINE, _MARK, _TARGET_MARK)
    page.text(_LEFT + indent, y + _NAME_BASELINE, cut_end(page, story.names[index], type_, room), type_)
    page.box(_LEFT, y + _BAR_DOWN, _COLUMN, _BAR, TRACK_COLOUR)
    page.box(_LEFT, y + _BAR_DOWN, _COLUMN * confidence, _BAR, TARGET_COLOUR if is_target else OTHER_COLOUR)


def _draw_plots(page: Page, story: _Story, frame: Frame, y: int) -> None:
    """Draw the confidence of what is wanted and the loss, up to the frame's step, or all with a dot at the file's."""
    points = story.unfolding.points
    if frame is not story.unfolding.frames[-1]:
        points = points[: frame.number + 1]
    untargeted = story.record.target_rule == "untargeted"
    wanted = f"not {story.seen.before[0].name}" if untargeted else story.seen.target.name
    confidences = [point.confidences[story.number] for point in points]
    losses = [point.losses[story.number] for point in points]
    curves = (
        _Curve(f"Confidence: {wanted}", confidences, (0.0, 1.0), thin_percent, TARGET_COLOUR),
        _Curve(f"Loss ({story.record.loss})", losses, story.ends, _number, INK),
    )
    for place, curve in enumerate(curves):
        _draw_curve(page, story, curve, frame.number, y + place * _NEXT_PLOT)
    last = len(story.unfolding.points) - 1
    baseline = y + _NEXT_PLOT + _PLOT_DOWN + _PLOT + 20
    page.text(_RIGHT + _SCALE, baseline, "0", _FACT)
    what = "step" if len(_starts(story.unfolding.points)) == 1 else "look"  # those of all starts and eps, counted on
    page.text(_RIGHT + _COLUMN, baseline, f"1 {what}" if last == 1 else f"{last} {what}s", _FACT, "right")


def _draw_curve(page: Page, story: _Story, curve: _Curve, dot: int, y: int) -> None:
    """Draw a curve with its scale, a dot at one step with its value, thin lines where steps are counted anew."""
    left, right, top, bottom = _RIGHT + _SCALE, _RIGHT + _COLUMN, y + _PLOT_DOWN, y + _PLOT_DOWN + _PLOT
    low, high = curve.ends
    value = curve.write(curve.values[dot])
    page.text(right, y + _NAME_BASELINE, value, _TARGET_NAME, "right")
    room = right - left - page.text_width(value, _TARGET_NAME) - 16
    page.text(left, y + _NAME_BASELINE, cut_end(page, curve.title, _NAME, room), _NAME)
    page.box(left, top, right - left, _PLOT, TRACK_COLOUR)
    page.text(left - 8, bottom, curve.write(low), _FACT, "right")
    page.text(left - 8, top + 12, curve.write(high), _FACT, "right")
    across = (right - left) / max(1, len(story.unfolding.points) - 1)
    for number in _starts(story.unfolding.points)[1:]:
        page.line([(left + number * across, top), (left + number * across, bottom)], GREY, 1)
    places = {
        number: (left + number * across, bottom - _PLOT * min(1.0, max(0.0, (value - low) / (high - low))))
        for number, value in enumerate(curve.values)
        if math.isfinite(value)
    }
    if len(places) > 1:
        page.line([*places.values()], curve.colour, 2.5)
    if dot in places:
        page.dot(*places[dot], curve.colour, 10)


def _number(value: float) -> str:
    """Write a loss with as many digits as tell it from the next."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"
