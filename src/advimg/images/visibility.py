"""How visible the change between a photo and its adversarial picture is, by measures that no attack minimises.

Colour difference is CIEDE2000 (Sharma, Wu and Dalal 2005, "The CIEDE2000 color-difference formula"), in which about 1
can just be noticed. Structure is SSIM (Wang et al. 2004, "Image quality assessment"), on luma, in windows of 7x7.
Levels are read as sRGB in the light of D65.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from advimg.images.photo import Levels
from advimg.record import Visibility

Floats = npt.NDArray[np.floating]

_WINDOW = 7
_PIXELS = 1 << 16
"""At a time: the temporaries then stay in the processor's cache."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

# IEC 61966-2-1: from levels to linear light, and from that to XYZ as a share of the white point's, here D65.
_ENCODED = np.arange(256) / 255
_LINEAR = np.where(_ENCODED <= 0.04045, _ENCODED / 12.92, ((_ENCODED + 0.055) / 1.055) ** 2.4).astype(np.float32)
_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
) / np.array([[0.95047], [1.0], [1.08883]])
_DARK = 0.008856

_SAMPLES = 1 << 15
"""The most changed pixels whose colours are compared: the standard error of their mean is about half a per cent."""


def measure_visibility(before: Levels, after: Levels) -> Visibility | None:
    """Measure how visible the change between two pictures of one shape [height, width, 3] is.

    All is measured over the smallest box that holds every changed pixel; for SSIM it has at least the window's size.

    Returns:
        The measures; None where nothing changed.
    """
    changed = _changed(before, after)
    rows, columns = (_span(np.logical_or.reduce(changed, axis=axis)) for axis in (1, 0))
    if rows is None or columns is None:
        return None
    mean, p95 = _delta_e(before[rows, columns], after[rows, columns], changed[rows, columns])
    rows, columns = _at_least(rows, before.shape[0]), _at_least(columns, before.shape[1])
    ssim = _ssim(before[rows, columns], after[rows, columns])
    return Visibility(delta_e_mean=round(mean, 3), delta_e_p95=round(p95, 3), ssim=round(ssim, 5))


def lab(levels: Levels) -> Floats:
    """Return CIELAB, [3, pixels], of levels [pixels, 3]."""
    shares = _TO_XYZ.astype(np.float32) @ _LINEAR[levels.T]
    roots = np.where(shares > _DARK, np.cbrt(shares), np.float32(7.787) * shares + np.float32(16 / 116))
    x, y, z = roots
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(one: Floats, other: Floats) -> Floats:
    """Return the colour difference CIEDE2000, [pixels], of CIELAB colours, two of [3, pixels].

    Hues are kept as directions, of which products give differences and means: that takes no angles but one.
    """
    (l1, a1, b1), (l2, a2, b2) = one, other
    stretch = 1.5 - 0.5 * _grey_share((_length(a1, b1) + _length(a2, b2)) / 2)
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = _length(a1, b1), _length(a2, b2)
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    # ΔH' = 2 √(C1 C2) sin(Δh / 2), by whichever of two forms divides by no small number.
    product, dot, cross = c1 * c2, a1 * a2 + b1 * b2, a1 * b2 - a2 * b1
    tiny = np.finfo(product.dtype).tiny
    acute = cross / np.sqrt(np.maximum((product + dot) / 2, tiny))
    obtuse = np.copysign(np.sqrt(np.maximum(2 * (product - dot), 0)), cross)
    hue_step = np.where(dot >= 0, acute, obtuse)
    cos, sin = _mean_hue((a1, b1, c1), (a2, b2, c2))
    cos2, sin2 = cos * cos - sin * sin, 2 * sin * cos
    cos3, sin3 = cos * cos2 - sin * sin2, sin * cos2 + cos * sin2
    cos4, sin4 = cos2 * cos2 - sin2 * sin2, 2 * sin2 * cos2
    weight = (
        1
        - 0.17 * (_COS[30] * cos + _SIN[30] * sin)
        + 0.24 * cos2
        + 0.32 * (_COS[6] * cos3 - _SIN[6] * sin3)
        - 0.20 * (_COS[63] * cos4 + _SIN[63] * sin4)
    )
    off_middle = (lightness - 50) ** 2
    light = (l2 - l1) / (1 + 0.015 * off_middle / np.sqrt(20 + off_middle))
    colour = (c2 - c1) / (1 + 0.045 * chroma)
    hue = hue_step / (1 + 0.015 * chroma * weight)
    from_blue = np.arctan2(_COS[275] * sin - _SIN[275] * cos, _COS[275] * cos + _SIN[275] * sin) * (180 / np.pi / 25)
    rotation = -2 * _grey_share(chroma) * np.sin(np.pi / 3 * np.exp(-from_blue * from_blue))
    difference: Floats = np.sqrt(np.maximum(light**2 + colour**2 + hue**2 + rotation * colour * hue, 0))
    return difference


_COS, _SIN = ({degrees: float(f(np.deg2rad(degrees))) for degrees in (6, 30, 63, 275)} for f in (np.cos, np.sin))


def _length(a: Floats, b: Floats) -> Floats:
    length: Floats = np.sqrt(a * a + b * b)  # np.hypot, which minds overflow, takes five times as long
    return length


def _grey_share(chroma: Floats) -> Floats:
    """Return √(C⁷ / (C⁷ + 25⁷)), which is 0 for grey and 1 for colours."""
    share = chroma / 25
    seventh: Floats = (share * share) ** 3 * share
    root: Floats = np.sqrt(seventh / (seventh + 1))
    return root


