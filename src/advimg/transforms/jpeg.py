"""JPEG, by libjpeg."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from advimg.changes import number, word
from advimg.registry import TRANSFORMS
from advimg.transforms import block_coding
from advimg.transforms.base import planes
from advimg.transforms.codec import Codec

_SUBSAMPLING = {"420": "4:2:0", "444": "4:4:4"}


@TRANSFORMS.register("jpeg")
@dataclass(frozen=True, slots=True)
class Jpeg(Codec):
    """Encodes a picture as JPEG and decodes it.

    Attributes:
        quality: as libjpeg counts.
        chroma: "420", where colour has half of the width and height, or "444".
    """

    name: ClassVar[str] = "JPEG"
    most: ClassVar[int] = 65_500  # of libjpeg

    quality: int = number(75, whole=True, at_least=1, at_most=100)
    chroma: str = word("420", "444")

    def apply(self, picture: Image.Image) -> Image.Image:
        """Encode and decode a picture."""
        return self._decoded(picture)[0]

    def pull_back(self, gradient: Tensor, picture: Image.Image) -> Tensor:
        """Model the slope of the quantisation, see :mod:`advimg.transforms.block_coding`."""
        tables = self._tables()
        luma, chroma = (torch.tensor(table, device=gradient.device).float().view(8, 8) for table in tables)
        levels = planes(picture, gradient.device)
        return block_coding.pull_back(gradient, levels, luma, chroma, subsampled=self.chroma == "420")

    def _decoded(self, picture: Image.Image) -> tuple[Image.Image, list[list[int]]]:
        with self.coded(picture, quality=self.quality, subsampling=_SUBSAMPLING[self.chroma]) as opened:
            assert isinstance(opened, JpegImageFile)
            tables = [list(opened.quantization[number]) for number in (0, 1)]
            return opened.convert("RGB"), tables

    def _tables(self) -> list[list[int]]:
        """Return the quantisation steps of luma and chroma, 64 each, row by row."""
        return self._decoded(Image.new("RGB", (8, 8)))[1]
