"""The picture mirrored, left for right."""

from random import Random

from PIL import Image, ImageOps
from torch import Tensor

from advimg.registry import TRANSFORMS
from advimg.transforms.base import Transform

_SHARE = 0.5


@TRANSFORMS.register("mirror")
class Mirror(Transform):
    """Mirrors every other picture, by chance."""

    def apply(self, levels: Tensor, draw: Random) -> Tensor:
        """Change float levels."""
        return levels.flip(-1) if draw.random() < _SHARE else levels

    def apply_to_picture(self, picture: Image.Image, draw: Random) -> Image.Image:
        """Change an RGB picture."""
        return ImageOps.mirror(picture) if draw.random() < _SHARE else picture
