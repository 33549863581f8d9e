"""The picture out of focus."""

import math
from dataclasses import dataclass

from PIL import Image, ImageFilter
from torch import Tensor

from advimg.changes import number
from advimg.registry import TRANSFORMS
from advimg.transforms.base import Transform


@TRANSFORMS.register("blur")
@dataclass(frozen=True, slots=True)
class Blur(Transform):
    """A Gaussian blur.

    Attributes:
        radius: the standard deviation, in pixels.
    """

    radius: float = number(1.0, at_least=0.01, at_most=100)

    def apply(self, picture: Image.Image) -> Image.Image:
        """Blur a picture, by PIL's three box filters."""
        return picture.filter(ImageFilter.GaussianBlur(self.radius))

    def pull_back(self, gradient: Tensor, picture: Image.Image) -> Tensor:  # noqa: ARG002
        """Apply the adjoint of the Gaussian blur that PIL approximates; beyond the border the picture goes on."""
        for axis in (1, 2):
            gradient = self._spread(gradient, axis)
        return gradient

    def _spread(self, gradient: Tensor, axis: int) -> Tensor:
        """Give each pixel's gradient to those that it is blurred of, along an axis."""
        reach, length = max(1, math.ceil(3 * self.radius)), gradient.shape[axis]
        weights = [math.exp(-((place / self.radius) ** 2) / 2) for place in range(-reach, reach + 1)]
        shape = list(gradient.shape)
        shape[axis] += 2 * reach
        spread = gradient.new_zeros(shape)
        for place, weight in enumerate(weights):
            spread.narrow(axis, place, length).add_(gradient, alpha=weight / sum(weights))
        inside = spread.narrow(axis, reach, length)
        # Beyond the border there is the last pixel again.
        inside.narrow(axis, 0, 1).add_(spread.narrow(axis, 0, reach).sum(axis, keepdim=True))
        inside.narrow(axis, length - 1, 1).add_(spread.narrow(axis, reach + length, reach).sum(axis, keepdim=True))
        return inside
