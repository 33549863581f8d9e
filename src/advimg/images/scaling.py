"""Pictures at another size, for reports."""

import numpy as np
from PIL import Image

from advimg.images.photo import Levels

# From this factor on an enlarged photo shows its pixels.
_SHOW_PIXELS = 4


def fit(width: int, height: int, widest: int, tallest: int) -> tuple[int, int]:
    """Return the largest width and height of the same shape within these limits."""
    scale = min(widest / width, tallest / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resample(levels: Levels, size: tuple[int, int]) -> Levels:
    """Return a photo at another size: smooth, but with visible pixels where it is much larger."""
    if size[0] >= _SHOW_PIXELS * levels.shape[1]:
        return pick_pixels(levels, size)
    # A coarse box reduction first is many times faster on large photos, and the filter hides it.
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3))


def pick_pixels(levels: Levels, size: tuple[int, int]) -> Levels:
    """Return a picture at another size without mixing pixels: averaged, a perturbation would look weaker than it is."""
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.NEAREST))
