"""The picture mirrored, left for right."""

from dataclasses import dataclass

from PIL import Image, ImageOps
from torch import Tensor

from advimg.registry import TRANSFORMS
from advimg.transforms.base import Transform


@TRANSFORMS.register("mirror")
@dataclass(frozen=True, slots=True)
class Mirror(Transform):
    """Mirrors a picture."""

    def apply(self, picture: Image.Image) -> Image.Image:
        """Mirror a picture."""
        return ImageOps.mirror(picture)

    def pull_back(self, gradient: Tensor, picture: Image.Image) -> Tensor:  # noqa: ARG002
        """Mirror the gradient."""
        return gradient.flip(-1)
