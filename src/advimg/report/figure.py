"""The figure of one attack: photo + perturbation = adversarial picture, and what the classifier sees in both.

After the panda of Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples" (arXiv:1412.6572).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import matplotlib.style

from advimg.images.perturbation import amplified
from advimg.images.photo import Levels
from advimg.images.scaling import fit, pick_pixels, resample
from advimg.record import Prediction, Record
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

# All lengths are pixels of the PNG, y grows downwards.
_WIDTH = 2048
_MARGIN = 68
_GUTTER = 104
_COLUMN = (_WIDTH - 2 * _MARGIN - 2 * _GUTTER) // 3
_LEFT, _MIDDLE, _RIGHT = (_MARGIN + column * (_COLUMN + _GUTTER) for column in range(3))

_HEADING = 96
_TALLEST = 760
_BELOW_PICTURES = 52
_ROW = 82
_BAR_DOWN = 42
_BAR = 14
_LINE = 50
_FIRST_BASELINE = 28

# A picture this many times wider than high would be a thread in a column: such are stacked instead.
_STACKED_FROM = 6
_TALLEST_STACKED = 240
_BETWEEN_STACKED = 116
_BARS_HEADING = 66

_MARK = "◆"
_MARK_ROOM = 32

_TITLE = Type(10, bold=True)
_SUBTITLE = Type(7.5, colour=GREY)
_VERDICT = Type(9, bold=True)
_BARS_TITLE = Type(9, bold=True)
_NAME = Type(8)
_TARGET_NAME = Type(8, bold=True)
_TARGET_MARK = Type(8, colour=TARGET_COLOUR)
_FACT = Type(7.5, colour=GREY)


@dataclass(frozen=True, slots=True)
class _Arrangement:
    """Where the three pictures go: their size, their upper left corners, the centres of + and =, and their end."""

    size: tuple[int, int]
    corners: tuple[tuple[int, int], ...]
    plus: tuple[int, int]
    equals: tuple[int, int]
    bottom: int


def draw_figure(record: Record, before: Levels, after: Levels, *, amplify: float = 10) -> bytes:
    """Draw the photo, the perturbation and the adversarial picture, and what the classifier sees.

    Of several classifiers, the one that is fooled least.

    Args:
        record: what was done and seen.
        before: the photo, [height, width, 3].
        after: the adversarial picture, of the same shape.
        amplify: how many times larger than it is the perturbation is drawn.

    Returns:
        The bytes of a PNG, 2048 pixels wide; the same input gives the same bytes.

    Raises:
        ValueError: the pictures differ in shape.
    """
    if before.shape != after.shape:
        raise ValueError(f"the photo is {before.shape}, the adversarial picture {after.shape}")
    height, width, _ = before.shape
    stacked = width > _STACKED_FROM * height
    arrangement = _stacked(width, height) if stacked else _side_by_side(width, height)
    below = arrangement.bottom + _BELOW_PICTURES
    bars = below + _BARS_HEADING if stacked else below
    # The user's own matplotlib settings (dark styles, TeX) do not reach a figure that looks the same everywhere.
    with matplotlib.style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)  # a letter no font has is drawn as a box
        page = Page(_WIDTH, bars + _height_below(record) + _MARGIN)
        _draw_pictures(page, before, after, amplify, arrangement)
        _draw_headings(page, record, amplify, arrangement)
        if stacked:
            _draw_bars_headings(page, below + _FIRST_BASELINE)
        seen = record.least_fooled
        _draw_guesses(page, seen.before, seen.target.index, _LEFT, bars)
        _draw_verdict(page, record, below)
        _draw_guesses(page, seen.after, seen.target.index, _RIGHT, bars)
        return page.png()


def _side_by_side(width: int, height: int) -> _Arrangement:
    """Put the pictures above the three columns."""
    size = fit(width, height, _COLUMN, _TALLEST)
    top = _MARGIN + _HEADING
    middle = top + size[1] // 2
    return _Arrangement(
        size=size,
        corners=tuple((x + (_COLUMN - size[0]) // 2, top) for x in (_LEFT, _MIDDLE, _RIGHT)),
        plus=(_MIDDLE - _GUTTER // 2, middle),
        equals=(_RIGHT - _GUTTER // 2, middle),
        bottom=top + size[1],
    )


def _stacked(width: int, height: int) -> _Arrangement:
    """Put the pictures below one another, each as wide as the page allows."""
    size = fit(width, height, _WIDTH - 2 * _MARGIN, _TALLEST_STACKED)
    tops = [_MARGIN + _HEADING + place * (_HEADING + size[1] + _BETWEEN_STACKED) for place in range(3)]
    plus, equals = (top - _HEADING - _BETWEEN_STACKED // 2 for top in tops[1:])
    return _Arrangement(
        size=size,
        corners=tuple(((_WIDTH - size[0]) // 2, top) for top in tops),
        plus=(_WIDTH // 2, plus),
        equals=(_WIDTH // 2, equals),
        bottom=tops[-1] + size[1],
    )


def _draw_pictures(page: Page, before: Levels, after: Levels, amplify: float, arrangement: _Arrangement) -> None:
    """Draw photo + perturbation = adversarial picture."""
    size = arrangement.size
    perturbation = amplified(pick_pixels(before, size), pick_pixels(after, size), amplify)
    pictures = resample(before, size), perturbation, resample(after, size)
    for (x, y), picture in zip(arrangement.corners, pictures, strict=True):
        page.picture(x, y, picture)
    _draw_plus(page, *arrangement.plus)
    _draw_equals(page, *arrangement.equals)


def _draw_headings(page: Page, record: Record, amplify: float, arrangement: _Arrangement) -> None:
    """Write above each picture what it is."""
    source = cut_middle(page, _base_name(record.source), _SUBTITLE, _COLUMN)
    shown = "grey is unchanged" if amplify == 1 else f"amplified ×{amplify:g}; grey is unchanged"
    change = f"largest change: {record.linf} of 255 levels" if record.linf else "nothing changed"
    headings = ("Photo", source), ("Perturbation", shown), ("Adversarial picture", change)
    for (x, y), (title, subtitle) in zip(arrangement.corners, headings, strict=True):
        middle = x + arrangement.size[0] / 2
        page.text(middle, y - 72, title, _TITLE, "center")
        page.text(middle, y - 28, subtitle, _SUBTITLE, "center")


def _draw_bars_headings(page: Page, baseline: int) -> None:
    """Write above the bars which picture they belong to, where it is not right above them."""
    page.text(_LEFT, baseline, "Photo", _BARS_TITLE)
    page.text(_RIGHT, baseline, "Adversarial picture", _BARS_TITLE)


def _draw_plus(page: Page, x: int, y: int) -> None:
    """Draw a plus sign centred on (x, y); as boxes, since a font's is not centred on its line."""
    page.box(x - 20, y - 3, 40, 6, INK)
    page.box(x - 3, y - 20, 6, 40, INK)


