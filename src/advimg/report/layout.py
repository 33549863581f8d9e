"""The layout that all reports share: colours, type, lengths, and where a photo of any shape goes.

Lengths and sizes of type are points, 1/72 inch; each report has its own number of pixels an inch. Nothing here needs a
drawing library, since neither the gallery nor the keeping of a trace's frames loads one.
"""

from dataclasses import dataclass

INK, GREY = "#1A1A1A", "#5F5F5F"
TRACK, FRAME, GRID = "#EDEDED", "#BFBFBF", "#E2E2E2"
# Okabe and Ito's colours, told apart by colour-blind people too; the target also has a mark and bold type.
TARGET, OTHER, VERIFIED = "#D55E00", "#56B4E9", "#009E73"
# Marks tell curves apart in print.
CURVES = (
    ("#0072B2", "o"),
    (TARGET, "s"),
    (VERIFIED, "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    (OTHER, "P"),
    ("#000000", "X"),
)
PAGE_COLOURS = {
    "other": (OTHER, OTHER),
    "target": (TARGET, TARGET),
    "verified": (VERIFIED, VERIFIED),
    "verified-ink": ("#00664A", "#3FD1A7"),
    "not-reached-ink": ("#9C4500", "#FF9A4D"),
    "failed": ("#767676", "#8C8C8C"),
    "ink": (INK, "#ECECEC"),
    "grey": (GREY, "#ABABAB"),
    "page": ("#F4F4F4", "#141414"),
    "card": ("#FFFFFF", "#202020"),
    "line": ("#D4D4D4", "#3D3D3D"),
    "track": (TRACK, "#343434"),
    "link": ("#005A8F", "#7CC6F2"),
    "frame": ("#808080", "#808080"),
}
"""The CSS custom properties of a page in the browser: light and dark."""

# DejaVu Sans comes with matplotlib. The others, where installed, lend the letters it lacks.
FONT = "DejaVu Sans"
LENDERS = ("Noto Sans CJK JP", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "Arial Unicode MS")


@dataclass(frozen=True, slots=True)
class Type:
    """How text is set: its size in points, weight and colour."""

    size: float
    bold: bool = False
    colour: str = INK


HEADLINE = Type(11, bold=True)
TITLE = Type(10, bold=True)
HEADING = Type(9, bold=True)
NAME, TARGET_NAME = Type(8), Type(8, bold=True)
FACT = Type(7.5, colour=GREY)
MARK, MARK_TYPE = "◆", Type(8, colour=TARGET)
MARK_ROOM = 9

MARGIN = 19
LINE = 14
"""From one baseline to the next."""
BASELINE = 8
"""From the top of an area to its first baseline."""
ABOVE_PICTURE, TITLE_UP, SUBTITLE_UP = 27, 20, 8
"""Room above a picture for its title and subtitle, and how far above it their baselines are."""
BELOW_PICTURES = 15

# The rows of a list of classes.
ROW, BAR_DOWN, BAR = 23, 12, 4
NAME_LINE = 10
NAME_LINES = 3

_PANORAMA_FROM = 4


def is_panorama(width: int, height: int) -> bool:
    """Tell whether a photo is so wide that it would be a ribbon beside another: it goes above the other instead."""
    return width > _PANORAMA_FROM * height
