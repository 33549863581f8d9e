"""The resizes of PIL and of torch as linear maps of tensors, with their adjoints.

``Image.resize`` resamples one axis after the other and rounds to whole levels after each. An output sample is a
weighted sum over a few neighbouring input samples. Here the same weights (the same filters and 22-bit fixed point;
Pillow's ``Resample.c``) stand in small matrices: a resize is two matrix products, its gradient two products with the
transposes, and both can be restricted to the part of the picture that a centre crop keeps.

torch resizes uint8 tensors on CPUs in the same way, but always the width first, and with weights of 16 bits.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import EllipsisType
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]
Library = Literal["pil", "torch"]

_PIL_BITS = 22
# torch takes as many as leave the largest weight of an axis below 2^15, and no more than PIL.
_TORCH_LARGEST = 1 << 15
_PIL_13 = int(PIL.__version__.partition(".")[0]) >= 13
# Output samples a block on a CPU: each block reads only the inputs of its samples, so the cost stays near that of the
# non-zero weights while every product is still large enough for the matrix units. A GPU multiplies the whole matrix
# faster than it launches the parts: with one block a step of a photo takes a third as many operations. There only a
# matrix of more weights than this is in blocks, of about as many: that of a whole large picture may take 200 MB.
_BLOCK = 32
_LARGEST_BLOCK = 1 << 20


_Index = tuple[EllipsisType | slice, ...]


class _Block(NamedTuple):
    outputs: _Index
    inputs: _Index
    weights: Tensor  # [outputs, inputs]


@dataclass(frozen=True, eq=False)
class Axis:
    """The resampling of one axis of pictures [..., height, width], restricted to the outputs that are kept.

    Attributes:
        dim: -2 for the height, -1 for the width.
        window: the input samples that the kept outputs depend on.
        length: how many outputs are kept.
        blocks: the matrix [length, window], in blocks along its diagonal.
    """

    dim: int
    window: slice
    length: int
    blocks: tuple[_Block, ...]

    def forward(self, picture: Tensor) -> Tensor:
        """Resample: along ``dim``, the window becomes the kept outputs."""
        shape = [*picture.shape]
        shape[self.dim] = self.length
        out = picture.new_empty(shape)
        for outputs, inputs, weights in self.blocks:
            out[outputs] = picture[inputs] @ weights.T if self.dim == -1 else weights @ picture[inputs]
        return out

    def adjoint(self, gradient: Tensor, out: Tensor | None = None) -> Tensor:
        """Multiply with the transpose: along ``dim``, the kept outputs become the window; into ``out`` if given."""
        shape = [*gradient.shape]
        shape[self.dim] = self.window.stop - self.window.start
        out = gradient.new_zeros(shape) if out is None else out.zero_()
        for outputs, inputs, weights in self.blocks:
            out[inputs] += gradient[outputs] @ weights if self.dim == -1 else weights.T @ gradient[outputs]
        return out


def rows_first(size: tuple[int, int], resized: tuple[int, int], library: Library = "pil") -> bool:
    """Tell whether the height is resized before the width: by PIL from version 13 on, where that saves work."""
    if library != "pil":
        return False
    less_wide, less_high = size[0] - resized[0], size[1] - resized[1]
    return _PIL_13 and less_high > max(0, 2 * less_wide)


def resample_axis(
    dim: int,
    size: int,
    resized: int,
    kept: slice,
    interpolation: str,
    device: torch.device | str = "cpu",
    library: Library = "pil",
) -> Axis:
    """Build the resampling of an axis of ``size`` samples to ``resized``, of which the slice ``kept`` is kept.

    What is kept beyond the ends is 0.
    """
    starts, weights = _weights(size, resized, interpolation, library)
    outputs = np.arange(kept.start, kept.stop)
    inside = outputs.clip(0, resized - 1)
    starts, weights = starts[inside], weights[inside]
    length, taps = weights.shape
    # Taps of weight zero at either end would only widen the window.
    used = weights != 0
    first = starts + used.argmax(axis=1)
    last = starts + taps - used[:, ::-1].argmax(axis=1)
    weights[outputs != inside] = 0
    low, high = int(first.min()), int(last.max())
    matrix = np.zeros((length, high - low), dtype=np.float32)
    for row in range(length):
        own = slice(first[row] - starts[row], last[row] - starts[row])
        matrix[row, first[row] - low : last[row] - low] = weights[row, own]
    blocks = []
    if torch.device(device).type == "cpu":
        step = _BLOCK
    elif matrix.size <= _LARGEST_BLOCK:
        step = length
    else:  # n outputs read about n times size / resized inputs
        step = max(_BLOCK, math.isqrt(_LARGEST_BLOCK * resized // size))
    for begin in range(0, length, step):
        rows = slice(begin, min(begin + step, length))
        inputs = slice(int(first[rows].min()) - low, int(last[rows].max()) - low)
        block = torch.from_numpy(np.ascontiguousarray(matrix[rows, inputs])).to(device)
        after = (slice(None),) * (-1 - dim)
        blocks.append(_Block((..., rows, *after), (..., inputs, *after), block))
    return Axis(dim, slice(low, high), length, tuple(blocks))


@lru_cache(maxsize=8)
def resize_axes(
    size: tuple[int, int], resized: tuple[int, int], interpolation: str, device: torch.device | str = "cpu"
) -> tuple[Axis, Axis]:
    """Return the resampling of both axes of whole pictures, in the order in which PIL resizes them.

    Sizes are width and height.
    """
    columns = resample_axis(-1, size[0], resized[0], slice(0, resized[0]), interpolation, device)
    rows = resample_axis(-2, size[1], resized[1], slice(0, resized[1]), interpolation, device)
    return (rows, columns) if rows_first(size, resized) else (columns, rows)


def round_levels(picture: Tensor) -> Tensor:
    """Round to whole levels 0..255 in place, halves up, as PIL does after each axis."""
    return picture.add_(0.5).floor_().clamp_(0, 255)


def _weights(
    size: int, resized: int, interpolation: str, library: Library
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return for each output its first input, shape [resized], and its weights, shape [resized, taps]."""
    scale = size / resized
    if interpolation == "nearest":
        return _nearest(size, resized, library), np.ones((resized, 1))
    _, radius, kernel = FILTERS[interpolation]
    stretch = max(scale, 1.0)  # antialiasing: when shrinking, the filter widens with the scale
    support = radius * stretch
    taps = math.ceil(support) * 2 + 1
    centres = (np.arange(resized) + 0.5) * scale
    starts = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    stops = np.minimum((centres + support + 0.5).astype(np.int64), size)
    inputs = starts[:, None] + np.arange(taps)
    weights = kernel((inputs - centres[:, None] + 0.5) / stretch)
    weights[inputs >= stops[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    one = float(1 << (_PIL_BITS if library == "pil" else _torch_bits(weights)))
    fixed = np.trunc(weights * one + np.copysign(0.5, weights))
    return starts, fixed / one


def _nearest(size: int, resized: int, library: Library) -> npt.NDArray[np.int64]:
    """Return for each output the input at its centre, shape [resized], where rounding decides as in the library.

    PIL (``Geometry.c``) adds the scale from one output to the next in double precision; torch (``nearest-exact``)
    multiplies in single precision.
    """
    if library == "pil":
        centres = np.full(resized, size / resized)
        centres[0] *= 0.5
        return np.add.accumulate(centres).astype(np.int64)
    scale = np.float32(size) / np.float32(resized)
    single = (np.arange(resized, dtype=np.float32) + np.float32(0.5)) * scale
    return np.minimum(single.astype(np.int64), size - 1)


def _torch_bits(weights: npt.NDArray[np.float64]) -> int:
    """Return how many bits behind the point torch gives the weights of an axis."""
    largest, bits = float(weights.max()), 0
    while bits < _PIL_BITS and int(0.5 + largest * (1 << (bits + 1))) < _TORCH_LARGEST:
        bits += 1
    return bits


_Kernel = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def _box(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _hamming(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.abs(x) < 1.0, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)


def _lanczos(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where((x >= -3.0) & (x < 3.0), np.sinc(x) * np.sinc(x / 3), 0.0)


def _triangle(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic convolution with a = -0.5 (Keys 1981, doi:10.1109/TASSP.1981.1163711)."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


class Filter(NamedTuple):
    """A filter of PIL: its number, its radius in input samples where nothing is shrunk, and its kernel."""

    number: Image.Resampling
    radius: float
    kernel: _Kernel


FILTERS: Mapping[str, Filter] = {
    "box": Filter(Image.Resampling.BOX, 0.5, _box),
    "bilinear": Filter(Image.Resampling.BILINEAR, 1.0, _triangle),
    "hamming": Filter(Image.Resampling.HAMMING, 1.0, _hamming),
    "bicubic": Filter(Image.Resampling.BICUBIC, 2.0, _cubic),
    "lanczos": Filter(Image.Resampling.LANCZOS, 3.0, _lanczos),
    "nearest": Filter(Image.Resampling.NEAREST, 0.5, _box),  # never widened: a single sample, even where it shrinks
}
