"""A decoded photo: its upright RGB levels at native size, and what an output takes over from it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.uint8]
"""Whole pixel levels, shape [height, width, 3] (RGB) or [height, width] (one channel)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Photo:
    """An upright photo, as a preprocessing opens it.

    Attributes:
        levels: RGB, shape [height, width, 3], dtype uint8. Read-only.
        alpha: the transparency, shape [height, width], which outputs keep; None if there is none.
        icc_profile: the RGB colour profile, which outputs keep.
        source: the path of its file, or a name for it.
        sha256: of the file's bytes, or of the pixels where there was no file.
        chunk: the text that a PNG holds under advimg's key, if any: the record of an earlier attack.
        notes: lines for a person on what was left out.
    """

    levels: Levels
    alpha: Levels | None = None
    icc_profile: bytes | None = None
    source: str
    sha256: str
    chunk: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width, _ = self.levels.shape
        return width, height