def _mean_hue(one: tuple[Floats, Floats, Floats], other: tuple[Floats, Floats, Floats]) -> tuple[Floats, Floats]:
    """Return the direction between two hues, as cosine and sine; each colour is a', b' and C'."""
    (a1, b1, c1), (a2, b2, c2) = one, other
    a, b = a1 * c2 + a2 * c1, b1 * c2 + b2 * c1
    opposite = (a == 0) & (b == 0)
    if opposite.any():
        # The mean of angles from 0° to 360° is a right angle on from the lesser one. For grey any will do.
        turn = np.where((b1 > 0) | ((b1 == 0) & (a1 > 0)), 1, -1)
        a, b = np.where(opposite, -turn * b1, a), np.where(opposite, turn * a1, b)
    length = np.maximum(_length(a, b), np.finfo(a.dtype).tiny)
    return a / length, b / length


def _changed(before: Levels, after: Levels) -> npt.NDArray[np.bool_]:
    """Tell which pixels changed, [height, width]."""
    differs = before != after
    changed: npt.NDArray[np.bool_] = differs[:, :, 0] | differs[:, :, 1] | differs[:, :, 2]
    return changed


def _span(changed: npt.NDArray[np.bool_]) -> slice | None:
    """Return the rows or columns from the first to the last changed one; None where there is none."""
    (places,) = changed.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else None


def _at_least(span: slice, length: int) -> slice:
    """Widen rows or columns to the window's size, within the picture."""
    missing = max(0, _WINDOW - (span.stop - span.start))
    start = max(0, min(span.start - missing // 2, length - _WINDOW))
    return slice(start, min(length, max(span.stop, start + _WINDOW)))


def _delta_e(before: Levels, after: Levels, changed: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the mean and the 95th percentile of CIEDE2000 over all pixels; it is 0 where nothing changed.

    Of many changed pixels a sample is compared.
    """
    count = int(np.count_nonzero(changed))
    ranks, passed = _spread(count), 0
    found = []
    for rows in _blocks(*changed.shape):
        places = np.flatnonzero(changed[rows])
        first, last = np.searchsorted(ranks, (passed, passed + len(places)))
        place = np.divmod(places[ranks[first:last] - passed], changed.shape[1])
        old, new = before[rows][place], after[rows][place]
        found.append(ciede2000(lab(old), lab(new)))
        passed += len(places)
    difference = np.sort(np.concatenate(found))
    # The percentile of all pixels is another one of those that changed.
    rank = math.ceil(round((1 - 0.05 * changed.size / count) * len(difference), 6))
    p95 = float(difference[rank - 1]) if rank > 0 else 0.0
    return float(difference.mean(dtype=np.float64)) * count / changed.size, p95


def _spread(count: int) -> npt.NDArray[np.int64]:
    """Return the numbers below ``count``, or so many as are compared: one, by chance, of each of as many equal parts.

    The same ones every time.
    """
    if count <= _SAMPLES:
        return np.arange(count)
    within = np.random.default_rng(0).random(_SAMPLES)
    return ((np.arange(_SAMPLES) + within) * (count / _SAMPLES)).astype(np.int64)


def _ssim(before: Levels, after: Levels) -> float:
    """Return the mean SSIM of luma over all windows that lie within the pictures.

    With d = y - x it is (1 - E[d]² / (E[x]² + E[y]² + C1)) · (1 - var d / (var x + var y + C2)), where nothing small
    is the difference of large numbers. Variances are of samples.
    """
    height, width, _ = before.shape
    window = min(_WINDOW, height), min(_WINDOW, width)
    samples = window[0] * window[1]
    unbiased = np.float32(samples / max(1, samples - 1))
    c1, c2 = np.float32((0.01 * 255) ** 2), np.float32((0.03 * 255) ** 2)
    total, places = 0.0, 0
    for rows in _blocks(height - window[0] + 1, width):
        needed = slice(rows.start, rows.stop + window[0] - 1)
        x = before[needed] @ _LUMA
        d = after[needed] @ _LUMA - x
        y = x + d
        mean_x, mean_d, square_d, squares = (_means(each, window) for each in (x, d, d * d, x * x + y * y))
        mean_y = mean_x + mean_d
        mean_squares = mean_x * mean_x + mean_y * mean_y
        luminance = 1 - mean_d * mean_d / (mean_squares + c1)
        structure = 1 - unbiased * (square_d - mean_d * mean_d) / (unbiased * (squares - mean_squares) + c2)
        total += float((luminance * structure).sum(dtype=np.float64))
        places += luminance.size
    return total / places


def _means(values: Floats, window: tuple[int, int]) -> Floats:
    """Return the means of all windows of a size within [height, width]."""
    for axis, size in enumerate(window):
        values = np.moveaxis(_sums(np.moveaxis(values, axis, 0), size), 0, axis)
    return values / np.float32(window[0] * window[1])


def _sums(values: Floats, size: int) -> Floats:
    """Return the sums of so many neighbours along the first axis, by sums of powers of two of them."""
    length = len(values) - size + 1
    total, start, power = None, 0, 1
    while True:
        if size & power:
            part = values[start : start + length]
            total = part if total is None else total + part
            start += power
        if 2 * power > size:
            assert total is not None
            return total
        values = values[:-power] + values[power:]
        power *= 2


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows, each of so many that they hold few pixels."""
    step = max(1, _PIXELS // width)
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))
