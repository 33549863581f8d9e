"""The picture made brighter or darker."""

from dataclasses import dataclass

from PIL import Image, ImageEnhance
from torch import Tensor

from advimg.changes import number
from advimg.registry import TRANSFORMS
from advimg.transforms.base import Transform, planes


@TRANSFORMS.register("brightness")
@dataclass(frozen=True, slots=True)
class Brightness(Transform):
    """Multiplies all levels, and clips them.

    Attributes:
        factor: below 1 is darker.
    """

    factor: float = number(1.2, at_least=0.01, at_most=10)

    def apply(self, picture: Image.Image) -> Image.Image:
        """Change a picture."""
        return ImageEnhance.Brightness(picture).enhance(self.factor)

    def pull_back(self, gradient: Tensor, picture: Image.Image) -> Tensor:
        """Multiply the gradient; what is clipped has none."""
        clipped = planes(picture, gradient.device) * self.factor > 255
        return (gradient * self.factor).masked_fill_(clipped, 0)
