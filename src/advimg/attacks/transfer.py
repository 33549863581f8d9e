"""What helps a picture fool networks that took no part in making it: to look at it in many ways while it is made.

Input diversity (Xie et al. 2019, arXiv:1803.06978): each gradient is taken through a view of its own. There the picture
is shrunk and padded at random. Here it may be enlarged and cropped, and mirrored, as well.
"""

from random import Random

import torch
from torch import Tensor

_SHARE = 0.8
"""Of all looks; the others are straight."""
_SCALES = 0.6, 1.6
_GREY = 127.5


def diversify(picture: Tensor, draw: Random) -> Tensor:
    """Return a picture resized at random and put at a random place of the frame, or as it is; to be differentiated.

    Args:
        picture: float levels [3, n, n].
        draw: where chance comes from.
    """
    if draw.random() >= _SHARE:
        return picture
    length = picture.shape[-1]
    scale = draw.uniform(*_SCALES)
    rows = placing(length, scale, draw.random()).to(picture.device)
    columns = placing(length, scale, draw.random()).to(picture.device)
    if draw.random() < 0.5:
        columns = columns.flip(1)
    return rows @ (picture - _GREY) @ columns.T + _GREY


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
