"""PIL's resize, as the linear map it is, with its adjoint.

``Image.resize`` resamples one axis after the other, mostly the horizontal first, and rounds to whole levels after each.
Each output sample is a weighted sum over a few neighbouring input samples. Here the same weights (the same filters, the
same 22-bit fixed point; Pillow's ``Resample.c``) stand in small matrices, so a resize is two matrix products, its
gradient is two products with the transposes, and both can be restricted to the part of the picture that a centre crop
will keep.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
import torch
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]

_FIXED_POINT = float(1 << 22)
_PIL_13 = int(PIL.__version__.partition(".")[0]) >= 13
# Output samples a block on a CPU: each block reads only the inputs its samples need, so the cost stays near that of the
# non-zero weights while every product is still large enough for the matrix units. A GPU multiplies all of it sooner
# than it takes orders for the parts: with one block a step of a photo is a third as many operations.
_BLOCK = 32


class _Block(NamedTuple):
    outputs: slice
    inputs: slice
    weights: Tensor  # [outputs, inputs]


@dataclass(frozen=True, eq=False)
class Axis:
    """The resampling of one axis, restricted to the outputs that are kept.

    Attributes:
        window: the input samples that the kept outputs depend on.
        length: how many outputs are kept.
        blocks: the matrix [length, window], in blocks along its diagonal.
    """

    window: slice
    length: int
    blocks: tuple[_Block, ...]

    @property
    def window_length(self) -> int:
        """How many input samples the kept outputs depend on."""
        length: int = self.window.stop - self.window.start
        return length

    def columns(self, picture: Tensor) -> Tensor:
        """Resample the last axis: [..., window] to [..., length]."""
        out = picture.new_empty((*picture.shape[:-1], self.length))
        for block in self.blocks:
            out[..., block.outputs] = picture[..., block.inputs] @ block.weights.T
        return out

    def rows(self, picture: Tensor) -> Tensor:
        """Resample the last axis but one: [..., window, n] to [..., length, n]."""
        out = picture.new_empty((*picture.shape[:-2], self.length, picture.shape[-1]))
        for block in self.blocks:
            out[..., block.outputs, :] = block.weights @ picture[..., block.inputs, :]
        return out

    def columns_adjoint(self, gradient: Tensor, out: Tensor) -> Tensor:
        """The transpose of :meth:`columns`: [..., length] to ``out`` [..., window]."""
        out.zero_()
        for block in self.blocks:
            out[..., block.inputs] += gradient[..., block.outputs] @ block.weights
        return out

    def rows_adjoint(self, gradient: Tensor, out: Tensor) -> Tensor:
        """The transpose of :meth:`rows`: [..., length, n] to ``out`` [..., window, n]."""
        out.zero_()
        for block in self.blocks:
            out[..., block.inputs, :] += block.weights.T @ gradient[..., block.outputs, :]
        return out


def rows_first(size: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Tell whether PIL resizes the height before the width: from version 13 on, where that saves work."""
    less_wide, less_high = size[0] - resized[0], size[1] - resized[1]
    return _PIL_13 and less_high > max(0, 2 * less_wide)


def resample_axis(
    size: int, resized: int, kept: slice, interpolation: Interpolation, device: torch.device | str = "cpu"
) -> Axis:
    """Build the resampling of an axis of ``size`` samples to ``resized``, of which the slice ``kept`` is wanted."""
    starts, weights = _pillow_weights(size, resized, interpolation)
    starts, weights = starts[kept], weights[kept]
    length, taps = weights.shape
    # Taps of weight zero at either end would only widen the window.
    used = weights != 0
    first = starts + used.argmax(axis=1)
    last = starts + taps - used[:, ::-1].argmax(axis=1)
    low, high = int(first.min()), int(last.max())
    matrix = np.zeros((length, high - low), dtype=np.float32)
    for row in range(length):
        inside = slice(first[row] - starts[row], last[row] - starts[row])
        matrix[row, first[row] - low : last[row] - low] = weights[row, inside]
    blocks = []
    size = _BLOCK if torch.device(device).type == "cpu" else length
    for begin in range(0, length, size):
        outputs = slice(begin, min(begin + size, length))
        inputs = slice(int(first[outputs].min()) - low, int(last[outputs].max()) - low)
        block = np.ascontiguousarray(matrix[outputs, inputs])
        blocks.append(_Block(outputs, inputs, torch.from_numpy(block).to(device)))
    return Axis(slice(low, high), length, tuple(blocks))


def round_levels(picture: Tensor) -> Tensor:
    """Round to whole levels 0..255 in place, halves up, as PIL does after each pass."""
    return picture.add_(0.5).floor_().clamp_(0, 255)


def _pillow_weights(
    size: int, resized: int, interpolation: Interpolation
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return for each output its first input, shape [resized], and its weights, shape [resized, taps]."""
    scale = size / resized
    radius, kernel = (1.0, _triangle) if interpolation == "bilinear" else (2.0, _cubic)
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
    fixed = np.trunc(weights * _FIXED_POINT + np.copysign(0.5, weights))
    return starts, fixed / _FIXED_POINT


def _triangle(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic convolution with a = -0.5 (Keys 1981, doi:10.1109/TASSP.1981.1163711)."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
