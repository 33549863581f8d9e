"""Lossy WebP, by libwebp."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from advimg.changes import number
from advimg.registry import TRANSFORMS
from advimg.transforms import block_coding
from advimg.transforms.base import planes
from advimg.transforms.codec import Codec


@TRANSFORMS.register("webp")
@dataclass(frozen=True, slots=True)
class Webp(Codec):
    """Encodes a picture as lossy WebP and decodes it.

    Attributes:
        quality: as libwebp counts.
    """

    name: ClassVar[str] = "WebP"
    most: ClassVar[int] = 16_383

    quality: int = number(80, whole=True, at_least=0, at_most=100)

    def apply(self, picture: Image.Image) -> Image.Image:
        """Encode and decode a picture."""
        with self.coded(picture, quality=self.quality) as opened:
            return opened.convert("RGB")

    def pull_back(self, gradient: Tensor, picture: Image.Image) -> Tensor:
        """Model the slope of the quantisation, see :mod:`advimg.transforms.block_coding`.

        A key frame of VP8 (RFC 6386) quantises the cosine transform of what the prediction leaves of 4x4 pixels. The
        prediction is left out, but for the means of blocks, which it takes most of.
        """
        steps = torch.full((4, 4), self._step(), device=gradient.device)
        levels = planes(picture, gradient.device)
        return block_coding.pull_back(gradient, levels, steps, steps, subsampled=True, keep_means=True)

    def _step(self) -> float:
        """Return the step of all coefficients but the first, of an orthonormal transform.

        The index is libwebp's (``QualityToCompression``), the steps are those of VP8, nearly index + 4 where it counts,
        of a transform twice as long.
        """
        share = self.quality / 100
        linear = share * (2 / 3) if share < 0.75 else 2 * share - 1
        return (127 * (1 - math.cbrt(linear)) + 4) / 2
