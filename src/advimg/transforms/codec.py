"""What lossy codecs share: a picture is encoded in memory and opened again, and has only so many pixels a side."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, ClassVar

from PIL import Image
from PIL.ImageFile import ImageFile

from advimg.errors import UsageError
from advimg.images.decode import without_pixel_limit
from advimg.transforms.base import Transform


class Codec(Transform):
    """A transform that encodes a picture and decodes it.

    Attributes:
        name: of the format, as people write it.
        most: pixels a side.
    """

    name: ClassVar[str]
    most: ClassVar[int]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the same sides.

        Raises:
            UsageError: the format cannot hold them.
        """
        if max(width, height) > self.most:
            raise UsageError(f"{self.name} holds at most {self.most} pixels a side")
        return width, height

    @contextmanager
    def coded(self, picture: Image.Image, **options: Any) -> Iterator[ImageFile]:
        """Open what the codec makes of a picture, with options of PIL's."""
        buffer = BytesIO()
        picture.save(buffer, self.name, **options)
        with without_pixel_limit():
            file = Image.open(buffer)
        with file as opened:
            yield opened
