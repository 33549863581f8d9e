"""A part of the picture cut off."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from advimg.changes import number
from advimg.registry import TRANSFORMS
from advimg.transforms.base import Transform


@TRANSFORMS.register("crop")
@dataclass(frozen=True, slots=True)
class Crop(Transform):
    """Cuts a share off width and height.

    Attributes:
        share: of each side; 0.1 keeps nine tenths.
        left: which part of what is cut off lies on the left; 0.5 keeps the centre.
        top: which part lies at the top.
    """

    share: float = number(0.1, at_least=0.001, at_most=0.999)
    left: float = number(0.5, at_least=0, at_most=1)
    top: float = number(0.5, at_least=0, at_most=1)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return what is kept, rounded to whole pixels."""
        return round(width * (1 - self.share)), round(height * (1 - self.share))

    def apply(self, picture: Image.Image) -> Image.Image:
        """Crop a picture."""
        left, top = self._corner(picture)
        width, height = self.size(*picture.size)
        return picture.crop((left, top, left + width, top + height))

    def pull_back(self, gradient: Tensor, picture: Image.Image) -> Tensor:
        """Put the gradient back in its place; what is cut off has none."""
        left, top = self._corner(picture)
        height, width = gradient.shape[1:]
        whole = gradient.new_zeros((3, picture.height, picture.width))
        whole[:, top : top + height, left : left + width] = gradient
        return whole

    def _corner(self, picture: Image.Image) -> tuple[int, int]:
        width, height = self.size(*picture.size)
        return int((picture.width - width) * self.left), int((picture.height - height) * self.top)
