"""The plot of a sweep: the share of verified files and their mean confidence against eps, a curve for each model."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from matplotlib.ticker import PercentFormatter

from advimg.report.drawing import blank, fitted, font, own_style, pixels_of, to_png
from advimg.report.layout import CURVES, FACT, GREY, GRID, INK, NAME, TITLE
from advimg.report.robustness import Point

_WIDTH, _HEIGHT, _DPI = 660, 312, 180
_LEGEND_COLUMNS, _LEGEND_ROOM, _CAPTION_ROOM = 3, 170, 530
_UNITS = {"linf": "ε, of 255 levels", "l2": "ε in L2, where 255 levels are 1"}


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
    with own_style():
        figure, canvas = blank(_WIDTH, _HEIGHT, _DPI)
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
        shares, confidences = figure.subplots(1, 2, sharex=True)
        for model, (colour, mark) in zip(models, cycle(CURVES), strict=False):
            own = [point for point in points if point.model == model]
            label = fitted(model, NAME, _LEGEND_ROOM, middle=True)
            _draw_curve(shares, own, "share", colour, mark, label)
            _draw_curve(confidences, own, "confidence", colour, mark, label)
        _finish(shares, "Files that show their target", points)
        _finish(confidences, "Confidence of the target, mean", points)
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


def _draw_curve(axes: Any, points: Sequence[Point], what: str, colour: str, mark: str, label: str) -> None:
    eps = [point.eps for point in points]
    low, middle, high = ([getattr(point, f"{what}{end}") for point in points] for end in ("_low", "", "_high"))
    axes.fill_between(eps, low, high, color=colour, alpha=0.15, linewidth=0)
    # Below the line's end, so that a curve of one point is seen, too.
    axes.plot(eps, middle, color=colour, marker=mark, markersize=5, linewidth=1.7, label=label, clip_on=False, zorder=3)
    if len(points) == 1:
        axes.errorbar(eps, middle, [[middle[0] - low[0]], [high[0] - middle[0]]], color=colour, capsize=4)


def _finish(axes: Any, title: str, points: Sequence[Point]) -> None:
    eps = sorted({point.eps for point in points})
    axes.set_title(title, fontproperties=font(TITLE), color=INK, pad=10)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    if eps[-1] > eps[0]:
        axes.set_xscale("log", base=2)
        axes.set_xlim(eps[0] / 1.15, eps[-1] * 1.15)
    axes.set_xticks(eps, [f"{value:g}" for value in eps])
    axes.minorticks_off()
    axes.tick_params(colors=GREY, labelsize=FACT.size, length=0)
    axes.grid(visible=True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
