"""Drawing in the layout of all reports, by matplotlib: areas of a sheet, pictures, lists of classes, text that fits."""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from PIL import Image, ImageColor

from advimg.formatting import percent, printable, shortened
from advimg.images.photo import Levels
from advimg.record import Prediction
from advimg.report import layout
from advimg.report.layout import Type

_POINTS = 72
"""An inch has so many."""
_MEASURE_DPI = 256
_LONGEST = 400
"""More characters than any line has room for: a longer text is cut before it is measured, which takes long."""


@contextmanager
def own_style() -> Iterator[None]:
    """Draw the same everywhere: the user's own matplotlib settings (dark styles, TeX) have no effect."""
    own = {"font.family": font(layout.NAME).get_family(), "text.parse_math": False}
    with matplotlib.style.context(["default", own]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)  # a letter no font has is drawn as a box
        yield


def blank(width: float, height: float, dpi: int) -> tuple[Figure, Any]:
    """Return a white figure and its canvas, which matplotlib leaves without types; lengths are points."""
    # A hair more than whole pixels, for matplotlib cuts fractions off.
    inches = [(round(length * dpi / _POINTS) + 1e-3) / dpi for length in (width, height)]
    figure = Figure(figsize=(inches[0], inches[1]), dpi=dpi, facecolor="white")
    return figure, FigureCanvasAgg(figure)


def pixels_of(canvas: Any) -> Levels:
    """Draw, and return the pixels, [height, width, 3]."""
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def to_png(levels: Levels, dpi: int) -> bytes:
    """Return a PNG that tells nothing of the time or the software."""
    buffer = io.BytesIO()
    # A hundredth larger than by the usual level, and in two thirds of the time.
    Image.fromarray(levels).save(buffer, "PNG", dpi=(dpi, dpi), compress_level=4)
    return buffer.getvalue()


class Sheet:
    """A white sheet with a margin and named areas, each with coordinates in points from its own upper left corner.

    Args:
        mosaic: the areas, a letter a cell, as :meth:`matplotlib.figure.Figure.subplot_mosaic` takes them.
        widths, heights: of the mosaic's columns and rows, in points.
        dpi: pixels an inch.

    Attributes:
        areas: the axes of each letter.
    """

    def __init__(self, mosaic: str, widths: Sequence[float], heights: Sequence[float], dpi: int) -> None:
        width, height = (sum(lengths) + 2 * layout.MARGIN for lengths in (widths, heights))
        self._figure, self._canvas = blank(width, height, dpi)
        across, down = layout.MARGIN / width, layout.MARGIN / height
        edges = {"left": across, "right": 1 - across, "bottom": down, "top": 1 - down, "wspace": 0, "hspace": 0}
        self.areas: dict[str, Any] = self._figure.subplot_mosaic(
            mosaic, width_ratios=widths, height_ratios=heights, gridspec_kw=edges
        )
        self._pictures: dict[str, tuple[int, int, Levels]] = {}
        for axes in self.areas.values():
            width, height = (length * _POINTS / dpi for length in axes.bbox.size)
            axes.set(xlim=(0, width), ylim=(height, 0))
            axes.set_axis_off()

    def picture(self, area: str, levels: Levels, title: str, subtitle: str) -> None:
        """Place a picture in the upper middle of an area, with a title and subtitle above it, instead of one before it.

        A hairline frame shows where a white picture ends.
        """
        axes = self.areas[area]
        height, width, _ = levels.shape
        x, y = round(axes.bbox.x0 + (axes.bbox.width - width) / 2), round(axes.bbox.y1) - height
        self._pictures[area] = x, y, levels
        _, room = axes.get_xlim()
        for old in list(axes.texts):
            old.remove()
        for text, type_, up in (
            (title, layout.TITLE, layout.TITLE_UP),
            (subtitle, layout.FACT, layout.SUBTITLE_UP),
        ):
            write(axes, room / 2, -up, fitted(text, type_, room), type_, "center")

    def pixels(self) -> Levels:
        """Draw, and return the pixels, [height, width, 3]."""
        pixels = pixels_of(self._canvas)
        # Not by matplotlib, which would resample them: a picture is shown pixel for pixel.
        for x, y, levels in self._pictures.values():
            bottom, right = len(pixels) - y, x + levels.shape[1]
            top = bottom - len(levels)
            pixels[top - 1 : bottom + 1, x - 1 : right + 1] = ImageColor.getrgb(layout.FRAME)
            pixels[top:bottom, x:right] = levels
        return pixels


