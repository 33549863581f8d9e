"""Preprocessing: a classifier's resize, crop and normalisation.

There are two forms. The *stock* form is the official preprocessing: PIL's resize and crop of a picture, then 32-bit
floats; every verdict comes from it. :class:`ResizeCrop` does the same to a tensor of levels and can be differentiated:
the attack uses it.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advimg.classifiers.pil_resize import Axis, Interpolation, resample_axis, round_levels, rows_first
from advimg.errors import ClassifierError, PhotoError
from advimg.settings import MAX_PIXELS

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# The resize of a square photo of that side has as many pixels as a photo may have.
_LONGEST = math.isqrt(MAX_PIXELS)
# Beyond them it is no mean or std of a channel on the scale 0..1, and 32 bits may not tell it from zero or infinity.
_LEAST, _MOST = 1e-6, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side (or both), crop the centre, normalise: what ImageNet classifiers do with a photo.

    Attributes:
        resize: the length of the shorter side after the resize.
        crop: width and height of the centre crop, at most ``resize``.
        interpolation: the filter of the resize.
        mean, std: of each channel, on the scale 0..1.
        squash: whether both sides are resized to ``resize``, whatever the photo's shape.

    Raises:
        ClassifierError: the crop is larger than the resized picture, or a value is out of range.
    """

    resize: int
    crop: int
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    squash: bool = False

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            value = getattr(self, name)
            if type(value) is not int or abs(value) > _LONGEST:
                raise ClassifierError(f"the {name} must be a whole number of pixels, at most {_LONGEST}")
        if not 1 <= self.crop <= self.resize:
            raise ClassifierError(f"the crop ({self.crop}) must lie between 1 and the resize ({self.resize})")
        if self.interpolation not in _FILTERS:
            raise ClassifierError(f"unknown interpolation {self.interpolation!r}; use one of {', '.join(_FILTERS)}")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ClassifierError("mean and std need three values each")
        means, stds = all(_within(-_MOST, each) for each in self.mean), all(_within(_LEAST, each) for each in self.std)
        if not (means and stds):
            raise ClassifierError(
                f"mean and std are numbers on the scale 0..1: every mean must lie between -{_MOST} and {_MOST}, every "
                f"std must be above 0, between {_LEAST} and {_MOST}"
            )

    @classmethod
    def from_preset(cls, preset: Any) -> Self:
        """Read the preprocessing off torchvision weights' ``transforms()``, an ``ImageClassification`` preset.

        Raises:
            ClassifierError: the preset is of another kind.
        """
        try:
            (resize,), (crop,) = preset.resize_size, preset.crop_size
            return cls(
                resize=resize,
                crop=crop,
                interpolation=preset.interpolation.value,
                mean=tuple(preset.mean),
                std=tuple(preset.std),
            )
        except (AttributeError, ValueError, TypeError) as error:
            raise ClassifierError(f"its preprocessing is not that of an image classifier: {preset!r}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the preprocessing as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after the resize."""
        if self.squash:
            return self.resize, self.resize
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def check_size(self, width: int, height: int, *, source: str) -> None:
        """Refuse a photo so long and thin that its resize would need more memory than a machine has.

        Raises:
            PhotoError: naming the photo and both sizes.
        """
        wide, high = self.resized(width, height)
        if wide * high > MAX_PIXELS:
            raise PhotoError(
                f"{source} is too long and thin ({width}x{height}): the official preprocessing would resize it to "
                f"{wide}x{high}; crop it first"
            )

    def stock(self, picture: Image.Image) -> Tensor:
        """Return the official preprocessing of an RGB picture: normalised floats, [3, crop, crop], on the CPU."""
        size = self.resized(*picture.size)
        if picture.size != size:
            picture = picture.resize(size, _FILTERS[self.interpolation])
        left, top = self._corner(*size)
        picture = picture.crop((left, top, left + self.crop, top + self.crop))
        return self.normalise(torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(torch.float32))

    def resize_crop(self, width: int, height: int, device: torch.device | str = "cpu") -> "ResizeCrop":
        """Return the differentiable form for photos of one size."""
        wide, high = self.resized(width, height)
        left, top = self._corner(wide, high)
        columns = resample_axis(-1, width, wide, slice(left, left + self.crop), self.interpolation, device)
        rows = resample_axis(-2, height, high, slice(top, top + self.crop), self.interpolation, device)
        return ResizeCrop((rows, columns) if rows_first((width, height), (wide, high)) else (columns, rows))

    def normalise(self, levels: Tensor) -> Tensor:
        """Normalise float levels 0..255, shape [..., 3, h, w], for the network."""
        mean = torch.tensor(self.mean, dtype=levels.dtype, device=levels.device).view(3, 1, 1)
        std = torch.tensor(self.std, dtype=levels.dtype, device=levels.device).view(3, 1, 1)
        return levels.div(255).sub_(mean).div_(std)

    def _corner(self, width: int, height: int) -> tuple[int, int]:
        """Return left and top of the crop, rounded as in torchvision: halves to even."""
        return round((width - self.crop) / 2), round((height - self.crop) / 2)


def _within(least: float, value: object) -> bool:
    """Tell whether a value is a number from ``least`` to the most that a mean or std may be; NaN is not."""
    return isinstance(value, int | float | np.floating) and bool(least <= value <= _MOST)


@dataclass(frozen=True, eq=False)
class ResizeCrop:
    """Resize and crop of photos of one size as a map of tensors, with its gradient.

    It reads only the *window*: the pixels that the crop depends on. The others never matter to the classifier.

    Attributes:
        axes: the resampling of the two axes, in the order in which PIL resizes them.
    """

    axes: tuple[Axis, Axis]

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the photo that the crop depends on."""
        rows, columns = sorted(self.axes, key=lambda axis: axis.dim)
        return rows.window, columns.window

    def forward(self, window: Tensor) -> Tensor:
        """Resize and crop: float levels [3, window height, window width] to whole float levels [3, crop, crop].

        Agrees with PIL to the level wherever single precision can tell which side of a half a sum falls on, and
        within one level everywhere.
        """
        first, second = self.axes
        return round_levels(second.forward(round_levels(first.forward(window))))

    def backward(self, seen: Tensor, out: Tensor) -> Tensor:
        """Map a gradient back: [3, crop, crop] into ``out``, [3, window height, window width].

        The adjoint of the resize; rounding and clipping pass it straight through (arXiv:1308.3432).
        """
        first, second = self.axes
        return first.adjoint(second.adjoint(seen), out)
