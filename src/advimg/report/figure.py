"""The figure of one attack: photo + perturbation = adversarial picture, and what the classifier sees in both.

After the panda of Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples" (arXiv:1412.6572).
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from advimg.images.perturbation import amplified
from advimg.images.photo import Levels
from advimg.images.scaling import fit, pick_pixels, resample
from advimg.record import Record
from advimg.report import layout
from advimg.report.drawing import BarList, Sheet, fitted, own_style, text_width, thin_percent, to_png, wrapped, write

_DPI = 256
_COLUMN, _GUTTER = 160, 29
_WIDTHS = _COLUMN, _GUTTER, _COLUMN, _GUTTER, _COLUMN
_TALLEST, _TALLEST_STACKED = 214, 68
_SIGN = 33
_HEADING = 18

# P is the photo, N the perturbation, A the adversarial picture; b and a what is seen before and after, v the verdict.
_BESIDE = """
    .....
    P.N.A
    .....
    b.v.a
"""
_STACKED = """
    .....
    PPPPP
    .....
    .....
    NNNNN
    .....
    .....
    AAAAA
    .....
    b.v.a
"""


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
    stacked = layout.is_panorama(width, height)
    room = (_COLUMN, _TALLEST) if not stacked else (sum(_WIDTHS), _TALLEST_STACKED)
    size = fit(width, height, *(round(length * _DPI / 72) for length in room))
    perturbation = amplified(pick_pixels(before, size), pick_pixels(after, size), amplify)
    pictures = resample(before, size), perturbation, resample(after, size)
    with own_style():
        seen = record.least_fooled
        lists = [BarList(classes, seen.target.index, _COLUMN) for classes in (seen.before, seen.after)]
        verdict = _verdict(record)
        below = max(*(each.height for each in lists), sum(down for down, *_ in verdict) + layout.BASELINE - layout.LINE)
        picture = size[1] * 72 / _DPI
        pictures_down = [layout.ABOVE_PICTURE, picture]
        above_bars = layout.BELOW_PICTURES
        sign = -_GUTTER / 2, picture / 2
        if stacked:
            pictures_down += 2 * [_SIGN, *pictures_down]
            above_bars += _HEADING
            sign = sum(_WIDTHS) / 2, -layout.ABOVE_PICTURE - _SIGN / 2
        sheet = Sheet(_STACKED if stacked else _BESIDE, _WIDTHS, [*pictures_down, above_bars, below], _DPI)
        headings = _headings(record, amplify)
        for area, levels, heading in zip("PNA", pictures, headings, strict=True):
            sheet.picture(area, levels, *heading)
        for area, bars, (title, _) in zip("ba", lists, headings[::2], strict=True):
            bars.draw(sheet.areas[area])
            if stacked:  # the pictures are not right above their bars
                write(sheet.areas[area], 0, layout.BASELINE - _HEADING, title, layout.HEADING)
        # As markers, since a font's signs are not centred on their line.
        style = {"color": layout.INK, "markersize": 11, "markeredgewidth": 1.7, "clip_on": False}
        sheet.areas["N"].plot(*sign, "+", **style)
        for offset in (-2.8, 2.8):
            sheet.areas["A"].plot(sign[0], sign[1] + offset, "_", **style)
        _draw_verdict(sheet.areas["v"], verdict)
        return to_png(sheet.pixels(), _DPI)


def _headings(record: Record, amplify: float) -> tuple[tuple[str, str], ...]:
    """Return the title and subtitle of each picture."""
    source = fitted(PurePath(record.source).name or record.source, layout.FACT, _COLUMN, middle=True)
    shown = "grey is unchanged" if amplify == 1 else f"amplified ×{amplify:g}; grey is unchanged"
    change = f"largest change: {record.linf} of 255 levels" if record.linf else "nothing changed"
    return ("Photo", source), ("Perturbation", shown), ("Adversarial picture", change)


def _verdict(record: Record) -> list[tuple[float, str, layout.Type]]:
    """Say whether the target was reached, what is seen if not, what the file survives, and how it was tried.

    Returns:
        Lines, the second of which has the target's mark: how far each is below the last, its text and its type.
    """
    seen = record.least_fooled
    confidence = f": {thin_percent(seen.confidence)}"
    room = _COLUMN - layout.MARK_ROOM - text_width(confidence, layout.NAME)
    *first, last = wrapped(seen.target.name, layout.NAME, room)
    names = [[*first, last + confidence]]
    is_seen = seen.after[0].index == seen.target.index
    if not is_seen:
        names.append(wrapped(f"seen instead: {seen.after[0].name}", layout.NAME, _COLUMN))
    steps = "1 step" if record.steps == 1 else f"{record.steps} steps"
    facts = [f"ε = {record.budget} · {steps}"]
    if record.visibility is not None:
        facts.append(record.visibility.measures)
    if record.survives:
        facts.append(_survival(record))
    facts.append(fitted(record.least_fooled_model, layout.FACT, _COLUMN, middle=True))
    if _is_cropped(record):
        facts += wrapped("The network sees only the square (the crop); the rest is unchanged.", layout.FACT, _COLUMN)
    missed = "✗ target lost after changes" if is_seen else "✗ target not reached"
    return [
        (layout.LINE, "✓ target reached" if record.fooled else missed, layout.HEADING),
        *(
            (layout.NAME_LINE if number else layout.LINE, line, layout.NAME)
            for lines in names
            for number, line in enumerate(lines)
        ),
        *((layout.LINE if number else 1.5 * layout.LINE, line, layout.FACT) for number, line in enumerate(facts)),
    ]


def _survival(record: Record) -> str:
    """Say in one line after which changes the file falls, or after how many of how many where they are too long."""
    survives = record.least_survives
    fallen = [each.change for each in survives if not each.fooled]
    if not fallen:
        return f"survives {len(survives)} of {_changes(len(survives))}"
    named = f"falls after {', '.join(fallen)}"
    counted = f"falls after {len(fallen)} of {_changes(len(survives))}"
    return named if text_width(named, layout.FACT) <= _COLUMN else counted


def _changes(count: int) -> str:
    return f"{count} change{'s' * (count != 1)}"


def _is_cropped(record: Record) -> bool:
    """Tell whether the photo is larger than what the network sees of it."""
    (width, height), view = record.size, record.least_fooled.view
    if isinstance(view["resize"], list):
        return view["resize"] != view["crop"]
    as_long_as_wide = view["squash"] or width == height
    return not as_long_as_wide or view["crop"] != view["resize"]


def _draw_verdict(axes: Any, lines: Sequence[tuple[float, str, layout.Type]]) -> None:
    baseline: float = layout.BASELINE - layout.LINE
    for number, (down, line, type_) in enumerate(lines):
        baseline += down
        left = (_COLUMN - text_width(line, type_)) / 2
        if number == 1:  # the mark says here what it means in the bars
            left += layout.MARK_ROOM / 2
            write(axes, left - layout.MARK_ROOM, baseline, layout.MARK, layout.MARK_TYPE)
        write(axes, left, baseline, line, type_)
