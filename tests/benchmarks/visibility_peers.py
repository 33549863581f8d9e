"""Attacks of the literature that look for the least change, written from their papers, to compare with.

Both are targeted, stop at nothing but the top-1 class and know no eps. They attack the photo at its own size through
the differentiable preprocessing; every picture that they try has whole levels, as both papers ask for.

- DDN (Rony et al. 2019, arXiv:1811.09600): gradient steps decide the direction of the change; its L2 norm shrinks by a
  twentieth whenever the target is reached and grows by as much when it is not. Step 1, annealed to 0.01.
- PerC-AL (Zhao, Liu and Larson 2020, arXiv:1911.02466): a step towards the target while it is not reached, a step that
  lowers the colour difference CIEDE2000 while it is. Steps 1 and 0.5, annealed to a hundredth and a tenth of that.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from advimg.classifiers.preprocessing import Preprocessing, ResizeCrop
from advimg.images.photo import Levels

_SHRINK = 0.05  # DDN's γ


class _Aim:
    """A photo, the window of it that the network sees, and the class that it is to show.

    Attributes:
        window: of the photo, on the scale 0..1, float, [3, height, width].
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, photo: Levels, target: int) -> None:
        height, width, _ = photo.shape
        self._model = model
        self._photo = photo
        self._target = target
        self._path: ResizeCrop = preprocessing.resize_crop(width, height)
        planes = torch.from_numpy(photo[self._path.window].transpose(2, 0, 1).copy())
        self.window = planes.float() / 255

    def gradient(self, window: Tensor) -> tuple[bool, Tensor]:
        """Return whether a window of whole levels shows the target, and its gradient of the cross-entropy."""
        with torch.no_grad():
            seen = self._path.forward((window * 255).round_()) / 255
        seen.requires_grad_()
        logits = self._model(seen.unsqueeze(0))
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.tensor([self._target])), seen)
        return int(logits.argmax()) == self._target, self._path.backward(slope, out=torch.empty_like(window))

    def whole(self, window: Tensor) -> Levels:
        """Return the photo with this window, [height, width, 3], uint8."""
        levels = self._photo.copy()
        levels[self._path.window] = (window * 255).round().byte().permute(1, 2, 0).numpy()
        return levels


Finder = Callable[[nn.Module, Preprocessing, Levels, int, int], Levels]
"""Model of levels 0..1, preprocessing, photo [h, w, 3] uint8, target, steps -> picture [h, w, 3] uint8."""


def ddn(model: nn.Module, preprocessing: Preprocessing, photo: Levels, target: int, steps: int) -> Levels:
    """Return the picture of the least L2 norm that shows the target; the last one if none does."""
    aim = _Aim(model, preprocessing, photo, target)
    delta = torch.zeros_like(aim.window)
    tried, norm = aim.window, 1.0
    best, least = tried, math.inf
    for step in range(steps):
        there, gradient = aim.gradient(tried)
        length = float((tried - aim.window).norm())
        if there and length < least:
            best, least = tried, length
        delta -= _annealed(1, 0.01, step / steps) * _unit(gradient)
        norm *= 1 - _SHRINK if there else 1 + _SHRINK
        tried = _whole_levels(aim.window + norm * _unit(delta))
    return aim.whole(best if least < math.inf else tried)


def perc_al(model: nn.Module, preprocessing: Preprocessing, photo: Levels, target: int, steps: int) -> Levels:
    """Return the picture of the least L2 norm of CIEDE2000 that shows the target; the last one if none does."""
    aim = _Aim(model, preprocessing, photo, target)
    lab = to_lab(aim.window)
    delta = torch.zeros_like(aim.window)
    tried = aim.window
    best, least = tried, math.inf
    for step in range(steps):
        there, gradient = aim.gradient(tried)
        if there:
            changed = tried.clone().requires_grad_()
            difference = ciede2000(lab, to_lab(changed)).norm()
            length = float(difference.detach())
            if length < least:
                best, least = tried, length
            (slope,) = torch.autograd.grad(difference, changed)
            delta -= _annealed(0.5, 0.05, step / steps) * _unit(slope)
        else:
            delta -= _annealed(1, 0.01, step / steps) * _unit(gradient)
        tried = _whole_levels(aim.window + delta)
    return aim.whole(best if least < math.inf else tried)


def to_lab(rgb: Tensor) -> Tensor:
    """Turn sRGB on the scale 0..1, [3, h, w], into CIELAB under D65."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = torch.tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    white = torch.tensor([0.95047, 1.0, 1.08883]).view(3, 1, 1)
    share = torch.einsum("ij,jhw->ihw", to_xyz, linear) / white
    x, y, z = torch.where(share > 0.008856, share.clamp_min(0.008856) ** (1 / 3), 7.787 * share + 16 / 116)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(one: Tensor, other: Tensor) -> Tensor:
    """Return the colour difference CIEDE2000 of two pictures in CIELAB, [3, h, w] each, as [h, w].

    After Sharma, Wu and Dalal 2005. Where colours are equal or grey, the roots are kept off zero for the gradient's
    sake.
    """
    (l1, a1, b1), (l2, a2, b2) = one, other
    grey = _seventh((_root(a1 * a1 + b1 * b1) + _root(a2 * a2 + b2 * b2)) / 2)
    a1, a2 = a1 * (1.5 - grey / 2), a2 * (1.5 - grey / 2)
    c1, c2 = _root(a1 * a1 + b1 * b1), _root(a2 * a2 + b2 * b2)
    h1, h2 = _hue(a1, b1), _hue(a2, b2)
    turn = h2 - h1
    turn = turn - 2 * math.pi * (turn / (2 * math.pi)).round().detach()
    wide = (h1 - h2).abs() > math.pi
    hue = (h1 + h2) / 2 + torch.where(wide, math.pi, 0.0)
    chroma, lightness = (c1 + c2) / 2, ((l1 + l2) / 2 - 50) ** 2
    t = (
        1
        - 0.17 * (hue - math.radians(30)).cos()
        + 0.24 * (2 * hue).cos()
        + 0.32 * (3 * hue + math.radians(6)).cos()
        - 0.20 * (4 * hue - math.radians(63)).cos()
    )
    hue = torch.rad2deg(hue.remainder(2 * math.pi))
    rotation = -2 * _seventh(chroma) * (torch.deg2rad(60 * (-(((hue - 275) / 25) ** 2)).exp())).sin()
    dl = (l2 - l1) / (1 + 0.015 * lightness / (20 + lightness).sqrt())
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dh = 2 * _root(c1 * c2) * (turn / 2).sin() / (1 + 0.015 * chroma * t)
    return _root(dl * dl + dc * dc + dh * dh + rotation * dc * dh)


def _hue(a: Tensor, b: Tensor) -> Tensor:
    # The gradient of atan2 at the origin is not a number.
    none = (a == 0) & (b == 0)
    return torch.where(none, 0.0, torch.atan2(b, torch.where(none, 1.0, a)).remainder(2 * math.pi))


def _seventh(chroma: Tensor) -> Tensor:
    power: Tensor = chroma**7
    return torch.sqrt((power / (power + 25.0**7)).clamp_min(1e-12))


def _root(value: Tensor) -> Tensor:
    return value.clamp_min(1e-8).sqrt()


def _annealed(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _unit(vector: Tensor) -> Tensor:
    return torch.div(vector, vector.norm().clamp_min(1e-12))


def _whole_levels(window: Tensor) -> Tensor:
    return (window.clamp(0, 1) * 255).round() / 255
