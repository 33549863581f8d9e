"""The picture scaled, as PIL does it."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from advimg.changes import number, word
from advimg.registry import TRANSFORMS
from advimg.transforms.base import Transform
from advimg.transforms.resampling import FILTERS, resize_axes


@TRANSFORMS.register("resize")
@dataclass(frozen=True, slots=True)
class Resize(Transform):
    """Scales both sides.

    Attributes:
        factor: of each side; 0.5 is half of the width and half of the height.
        filter: of the resampling, antialiased as all of PIL's.
    """

    factor: float = number(0.5, at_least=0.001, at_most=8)
    filter: str = word("bicubic", "bilinear", "lanczos", "box", "hamming")

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the scaled sides, rounded to whole pixels."""
        return round(width * self.factor), round(height * self.factor)

    def apply(self, picture: Image.Image) -> Image.Image:
        """Scale a picture."""
        return picture.resize(self.size(*picture.size), FILTERS[self.filter].number)

    def pull_back(self, gradient: Tensor, picture: Image.Image) -> Tensor:
        """Apply the adjoint; rounding and clipping pass the gradient straight through."""
        for axis in reversed(resize_axes(picture.size, self.size(*picture.size), self.filter, gradient.device)):
            gradient = axis.adjoint(gradient)
        return gradient
