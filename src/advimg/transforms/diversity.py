"""Input diversity: the network's input resized, moved and mirrored at random (Xie et al. 2019, arXiv:1803.06978).

It helps a picture fool networks that took no part in making it. In the paper the input is shrunk and padded; here it
may be enlarged and cropped, and mirrored, as well.
"""

from random import Random

import torch
from torch import Tensor

_SHARE = 0.8
"""Of all pictures; the others stay as they are."""
_SCALES = 0.6, 1.6
_GREY = 127.5


def diversified(levels: Tensor, draw: Random) -> Tensor:
    """Resize a square picture at random and put it at a random place of a grey frame of its own size.

    Args:
        levels: float, 0..255, [3, length, length], to be differentiated.
        draw: where chance comes from.
    """
    if draw.random() >= _SHARE:
        return levels
    length = levels.shape[-1]
    scale = draw.uniform(*_SCALES)
    rows = placing(length, scale, draw.random()).to(levels.device)
    columns = placing(length, scale, draw.random()).to(levels.device)
    if draw.random() < 0.5:
        columns = columns.flip(1)
    return rows @ (levels - _GREY) @ columns.T + _GREY


def placing(length: int, scale: float, place: float) -> Tensor:
    """Return the matrix [length, length] that resizes a line and puts it at a place of a frame of the same length.

    Antialiased linear interpolation; what the line leaves free is zero.

    Args:
        length: of line and frame.
        scale: of the line.
        place: 0 puts it at one end, 1 at the other.
    """
    room = length - length * scale  # below zero, the line is longer than its frame
    centres = (torch.arange(length) + 0.5 - room * place) / scale - 0.5
    samples = torch.arange(length)
    weights = (1 - (centres[:, None] - samples).abs() * min(1.0, scale)).clamp_min(0)
    inside = (centres > -0.5) & (centres < length - 0.5)
    return torch.where(inside[:, None], weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-6), 0.0)
