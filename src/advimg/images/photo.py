"""A decoded photo: its upright RGB levels at native size, and what travels with them into the output."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.uint8]
"""Whole pixel levels, shape [height, width, 3] (RGB) or [height, width] (one channel)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Photo:
    """A photo as every classifier's preprocessing would open it, upright.

    Attributes:
        levels: RGB, shape [height, width, 3], dtype uint8. Read-only.
        alpha: the photo's own transparency, shape [height, width], kept as it is in outputs; None if it has none.
        icc_profile: the photo's RGB colour profile, carried over to outputs.
        source: the path it was read from, or what to call it.
        sha256: of the file's bytes, or of the pixels where there was no file.
        chunk: the text that a PNG holds under advimg's key, if any: the record of an earlier attack.
        notes: lines for a person: what reading the photo passed over.
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