class BarList:
    """A list of classes: each has a name, a confidence, and a bar under them on a track as long as 100 %.

    Args:
        classes: of each row; long names take up to three lines, longer ones are shortened.
        target: the index of the class that is marked.
        width: in points.

    Attributes:
        height: in points.
    """

    def __init__(self, classes: Sequence[Prediction], target: int, width: float) -> None:
        self._classes, self._width = classes, width
        # As if each confidence were the widest: where a name breaks does not hang on how sure a network is.
        room = width - text_width(thin_percent(0.9999), layout.TARGET_NAME) - 6
        self._styles = [
            (layout.TARGET_NAME, layout.MARK_ROOM) if each.index == target else (layout.NAME, 0) for each in classes
        ]
        self._names = [
            wrapped(each.name, type_, room - indent)
            for each, (type_, indent) in zip(classes, self._styles, strict=True)
        ]
        self._tops = [0.0]
        for lines in self._names:
            self._tops.append(self._tops[-1] + layout.ROW + (len(lines) - 1) * layout.NAME_LINE)
        self.height = self._tops[-1] - layout.ROW + layout.BAR_DOWN + layout.BAR

    def draw(self, axes: Any) -> Callable[[Sequence[float]], None]:
        """Draw the list, and return what shows other confidences in it, one for each row."""
        figures = []
        for lines, (type_, indent), top in zip(self._names, self._styles, self._tops, strict=False):
            baseline = top + layout.BASELINE
            if indent:
                write(axes, 0, baseline, layout.MARK, layout.MARK_TYPE)
            for number, line in enumerate(lines):
                write(axes, indent, baseline + number * layout.NAME_LINE, line, type_)
            figures.append(write(axes, self._width, baseline, "", type_, "right"))
        places = [end - layout.ROW + layout.BAR_DOWN + layout.BAR / 2 for end in self._tops[1:]]
        colours = [layout.TARGET if indent else layout.OTHER for _, indent in self._styles]
        axes.barh(places, self._width, layout.BAR, color=layout.TRACK)
        bars = axes.barh(places, 0, layout.BAR, color=colours)

        def show(confidences: Sequence[float]) -> None:
            for figure, bar, confidence in zip(figures, bars, confidences, strict=True):
                figure.set_text(thin_percent(confidence))
                bar.set_width(self._width * confidence)

        show([row.confidence for row in self._classes])
        return show


def write(axes: Any, x: float, baseline: float, text: str, type_: Type, align: str = "left") -> Any:
    """Set one line of text at a place of axes, every character literally, and return it."""
    return axes.text(x, baseline, text, fontproperties=font(type_), color=type_.colour, ha=align, va="baseline")


def thin_percent(confidence: float) -> str:
    """Write a confidence as :func:`advimg.record.percent` does, with a narrow space."""
    return percent(confidence).replace(" ", "\N{NARROW NO-BREAK SPACE}")


def fitted(text: str, type_: Type, room: float, *, middle: bool = False) -> str:
    """Return the text on one line, an ellipsis for its end if it is wider than ``room`` points.

    Or for its middle: names of files and models end in what tells.
    """
    text = printable(" ".join(shortened(text, _LONGEST).split()))
    if text_width(text, type_) <= room:
        return text

    def cut(kept: int) -> str:
        return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}" if middle else f"{text[:kept].rstrip()}…"

    return cut(_most(len(text), lambda kept: text_width(cut(kept), type_) <= room))


def wrapped(text: str, type_: Type, room: float, lines: int = layout.NAME_LINES) -> list[str]:
    """Return the text on at most so many lines, none wider than ``room`` points, the last shortened if need be."""
    words = shortened(text, _LONGEST).split()
    fitting = _most(len(words) + 1, lambda count: text_width(" ".join(words[:count]), type_) <= room)
    if lines == 1 or not 0 < fitting < len(words):
        return [fitted(text, type_, room)]
    first, rest = " ".join(words[:fitting]), " ".join(words[fitting:])
    return [printable(first), *wrapped(rest, type_, room, lines - 1)]


def _most(end: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number below ``end`` that fits, where each below one that fits does; 0 if none does."""
    low, high = 0, end
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def text_width(text: str, type_: Type) -> float:
    """Return how many points wide a line of text is."""
    width, _, _ = _renderer().get_text_width_height_descent(text, font(type_), ismath=False)
    return float(width) * _POINTS / _MEASURE_DPI


@cache
def _renderer() -> Any:
    """Return what measures text."""
    _, canvas = blank(1, 1, _MEASURE_DPI)
    return canvas.get_renderer()


@cache
def font(type_: Type) -> FontProperties:
    """Return the font of a type."""
    installed = set(fontManager.get_font_names())
    family = [layout.FONT, *(lender for lender in layout.LENDERS if lender in installed)]
    return FontProperties(family=family, size=type_.size, weight="bold" if type_.bold else "normal")
