"""Photos as a command line names them: a path, or ``-`` for stdin."""

import sys
from typing import TYPE_CHECKING

from advimg.errors import PhotoError

if TYPE_CHECKING:
    from pathlib import Path

    from advimg.images.mask import Mask
    from advimg.images.photo import Photo


def read_mask(path: "Path | None", photo: "Photo", *, max_pixels: int) -> "Mask | None":
    """Read the mask of a photo, if there is one.

    Raises:
        PhotoError: it cannot be read, is not of the photo's size, or has nothing white.
    """
    from advimg.images.decode import read_photo
    from advimg.images.mask import mask_for

    return None if path is None else mask_for(photo, read_photo(path, max_pixels=max_pixels))


def read_input(image: str, *, max_pixels: int) -> "Photo":
    """Read a photo from a path, or from stdin where ``image`` is ``-``.

    Raises:
        PhotoError: it cannot be read, or stdin is a terminal.
    """
    from advimg.images.decode import decode_photo, read_photo

    if image != "-":
        return read_photo(image, max_pixels=max_pixels)
    if sys.stdin is None or sys.stdin.isatty():
        raise PhotoError("- reads the photo from stdin; pipe one in, as in `advimg attack - … < dog.jpg`")
    return decode_photo(sys.stdin.buffer.read(), source="stdin", max_pixels=max_pixels)
