"""The plot of a sweep: the share of verified files and their mean confidence against eps, a curve for each model."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from advimg.record import printable
from advimg.report.robustness import Point

_WIDTH, _HEIGHT, _DPI = 11.0, 5.2, 150
_INK, _GREY, _GRID = "#1A1A1A", "#5F5F5F", "#E2E2E2"
# Okabe and Ito's colours, told apart by colour-blind people too, and marks that tell them apart in print.
_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)


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
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor="white")
        figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
        canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves this class without types
        shares, confidences = figure.subplots(1, 2, sharex=True)
        for model, (colour, mark) in zip(models, _styles(len(models)), strict=True):
            own = [point for point in points if point.model == model]
            label = printable(textwrap.shorten(model, 44, placeholder="…"))
            _draw_curve(shares, own, "share", colour, mark, label)
            _draw_curve(confidences, own, "confidence", colour, mark, label)
        _finish(shares, "Files that show their target", points)
        _finish(confidences, "Confidence of the target, mean", points)
        figure.legend(
            *shares.get_legend_handles_labels(),
            loc="outside upper center",
            ncols=min(3, len(models)),
            frameon=False,
            fontsize=10,
            labelcolor=_INK,
        )
        figure.supxlabel(f"{_UNITS[norm]}\n{printable(caption)}; bands: 95 % intervals", fontsize=10, color=_GREY)
        canvas.draw()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


_UNITS = {"linf": "ε, of 255 levels", "l2": "ε in L2, where 255 levels are 1"}


def _styles(count: int) -> list[tuple[str, str]]:
    return [_STYLES[number % len(_STYLES)] for number in range(count)]


def _draw_curve(axes: Any, points: Sequence[Point], what: str, colour: str, mark: str, label: str) -> None:
    eps = [point.eps for point in points]
    low, middle, high = ([getattr(point, f"{what}{end}") for point in points] for end in ("_low", "", "_high"))
    axes.fill_between(eps, low, high, color=colour, alpha=0.15, linewidth=0)
    # Below the line's end, so that a curve of one point is seen, too.
    axes.plot(eps, middle, color=colour, marker=mark, markersize=6, linewidth=2, label=label, clip_on=False, zorder=3)
    if len(points) == 1:
        axes.errorbar(eps, middle, [[middle[0] - low[0]], [high[0] - middle[0]]], color=colour, capsize=4)


def _finish(axes: Any, title: str, points: Sequence[Point]) -> None:
    eps = sorted({point.eps for point in points})
    axes.set_title(title, fontsize=12, fontweight="bold", color=_INK, pad=12)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    if eps[-1] > eps[0]:
        axes.set_xscale("log", base=2)
        axes.set_xlim(eps[0] / 1.15, eps[-1] * 1.15)
    axes.set_xticks(eps, [f"{value:g}" for value in eps])
    axes.minorticks_off()
    axes.tick_params(colors=_GREY, labelsize=9, length=0)
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
