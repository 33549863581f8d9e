"""Masks: where a photo may be changed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from advimg.errors import PhotoError
from advimg.images.photo import Levels, Photo

_HALF = 128


@dataclass(frozen=True, eq=False)
class Mask:
    """Where a photo may be changed.

    Attributes:
        free: True where it may, shape [height, width].
        sha256: of the mask's file.
    """

    free: npt.NDArray[np.bool_]
    sha256: str

    def kept(self, before: Levels, after: Levels) -> bool:
        """Tell whether two pictures are the same where nothing may be changed."""
        return not ((before != after).any(axis=2) & ~self.free).any()


def mask_for(photo: Photo, picture: Photo) -> Mask:
    """Make the mask of a photo from a picture: what is white and opaque is free.

    Raises:
        PhotoError: the picture is not of the photo's size, or has nothing white.
    """
    if picture.size != photo.size:
        (width, height), (wide, high) = picture.size, photo.size
        raise PhotoError(f"the mask {picture.source} is {width}x{height}, but the photo is {wide}x{high}")
    free = np.asarray(Image.fromarray(picture.levels).convert("L")) >= _HALF
    if picture.alpha is not None:
        free &= picture.alpha >= _HALF
    if not free.any():
        raise PhotoError(f"the mask {picture.source} has nothing white, so nothing might be changed")
    free.flags.writeable = False
    return Mask(free, picture.sha256)
