"""The figure of one attack: photo + perturbation = adversarial picture, and what the classifier sees in both.

After the panda of Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples" (arXiv:1412.6572).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from advimg.images.perturbation import amplified
from advimg.images.photo import Levels
from advimg.images.scaling import fit, pick_pixels, resample
from advimg.record import Record
from advimg.report.drawing import BarList, Sheet, fitted, own_style, text_width, thin_percent, to_png, wrapped
from advimg.report.layout import (
    ABOVE_PICTURE,
    BASELINE,
    BELOW_PICTURES,
    FACT,
    HEADING,
    INK,
    LINE,
    MARGIN,
    MARK,
    MARK_ROOM,
    MARK_TYPE,
    NAME,
    NAME_LINE,
    Type,
    is_panorama,
)

_DPI = 256
_COLUMN, _GUTTER = 160, 29
_WIDTHS = MARGIN, _COLUMN, _GUTTER, _COLUMN, _GUTTER, _COLUMN, MARGIN
_TALLEST, _TALLEST_STACKED = 214, 68
_SIGN = 33
_ABOVE_BARS = 18

# P is the photo, N the perturbation, A the adversarial picture; b and a what is seen before and after, v the verdict.
_BESIDE = """
    .......
    .......
    .P.N.A.
    .......
    .b.v.a.
    .......
"""
_STACKED = """
    .......
    .......
    .PPPPP.
    .......
    .......
    .NNNNN.
    .......
    .......
    .AAAAA.
    .......
    .b.v.a.
    .......
"""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the verdict: how it is set, how far below the last one, and whether the target's mark leads it."""

    text: str
    type_: Type
    down: float = LINE
    marked: bool = False


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
    stacked = is_panorama(width, height)
    room = (_COLUMN, _TALLEST) if not stacked else (sum(_WIDTHS[1:-1]), _TALLEST_STACKED)
    size = fit(width, height, *(round(length * _DPI / 72) for length in room))
    perturbation = amplified(pick_pixels(before, size), pick_pixels(after, size), amplify)
    pictures = resample(before, size), perturbation, resample(after, size)
    with own_style():
        seen = record.least_fooled
        lists = [BarList(classes, seen.target.index, _COLUMN) for classes in (seen.before, seen.after)]
        verdict = _verdict(record)
        below = max(*(each.height for each in lists), sum(line.down for line in verdict) + BASELINE - LINE)
        picture = size[1] * 72 / _DPI
        pictures_down = [ABOVE_PICTURE, picture]
        if stacked:
            pictures_down += 2 * [_SIGN, *pictures_down]
        heights = [MARGIN, *pictures_down, BELOW_PICTURES + (_ABOVE_BARS if stacked else 0), below, MARGIN]
        sheet = Sheet(_STACKED if stacked else _BESIDE, _WIDTHS, heights, _DPI)
        for area, levels, heading in zip("PNA", pictures, _headings(record, amplify), strict=True):
            sheet.picture(area, levels, *heading)
        for area, bars in zip("ba", lists, strict=True):
            bars.draw(sheet.areas[area])
        if stacked:  # the pictures are not right above their bars
            sheet.text("b", 0, BASELINE - _ABOVE_BARS, "Photo", HEADING)
            sheet.text("a", 0, BASELINE - _ABOVE_BARS, "Adversarial picture", HEADING)
        right, down = (
            (sheet.areas["N"].get_xlim()[1] / 2, -ABOVE_PICTURE - _SIGN / 2) if stacked else (-_GUTTER / 2, picture / 2)
        )
        # As markers, since a font's signs are not centred on their line.
        for area, marker, offsets in (("N", "+", (0,)), ("A", "_", (-2.8, 2.8))):
            for offset in offsets:
                sheet.areas[area].plot(
                    right, down + offset, marker, color=INK, markersize=11, markeredgewidth=1.7, clip_on=False
                )
        _draw_verdict(sheet, verdict)
        return to_png(sheet.pixels(), _DPI)


def _headings(record: Record, amplify: float) -> tuple[tuple[str, str], ...]:
    """Return the title and subtitle of each picture."""
    source = fitted(PurePath(record.source).name or record.source, FACT, _COLUMN, middle=True)
    shown = "grey is unchanged" if amplify == 1 else f"amplified ×{amplify:g}; grey is unchanged"
    change = f"largest change: {record.linf} of 255 levels" if record.linf else "nothing changed"
    return ("Photo", source), ("Perturbation", shown), ("Adversarial picture", change)


def _verdict(record: Record) -> list[_Line]:
    """Say whether the target was reached, what is seen if not, and how it was tried."""
    seen = record.least_fooled
    confidence = f": {thin_percent(seen.confidence)}"
    *names, last = wrapped(seen.target.name, NAME, _COLUMN - MARK_ROOM - text_width(confidence, NAME))
    # The mark beside the target's name says here what it means in the bars.
    lines = _lines([*names, last + confidence], marked=True)
    if not record.fooled:
        lines += _lines(wrapped(f"seen instead: {seen.after[0].name}", NAME, _COLUMN))
    steps = "1 step" if record.steps == 1 else f"{record.steps} steps"
    return [
        _Line("✓ target reached" if record.fooled else "✗ target not reached", HEADING),
        *lines,
        _Line(f"ε = {record.budget} · {steps}", FACT, down=1.5 * LINE),
        _Line(fitted(record.least_fooled_model, FACT, _COLUMN, middle=True), FACT),
    ]


def _lines(texts: Sequence[str], *, marked: bool = False) -> list[_Line]:
    """Return the lines of a name that may take several."""
    return [
        _Line(text, NAME, NAME_LINE if number else LINE, marked and not number) for number, text in enumerate(texts)
    ]


def _draw_verdict(sheet: Sheet, lines: Sequence[_Line]) -> None:
    baseline: float = BASELINE - LINE
    for line in lines:
        baseline += line.down
        left = (_COLUMN - text_width(line.text, line.type_)) / 2
        if line.marked:
            left += MARK_ROOM / 2
            sheet.text("v", left - MARK_ROOM, baseline, MARK, MARK_TYPE)
        sheet.text("v", left, baseline, line.text, line.type_)
