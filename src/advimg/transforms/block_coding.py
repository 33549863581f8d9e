"""The gradient through a lossy codec that quantises the cosine transform of blocks, as JPEG and WebP do.

The picture goes through the real codec. On the way back each coefficient has the slope w(u) of its share u of the
quantisation step, where the true slope of round(u) is zero almost everywhere:

    w(u) = min(1, a + (1 - a) (u / ½)²),  a = 0.25

Straight through is w = 1. That takes no account of the coefficients that are quantised to zero, which are nearly all
that a small change has at high frequencies: to move them within the zone makes no difference in the file. They keep
the slope a, so that they may grow out of it. The idea of a smooth slope is that of differentiable JPEG (Shin and Song
2017; Reich et al., WACV 2024, arXiv:2309.06978), whose slopes are zero at whole u as well.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_SLOPE = 0.25  # a

# RGB to Y, Cb, Cr, of JFIF; levels without their offsets.
_YCC = (0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)


def pull_back(
    gradient: Tensor, levels: Tensor, luma: Tensor, chroma: Tensor, *, subsampled: bool, keep_means: bool = False
) -> Tensor:
    """Map a gradient back through a codec.

    Args:
        gradient: with respect to what was decoded, float [3, height, width].
        levels: that were encoded, of the same shape.
        luma: the quantisation steps of luma, [n, n], for blocks of n x n pixels, of orthonormal transforms.
        chroma: those of both chroma planes.
        subsampled: whether the chroma planes have half of the width and height.
        keep_means: whether the means of blocks pass straight through, as where they are predicted, not quantised.
    """
    matrix = gradient.new_tensor(_YCC)
    slope = torch.linalg.inv(matrix).T @ gradient.flatten(1)
    ycc = (matrix @ levels.flatten(1)).view_as(levels)
    bright, coloured = slope.view_as(gradient).split([1, 2])
    bright = _quantised(bright, ycc[:1] - 128, luma, keep_means=keep_means)
    colour = ycc[1:]
    if subsampled:
        # The mean of four, which a decoder repeats or interpolates.
        height, width = gradient.shape[1:]
        halved, colour = _halved(coloured, "constant"), _halved(colour, "replicate")
        halved = _quantised(halved, colour, chroma, keep_means=keep_means)
        coloured = _folded(halved.repeat_interleave(2, 1).repeat_interleave(2, 2), height, width)
    else:
        coloured = _quantised(coloured, colour, chroma, keep_means=keep_means)
    return (matrix.T @ torch.cat([bright, coloured]).flatten(1)).view_as(gradient)


def _quantised(slope: Tensor, planes: Tensor, steps: Tensor, *, keep_means: bool) -> Tensor:
    """Weigh the coefficients of a gradient by w(u) of those of planes, [n, height, width]."""
    side = len(steps)
    height, width = planes.shape[1:]
    share = _cosines(planes, side).div_(steps.view(side, 1, side)).mul_(2).square_()
    weight = share.mul_(1 - _LEAST_SLOPE).add_(_LEAST_SLOPE).clamp_(max=1)
    if keep_means:
        weight[:, :, 0, :, 0] = 1
    return _folded(_inverse(_cosines(slope, side, padding="constant").mul_(weight)), height, width)


def _cosines(planes: Tensor, side: int, padding: str = "replicate") -> Tensor:
    """Return the orthonormal DCT-II of blocks: [n, height, width] to [n, rows, side, columns, side]."""
    height, width = planes.shape[1:]
    if height % side or width % side:
        planes = functional.pad(planes[None], (0, -width % side, 0, -height % side), mode=padding)[0]
    count, height, width = planes.shape
    basis = _basis(side, planes.device)
    rows = basis @ planes.reshape(count, height // side, side, width)
    return rows.view(count, height // side, side, width // side, side) @ basis.T


def _inverse(blocks: Tensor) -> Tensor:
    """Invert :func:`_cosines`."""
    count, down, side, across, _ = blocks.shape
    basis = _basis(side, blocks.device)
    rows = (blocks @ basis).view(count, down, side, across * side)
    return (basis.T @ rows).view(count, down * side, across * side)


def _folded(planes: Tensor, height: int, width: int) -> Tensor:
    """Add what lies beyond the border to the border: the adjoint of a padding that repeats it."""
    for axis, length in ((1, height), (2, width)):
        inside, beyond = planes.tensor_split([length], axis)
        planes = inside.clone() if beyond.shape[axis] else inside
        if beyond.shape[axis]:
            planes.narrow(axis, length - 1, 1).add_(beyond.sum(axis, keepdim=True))
    return planes


def _halved(planes: Tensor, padding: str) -> Tensor:
    """Return means over 2x2 pixels, of an even number of them."""
    height, width = planes.shape[1:]
    if height % 2 or width % 2:
        planes = functional.pad(planes[None], (0, width % 2, 0, height % 2), mode=padding)[0]
    return functional.avg_pool2d(planes, 2)


@cache
def _basis(side: int, device: torch.device) -> Tensor:
    """Return the matrix of the orthonormal DCT-II."""
    places = torch.arange(side, dtype=torch.float64)
    basis = torch.cos((2 * places + 1) * places[:, None] * (math.pi / (2 * side))) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis.float().to(device)
