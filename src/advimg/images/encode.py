"""From levels to the bytes of a PNG, with the record in its text chunk."""

import io
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

from advimg.images.photo import Levels
from advimg.record import CHUNK_KEY

# PNG's filters leave noise of an adversarial picture: Huffman coding and runs compress it as well as zlib's search for
# repetitions (PIL's default), in less than half the time.
_COMPRESSION = {"compress_level": 1, "compress_type": zlib.Z_RLE}


def encode_png(
    levels: Levels,
    *,
    alpha: Levels | None = None,
    icc_profile: bytes | None = None,
    chunk: str | None = None,
    key: str = CHUNK_KEY,
) -> bytes:
    """Encode levels [height, width, 3] as a PNG; lossless, so decoding gives the same levels.

    Args:
        levels: RGB.
        alpha: transparency, [height, width], stored as it is.
        icc_profile: colour profile, stored as it is.
        chunk: text to store in a text chunk; ASCII.
        key: of that chunk.
    """
    pixels = levels if alpha is None else np.dstack([levels, alpha])
    text = PngImagePlugin.PngInfo()
    if chunk is not None:
        text.add_text(key, chunk)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **_COMPRESSION, pnginfo=text, icc_profile=icc_profile or b"")
    return buffer.getvalue()
