"""The plot of a sweep: the share of verified files and their mean confidence against eps, a curve for each model.

Where files are to survive changes, a small panel for each change shows the share after it.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.ticker import PercentFormatter

from advimg.report.drawing import blank, fitted, font, own_style, pixels_of, text_width, to_png
from advimg.report.layout import CURVES, FACT, GREY, GRID, INK, NAME, TARGET_NAME, TITLE, Type
from advimg.report.robustness import AfterChange, Point
from advimg.report.survival import changes_in, in_words

_WIDTH, _HEIGHT, _DPI = 660, 312, 180
_LEGEND_COLUMNS, _LEGEND_ROOM, _CAPTION_ROOM = 3, 170, 530
_AXIS = 270
"""The least length of an axis of eps."""
_UNITS = {"linf": "ε, of 255 levels", "l2": "ε in L2, where 255 levels are 1"}

# The panels of changes.
_MOST_BESIDE, _PANEL, _PANELS_HEAD, _PANELS_ROOM = 4, 132, 38, 560
_APART, _MOST_APART = 0.1, 0.4
"""How many doublings of eps lie between the curves of two models, and of all: where they are the same, all show."""
_LABELS_APART = 3

Style = tuple[str, str]
"""Colour and mark."""


def draw_curves(points: Sequence[Point], *, caption: str, norm: str = "linf") -> bytes:
    """Draw a sweep.

    Args:
        points: at least one; those of a model together, eps rising.
        caption: what was attacked, and how many.
        norm: what eps bounds.

    Returns:
        The bytes of a PNG; the same input gives the same bytes.
    """
    models = list(dict.fromkeys(point.model for point in points))
    styles = dict(zip(models, cycle(CURVES), strict=False))
    *changes, _ = changes_in([each.change for each in point.survives] for point in points)
    below = _PANELS_HEAD + math.ceil(len(changes) / _MOST_BESIDE) * _PANEL if changes else 0
    with own_style():
        figure, canvas = blank(_WIDTH, _HEIGHT + below, _DPI)
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
        upper: Any = figure
        if changes:
            halves: Any = figure.subfigures(2, 1, height_ratios=(_HEIGHT, below))
            upper, lower = halves
            _draw_changes(lower, changes, points, styles)
        shares, confidences = upper.subplots(1, 2, sharex=True)
        eps = sorted({point.eps for point in points})
        for model, style in styles.items():
            own = {point.eps: point for point in points if point.model == model}
            label = fitted(model, NAME, _LEGEND_ROOM, middle=True)
            _draw_curve(shares, own, "share", style, label)
            _draw_curve(confidences, own, "confidence", style, label)
        _finish(shares, "Files that survive all changes" if changes else "Files that show their target", eps)
        _finish(confidences, f"Confidence of the target{' in the file itself' if changes else ''}, mean", eps)
        figure.legend(
            *shares.get_legend_handles_labels(),
            loc="outside upper center",
            ncols=min(_LEGEND_COLUMNS, len(models)),
            frameon=False,
            fontsize=NAME.size,
            labelcolor=INK,
        )
        caption = f"{_UNITS[norm]}\n{fitted(caption, FACT, _CAPTION_ROOM)}; bands: 95 % intervals"
        figure.supxlabel(caption, fontsize=FACT.size, color=GREY)
        return to_png(pixels_of(canvas), _DPI)


def _draw_changes(figure: Any, changes: Sequence[str], points: Sequence[Point], styles: Mapping[str, Style]) -> None:
    """Draw a panel for each change: the share of files that hold after it."""
    rows = math.ceil(len(changes) / _MOST_BESIDE)
    columns = math.ceil(len(changes) / rows)
    room = _PANELS_ROOM / columns
    apart = min(_APART, _MOST_APART / len(styles))
    eps = sorted({point.eps for point in points})
    figure.suptitle("Files that show their target after each change", fontproperties=font(TITLE), color=INK)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for number, (change, axes) in enumerate(zip(changes, panels, strict=False)):
        for place, (model, style) in enumerate(styles.items()):
            aside = 2 ** (apart * (place - (len(styles) - 1) / 2))
            own = {
                point.eps * aside: each
                for point in points
                if point.model == model
                for each in point.survives
                if each.change == change
            }
            if own:  # none where every attack on the model failed
                _draw_curve(axes, own, "share", style, size=0.7, gap=1.5 * place)
        _finish(axes, fitted(in_words(change), TARGET_NAME, room), eps, TARGET_NAME, room)
        axes.set_yticks([0, 0.5, 1])
        axes.set_xlim(eps[0] / 1.15, eps[-1] * 1.15)
        axes.tick_params(labelleft=number % columns == 0)
    for axes in panels:
        axes.set_axis_off()


def _draw_curve(
    axes: Any,
    values: Mapping[float, Point | AfterChange],
    what: str,
    style: Style,
    label: str | None = None,
    size: float = 1.0,
    gap: float = 0.0,
) -> None:
    """Draw what is counted at each eps, with its intervals; through gaps in the line, one below it is seen."""
    eps, (colour, mark) = list(values), style
    low, middle, high = ([getattr(each, f"{what}{end}") for each in values.values()] for end in ("_low", "", "_high"))
    axes.fill_between(eps, low, high, color=colour, alpha=0.15, linewidth=0)
    # Below the line's end, so that a curve of one point is seen, too.
    line = {"color": colour, "marker": mark, "markersize": 5 * size, "linewidth": 1.7 * size, "label": label}
    if gap:
        line["dashes"] = (3, gap)
    axes.plot(eps, middle, **line, clip_on=False, zorder=3)
    if len(eps) == 1:
        axes.errorbar(eps, middle, [[middle[0] - low[0]], [high[0] - middle[0]]], color=colour, capsize=4 * size)


def _finish(axes: Any, title: str, eps: Sequence[float], type_: Type = TITLE, room: float = _AXIS) -> None:
    axes.set_title(title, fontproperties=font(type_), color=INK, pad=type_.size)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    if eps[-1] > eps[0]:
        axes.set_xscale("log", base=2)
        axes.set_xlim(eps[0] / 1.15, eps[-1] * 1.15)
    axes.set_xticks(eps, _labels(eps, room))
    axes.minorticks_off()
    axes.tick_params(colors=GREY, labelsize=FACT.size, length=0)
    axes.grid(visible=True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _labels(eps: Sequence[float], room: float) -> list[str]:
    """Return a label for each eps on a logarithmic axis so many points long; an empty one where it would touch another.

    Small eps lie far apart, so the largest is labelled first.
    """
    labels: list[str] = []
    end = math.inf
    for value in reversed(eps):
        label = f"{value:g}"
        place = room * math.log(value / eps[0]) / math.log(eps[-1] / eps[0]) if len(eps) > 1 else 0.0
        half = text_width(label, FACT) / 2
        is_free = place + half < end
        labels.append(label if is_free else "")
        end = place - half - _LABELS_APART if is_free else end
    return labels[::-1]