def _draw_equals(page: Page, x: int, y: int) -> None:
    """Draw an equals sign centred on (x, y)."""
    page.box(x - 20, y - 13, 40, 6, INK)
    page.box(x - 20, y + 7, 40, 6, INK)


def _draw_guesses(page: Page, predictions: Sequence[Prediction], target: int, x: int, y: int) -> None:
    """Draw one row a class: its name and confidence, and a bar under them on a track as long as 100 %."""
    for row, prediction in enumerate(predictions):
        top = y + row * _ROW
        is_target = prediction.index == target
        _draw_class(page, prediction, is_target, x, top + _FIRST_BASELINE)
        page.box(x, top + _BAR_DOWN, _COLUMN, _BAR, TRACK_COLOUR)
        length = round(_COLUMN * prediction.confidence)
        page.box(x, top + _BAR_DOWN, length, _BAR, TARGET_COLOUR if is_target else OTHER_COLOUR)


def _draw_class(page: Page, prediction: Prediction, is_target: bool, x: int, baseline: int) -> None:
    """Write a class name on the left, shortened if need be, and its confidence on the right; mark the target."""
    type_ = _TARGET_NAME if is_target else _NAME
    confidence = thin_percent(prediction.confidence)
    page.text(x + _COLUMN, baseline, confidence, type_, "right")
    room = _COLUMN - page.text_width(confidence, type_) - 24
    if is_target:
        _draw_marked(page, x, baseline, cut_end(page, prediction.name, type_, room - _MARK_ROOM), type_)
    else:
        page.text(x, baseline, cut_end(page, prediction.name, type_, room), type_)


def _draw_marked(page: Page, x: float, baseline: float, text: str, type_: Type) -> None:
    """Write text behind the target's mark."""
    page.text(x, baseline, _MARK, _TARGET_MARK)
    page.text(x + _MARK_ROOM, baseline, text, type_)


def _draw_verdict(page: Page, record: Record, y: int) -> None:
    """Write between the bars whether the target was reached, what is seen if not, and how it was tried.

    The mark beside the target's name here says what it means in the bars.
    """
    centre = _MIDDLE + _COLUMN / 2
    baseline = y + _FIRST_BASELINE
    page.text(centre, baseline, "✓ target reached" if record.fooled else "✗ target not reached", _VERDICT, "center")
    baseline += _LINE
    room = _COLUMN - _MARK_ROOM
    seen = record.least_fooled
    target = _cut_name(page, "", seen.target.name, f": {thin_percent(seen.confidence)}", room)
    _draw_marked(page, centre - (_MARK_ROOM + page.text_width(target, _NAME)) / 2, baseline, target, _NAME)
    if not record.fooled:
        baseline += _LINE
        instead = _cut_name(page, "seen instead: ", seen.after[0].name, "", _COLUMN)
        page.text(centre, baseline, instead, _NAME, "center")
    baseline += _LINE // 2
    for fact in _facts(record):
        baseline += _LINE
        page.text(centre, baseline, cut_middle(page, fact, _FACT, _COLUMN), _FACT, "center")


def _facts(record: Record) -> tuple[str, str]:
    """Return the lines that say what was done, and to which model."""
    steps = "1 step" if record.steps == 1 else f"{record.steps} steps"
    return f"ε = {record.budget} · {steps}", record.least_fooled_model


def _height_below(record: Record) -> int:
    """Return how tall the part below the pictures is: bars left and right, the verdict between them."""
    seen = record.least_fooled
    rows = max(len(seen.before), len(seen.after))
    bars = (rows - 1) * _ROW + _BAR_DOWN + _BAR
    lines = 3 if record.fooled else 4
    return max(bars, _FIRST_BASELINE + lines * _LINE + _LINE // 2 + 10)


def _base_name(source: str) -> str:
    """Return a file's name without its folders."""
    return PurePath(source).name or source


def _cut_name(page: Page, before: str, name: str, after: str, room: float) -> str:
    """Return the three in a row, the name shortened if they are wider than ``room``."""
    return before + cut_end(page, name, _NAME, room - page.text_width(before + after, _NAME)) + after
