"""A page to draw on: text set literally, boxes and pictures, in pixels; and text cut to the room there is."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from advimg.images.photo import Levels
from advimg.record import percent, printable

# A power of two keeps pixels -> inches -> pixels exact.
_DPI = 256
INK = "#1A1A1A"
GREY = "#5F5F5F"
# Okabe and Ito's colours, told apart by colour-blind people too; the target also has a mark and bold type.
TARGET_COLOUR = "#D55E00"
OTHER_COLOUR = "#56B4E9"
TRACK_COLOUR = "#EDEDED"
_FRAME_COLOUR = "#BFBFBF"

# DejaVu Sans comes with matplotlib. The others, where installed, lend the letters it lacks.
_FONT = "DejaVu Sans"
_LENDERS = ("Noto Sans CJK JP", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "Arial Unicode MS")


@dataclass(frozen=True, slots=True)
class Type:
    """How a piece of text is set: its size in points, weight and colour."""

    size: float
    bold: bool = False
    colour: str = INK


class Page:
    """A white page to set text, boxes and pictures on, in pixels from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self._height = height
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        self._canvas: Any = FigureCanvasAgg(self._figure)  # matplotlib leaves this class without types
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)
        self._axes.set_axis_off()

    def text(self, x: float, baseline: float, text: str, type_: Type, align: str = "left") -> None:
        """Set one line of text, every character literally."""
        self._axes.text(
            x,
            baseline,
            text,
            fontproperties=_font(type_),
            color=type_.colour,
            horizontalalignment=align,
            verticalalignment="baseline",
            parse_math=False,
        )

    def text_width(self, text: str, type_: Type) -> float:
        """Return how many pixels wide a line of text is."""
        width, _, _ = self._canvas.get_renderer().get_text_width_height_descent(text, _font(type_), ismath=False)
        return float(width)

    def box(self, x: float, y: float, width: float, height: float, colour: str, *, filled: bool = True) -> None:
        """Draw a box, filled or as a hairline."""
        face, line = (colour, 0.0) if filled else ("none", 0.5)
        self._axes.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor=colour, linewidth=line))

    def picture(self, x: int, y: int, levels: Levels) -> None:
        """Place a picture, pixel for pixel, in a hairline frame that shows where a white one ends."""
        height, width, _ = levels.shape
        self._figure.figimage(levels, x, self._height - y - height, origin="upper")
        self.box(x, y, width, height, _FRAME_COLOUR, filled=False)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """Draw a line through points, ``width`` pixels wide."""
        xs, ys = zip(*points, strict=True)
        thickness = width * 72 / _DPI
        self._axes.add_line(Line2D(xs, ys, color=colour, linewidth=thickness, solid_joinstyle="round"))

    def dot(self, x: float, y: float, colour: str, width: float) -> None:
        """Draw a dot, ``width`` pixels across."""
        size = width * 72 / _DPI
        self._axes.add_line(Line2D([x], [y], color=colour, marker="o", markersize=size, markeredgewidth=0))

    def levels(self) -> Levels:
        """Return the page's pixels, [height, width, 3]."""
        self._canvas.draw()
        return np.ascontiguousarray(np.asarray(self._canvas.buffer_rgba())[..., :3])

    def png(self) -> bytes:
        """Return the page as a PNG that tells nothing of the time or the software."""
        buffer = io.BytesIO()
        Image.fromarray(self.levels()).save(buffer, "PNG", dpi=(_DPI, _DPI))
        return buffer.getvalue()


def thin_percent(confidence: float) -> str:
    """Write a confidence as :func:`advimg.record.percent` does, with a narrow space."""
    return percent(confidence).replace(" ", "\N{NARROW NO-BREAK SPACE}")


def cut_end(page: Page, text: str, type_: Type, room: float) -> str:
    """Return the text, its end replaced by an ellipsis if it is wider than ``room``."""
    text = printable(" ".join(text.split()))
    return _longest_fit(page, text, type_, room, lambda kept: text[:kept].rstrip() + "…")


def cut_middle(page: Page, text: str, type_: Type, room: float) -> str:
    """Return the text, its middle replaced by an ellipsis if it is wider than ``room``: names end in what tells."""
    text = printable(" ".join(text.split()))
    return _longest_fit(
        page, text, type_, room, lambda kept: text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
    )


def _longest_fit(page: Page, text: str, type_: Type, room: float, cut: Callable[[int], str]) -> str:
    """Return the text, or the longest ``cut`` (of so many letters) that is no wider than ``room``."""
    if page.text_width(text, type_) <= room:
        return text
    fits, too_wide = 0, len(text)
    while too_wide - fits > 1:
        kept = (fits + too_wide) // 2
        if page.text_width(cut(kept), type_) <= room:
            fits = kept
        else:
            too_wide = kept
    return cut(fits)


@cache
def _font(type_: Type) -> FontProperties:
    """Return the font of a type."""
    installed = set(fontManager.get_font_names())
    family = [_FONT, *(lender for lender in _LENDERS if lender in installed)]
    return FontProperties(family=family, size=type_.size, weight="bold" if type_.bold else "normal")
