"""Input diversity: the network's input resized, moved and mirrored at random (Xie et al. 2019, arXiv:1803.06978).

It helps a picture fool networks that took no part in making it. In the paper the input is shrunk and padded; here it
may be enlarged and cropped, and mirrored, as well.
"""

from random import Random

import torch
from PIL import Image, ImageOps
from torch import Tensor

from advimg.registry import TRANSFORMS
from advimg.transforms.base import Transform

_SHARE = 0.8
"""Of all pictures; the others stay as they are."""
_SCALES = 0.6, 1.6
_GREY = 127.5


@TRANSFORMS.register("diversity")
class Diversity(Transform):
    """Resizes a square picture at random and puts it at a random place of a grey frame of its own size."""

    stage = "input"

    def apply(self, levels: Tensor, draw: Random) -> Tensor:
        """Change float levels."""
        if draw.random() >= _SHARE:
            return levels
        length = levels.shape[-1]
        scale = draw.uniform(*_SCALES)
        rows = placing(length, scale, draw.random()).to(levels.device)
        columns = placing(length, scale, draw.random()).to(levels.device)
        if draw.random() < 0.5:
            columns = columns.flip(1)
        return rows @ (levels - _GREY) @ columns.T + _GREY

    def apply_to_picture(self, picture: Image.Image, draw: Random) -> Image.Image:
        """Change an RGB picture."""
        if draw.random() >= _SHARE:
            return picture
        length = picture.width
        scale = draw.uniform(*_SCALES)
        top, left = (round((length - length * scale) * draw.random()) for _ in range(2))
        if draw.random() < 0.5:
            picture = ImageOps.mirror(picture)
        side = round(length * scale)
        frame = Image.new("RGB", picture.size, (128, 128, 128))
        frame.paste(picture.resize((side, side), Image.Resampling.BILINEAR), (left, top))
        return frame


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
