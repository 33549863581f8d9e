"""From the bytes of a file to upright RGB levels, as PIL decodes them."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from advimg.errors import PhotoError
from advimg.images.photo import Levels, Photo
from advimg.record import CHUNK_KEY
from advimg.settings import MAX_PIXELS
from advimg.storage.places import read_bytes
from advimg.storage.tars import split
from advimg.storage.url import Place, path_or_url

# Listed, so that no file can start another decoder (EPS runs Ghostscript).
# PIL's JPEG reader opens MPO too, which some phones and cameras write under the name .jpg.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""The suffixes of such files."""

_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")

_LARGEST_PROFILE = 1 << 20
"""PIL does not open a PNG whose colour profile is larger (``PngImagePlugin.MAX_TEXT_CHUNK``)."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_limit_lock = threading.Lock()


def read_photo(
    path: str | Place, *, max_pixels: int = MAX_PIXELS, before_decoding: Callable[[int], None] | None = None
) -> Photo:
    """Read a photo from a file.

    Args:
        path: of the file, or the URL of an object.
        max_pixels: the most pixels it may have.
        before_decoding: called with the number of its pixels before memory is taken for them.

    Raises:
        PhotoError: there is no such file, it is no picture, it is broken, or it is larger than ``max_pixels``.
    """
    path = path_or_url(path)
    try:
        if isinstance(path, Path) and path.is_dir():
            raise PhotoError(f"{path} is a folder; give one photo")
        data = read_bytes(path)
    except FileNotFoundError:
        raise PhotoError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error) or "it is too large for this machine's memory"
        raise PhotoError(f"{path} cannot be read: {reason}") from error
    return decode_photo(data, source=str(path), max_pixels=max_pixels, before_decoding=before_decoding)


def decode_photo(
    data: bytes,
    *,
    source: str,
    max_pixels: int = MAX_PIXELS,
    before_decoding: Callable[[int], None] | None = None,
) -> Photo:
    """Decode the bytes of a picture file, as :func:`read_photo`; ``source`` names it in messages and in the record.

    Raises:
        PhotoError: as :func:`read_photo`.
    """
    if not data:
        raise PhotoError(f"{source} is empty")
    with _broken_is_one_error(source), _opened(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise PhotoError(
                f"{source} has {width}x{height} = {width * height:,} pixels, more than the {max_pixels:,} allowed; "
                "raise --max-pixels if you trust it"
            )
        if before_decoding is not None:
            before_decoding(width * height)
        notes: list[str] = []
        frames = _frames(image)
        if frames > 1 and image.format != "MPO":  # an MPO's further frames are previews of the same photo
            notes.append(f"{source} has {frames} frames; only the first is used")
        levels, alpha = _levels(_upright(image), source)
        icc_profile = _rgb_profile(image.info.get("icc_profile"), source, notes)
        chunk = image.info.get(CHUNK_KEY)  # after the pixels, for a PNG may store it behind them
    levels.flags.writeable = False
    return Photo(
        levels=levels,
        alpha=alpha,
        icc_profile=icc_profile,
        source=source,
        sha256=hashlib.sha256(data).hexdigest(),
        chunk=chunk if isinstance(chunk, str) else None,
        notes=tuple(notes),
    )


def photo_from_pixels(picture: Image.Image | Levels, *, source: str = "picture") -> Photo:
    """Make a photo of a PIL image, or of an array of levels [height, width, 3], uint8.

    Raises:
        PhotoError: an array of another shape or type, or a PIL image that cannot be decoded.
    """
    notes: list[str] = []
    if isinstance(picture, Image.Image):
        if 0 in picture.size:
            raise PhotoError(f"{source} has {picture.width}x{picture.height} pixels, so there is nothing to attack")
        with _broken_is_one_error(source):
            levels, alpha = _levels(_upright(picture), source)
        profile = _rgb_profile(picture.info.get("icc_profile"), source, notes)
    else:
        levels, alpha, profile = np.array(picture), None, None
        if levels.dtype != np.uint8 or levels.ndim != 3 or levels.shape[2] != 3 or 0 in levels.shape:
            raise PhotoError(f"{source}: an array must be uint8 [height, width, 3], not {levels.dtype} {levels.shape}")
    levels.flags.writeable = False
    return Photo(
        levels=levels,
        alpha=alpha,
        icc_profile=profile,
        source=source,
        sha256=hashlib.sha256(levels.tobytes()).hexdigest(),
        notes=tuple(notes),
    )


def is_adversarial(path: Place) -> bool:
    """Tell whether a file is a PNG that holds the record of an attack; its pixels are not decoded."""
    return text_chunk(path, CHUNK_KEY) is not None


def text_chunk(path: Place, key: str) -> str | None:
    """Return a text chunk of a PNG; None if there is none. The pixels are not decoded."""
    return text_chunks(path, key)[0]


def text_chunks(path: Place, *keys: str) -> list[str | None]:
    """Return several text chunks of a PNG, which is opened once; None for those that there are not."""
    try:
        file = path if isinstance(path, Path) and split(path) is None else io.BytesIO(read_bytes(path))
        with Image.open(file, formats=("PNG",)) as image:
            texts = [image.info.get(key) for key in keys]
    except Exception:  # as _broken_is_one_error says
        return [None for _ in keys]
    return [text if isinstance(text, str) else None for text in texts]


def _opened(data: bytes) -> Image.Image:
    """Open a picture: its size is read, its pixels are not decoded."""
    with without_pixel_limit():
        return Image.open(io.BytesIO(data), formats=_FORMATS)


@contextmanager
def without_pixel_limit() -> Iterator[None]:
    """Switch off PIL's limit on pixels, a global that it checks when it opens a file; the caller has its own.

    Above the limit PIL warns, and above twice the limit it refuses.
    """
    with _limit_lock:  # or threads would restore each other's value
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _broken_is_one_error(source: str) -> Iterator[None]:
    """Turn every error of PIL into a PhotoError.

    PIL's decoders raise nearly anything on damaged files (OSError, SyntaxError, ValueError, struct.error, EOFError,
    IndexError, zlib.error, …): all of them mean that the file is broken.
    """
    try:
        yield
    except PhotoError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError(f"{source} is not a picture that can be read (JPEG, PNG, WebP, BMP, TIFF, GIF)") from error
    except MemoryError as error:
        raise PhotoError(f"{source} is too large for this machine's memory") from error
    except Exception as error:
        raise PhotoError(f"{source} is damaged: {error}") from error


def _frames(image: Image.Image) -> int:
    """Count the frames; 1 where those after the first are too damaged to be counted."""
    try:
        with without_pixel_limit():
            frames: int = getattr(image, "n_frames", 1)
    except Exception:  # as _broken_is_one_error says
        return 1
    return frames


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation to the pixels.

    PIL's ``exif_transpose`` rewrites the whole EXIF as well, and fails on odd entries.
    """
    image.load()
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def _levels(image: Image.Image, source: str) -> tuple[Levels, Levels | None]:
    """Convert any PIL mode to RGB levels and, where the picture has transparency, its alpha."""
    # Earlier versions of PIL open a PNG of 16 bits in its mode of 32.
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format == "PNG"):
        # convert("RGB") would saturate: every level above 255 would be white.
        deep = np.asarray(image).astype(np.int64)
        grey = ((deep + 128) // 257).astype(np.uint8)
        clear = image.info.get("transparency")  # the one level that is transparent
        alpha = np.where(deep == clear, 0, 255).astype(np.uint8) if isinstance(clear, int) else None
        return np.repeat(grey[:, :, None], 3, axis=2), alpha
    if image.mode == "I":
        raise PhotoError(f"{source} has 32-bit levels; save it with 8 or 16 bits a channel")
    if image.mode == "F":
        raise PhotoError(f"{source} has floating-point levels; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        rgba = np.array(image.convert("RGBA"))
        return np.ascontiguousarray(rgba[:, :, :3]), np.ascontiguousarray(rgba[:, :, 3])
    return np.array(image.convert("RGB")), None


def _rgb_profile(profile: object, source: str, notes: list[str]) -> bytes | None:
    """Keep a colour profile only if it is for RGB: a CMYK or grey one would be wrong in an RGB file.

    One that a PNG cannot be reopened with is left out, with a note.
    """
    # Bytes 16 to 20 of an ICC profile name its colour space (ICC.1:2022, section 7.2).
    if not isinstance(profile, bytes) or profile[16:20] != b"RGB ":
        return None
    if len(profile) > _LARGEST_PROFILE:
        notes.append(f"{source}: its colour profile is larger than 1 MiB and is left out; colours may look different")
        return None
    return profile
