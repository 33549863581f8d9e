"""Preprocessing: a classifier's resize, crop and normalisation, and what it may do to the crop between them.

There are two forms. The *stock* form is the official preprocessing: PIL's resize and crop of a picture, then 32-bit
floats, or a function of the classifier's authors; every verdict comes from it. :class:`ResizeCrop` does the same to a
tensor of levels and can be differentiated: the attack uses it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advimg.changes import Change, parse_changes
from advimg.classifiers.own_preprocessing import PreprocessFunction, input_from, name_of
from advimg.errors import ClassifierError, PhotoError, UsageError
from advimg.settings import MAX_PIXELS
from advimg.transforms.base import Transform, changed_picture, picture_of, planes, transforms_of
from advimg.transforms.resampling import FILTERS, Axis, Interpolation, Library, resample_axis, round_levels, rows_first

Channels = Literal["rgb", "bgr"]
Corner = Literal["nearest", "lower"]

_INTERPOLATIONS = get_args(Interpolation)
# The resize of a square photo of that side has as many pixels as a photo may have.
_LONGEST = math.isqrt(MAX_PIXELS)
# Beyond them it is no mean or std of a channel on the scale 0..1, and 32 bits may not tell it from zero or infinity.
_LEAST, _MOST = 1e-6, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side (or both), crop the centre, normalise: what ImageNet classifiers do with a photo.

    Attributes:
        resize: the length of the shorter side after the resize; a pair is the width and the height of all that is
            resized.
        crop: width and height of the centre crop, at most ``resize``; a pair if they differ.
        interpolation: the filter of the resize.
        mean, std: of each channel, on the scale 0..1, in the order of ``channels``.
        squash: whether both sides are resized to ``resize``, whatever the photo's shape.
        then: what happens to the crop before it is normalised, such as ``jpeg:75``: no ranges, and it keeps the size.
        channels: the order in which the network takes them.
        library: whose resize it is; that of torch is described here, but its stock form is a function.
        pad: whether a crop larger than what is resized is filled up with black.
        corner: how the crop's corner is rounded where it lies between two pixels: to the even one, or towards 0.
        preprocess: the stock form, where it is somebody's own function; all else then only describes it.

    Raises:
        ClassifierError: the crop is larger than the resized picture, or a value is out of range.
    """

    resize: int | tuple[int, int]
    crop: int | tuple[int, int]
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    squash: bool = False
    then: Change | None = None
    channels: Channels = "rgb"
    library: Library = "pil"
    corner: Corner = "nearest"
    pad: bool = False
    preprocess: PreprocessFunction | None = field(default=None, hash=False)  # not every callable has a hash

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            value = getattr(self, name)
            sides = value if isinstance(value, tuple) and len(value) == 2 else [value]
            if any(type(side) is not int or abs(side) > _LONGEST for side in sides):
                raise ClassifierError(f"the {name} must be a whole number of pixels, at most {_LONGEST}")
        if not all(
            1 <= crop <= (_LONGEST if self.pad else least)
            for crop, least in zip(self.size, _pair(self.resize), strict=True)
        ):
            crop, resize = (shown(each) for each in (self.crop, self.resize))
            raise ClassifierError(f"the crop ({crop}) must lie between 1 and the resize ({resize})")
        if self.interpolation not in _INTERPOLATIONS:
            raise ClassifierError(
                f"unknown interpolation {self.interpolation!r}; use one of {', '.join(_INTERPOLATIONS)}"
            )
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ClassifierError("mean and std need three values each")
        means, stds = all(_within(-_MOST, each) for each in self.mean), all(_within(_LEAST, each) for each in self.std)
        if not (means and stds):
            raise ClassifierError(
                f"mean and std are numbers on the scale 0..1: every mean must lie between -{_MOST} and {_MOST}, every "
                f"std must be above 0, between {_LEAST} and {_MOST}"
            )
        if self.channels not in get_args(Channels):
            raise ClassifierError(f"unknown channels {self.channels!r}; use one of {', '.join(get_args(Channels))}")
        if self.then is not None:
            self._check_then(self.then)

    def _check_then(self, then: Change) -> None:
        if not then.fixed:
            raise ClassifierError(f"what follows the crop ({then}) must have no ranges, because it is always the same")
        size = self.size
        for transform in transforms_of(then):
            size = transform.size(*size)
        if size != self.size:
            raise ClassifierError(
                f"what follows the crop ({then}) makes {shown(size)} pixels of it; it must keep its {shown(self.size)}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the network's input."""
        return _pair(self.crop)

    @property
    def description(self) -> Self:
        """The preprocessing without a function of its own: as it is described."""
        return self if self.preprocess is None else replace(self, preprocess=None)

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
        """Return the preprocessing as plain JSON values; what not many have has a key only where it is used."""
        values: dict[str, Any] = {
            "resize": _plain(self.resize),
            "crop": _plain(self.crop),
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            "squash": self.squash,
        }
        if self.then is not None:
            values["then"] = str(self.then)
        if self.channels != "rgb":
            values["channels"] = self.channels
        if self.library != "pil":
            values["library"] = self.library
        if self.corner != "nearest":
            values["corner"] = self.corner
        if self.pad:
            values["pad"] = True
        if self.preprocess is not None:
            values["preprocess"] = name_of(self.preprocess)
        return values

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after the resize."""
        if isinstance(self.resize, tuple):
            return self.resize
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
        """Return the official preprocessing of an RGB picture: normalised floats, [3, height, width] of ``size``.

        It is on the CPU.

        Raises:
            ClassifierError: it is a function of its own, which fails or does not return that.
        """
        if self.preprocess is not None:
            return input_from(self.preprocess, picture, self.size)
        return self.finished(self.cropped(picture))

    def cropped(self, picture: Image.Image) -> Image.Image:
        """Return the resized crop of an RGB picture, as the library makes it."""
        if self.library != "pil":
            resize_crop = self.resize_crop(*picture.size)
            rows, columns = resize_crop.window
            return picture_of(resize_crop.forward(planes(picture, torch.device("cpu"))[:, rows, columns]))
        size = self.resized(*picture.size)
        if picture.size != size:
            picture = picture.resize(size, FILTERS[self.interpolation].number)
        left, top = self._corner(*size)
        return picture.crop((left, top, left + self.size[0], top + self.size[1]))

    def finished(self, crop: Image.Image) -> Tensor:
        """Return what the network gets of a crop: normalised floats, [3, height, width]."""
        if self.then is not None:
            crop = changed_picture(self.then, crop)
        return self.normalise(torch.from_numpy(np.array(crop)).permute(2, 0, 1).to(torch.float32))

    def resize_crop(self, width: int, height: int, device: torch.device | str = "cpu") -> "ResizeCrop":
        """Return the differentiable form for photos of one size."""
        wide, high = self.resized(width, height)
        left, top = self._corner(wide, high)
        across, down = slice(left, left + self.size[0]), slice(top, top + self.size[1])
        columns = resample_axis(-1, width, wide, across, self.interpolation, device, self.library)
        rows = resample_axis(-2, height, high, down, self.interpolation, device, self.library)
        axes = (rows, columns) if rows_first((width, height), (wide, high), self.library) else (columns, rows)
        return ResizeCrop(axes, then=() if self.then is None else transforms_of(self.then))

    def normalise(self, levels: Tensor) -> Tensor:
        """Normalise float levels 0..255, RGB, shape [..., 3, h, w], in the order that the network takes them in."""
        if self.channels == "bgr":
            levels = levels.flip(-3)
        mean = torch.tensor(self.mean, dtype=levels.dtype, device=levels.device).view(3, 1, 1)
        std = torch.tensor(self.std, dtype=levels.dtype, device=levels.device).view(3, 1, 1)
        return levels.div(255).sub_(mean).div_(std)

    def _corner(self, width: int, height: int) -> tuple[int, int]:
        """Return left and top of the crop; torchvision rounds halves to even, transformers towards 0."""
        beside, above = width - self.size[0], height - self.size[1]
        return (int(beside / 2), int(above / 2)) if self.corner == "lower" else (round(beside / 2), round(above / 2))


def shown(side: int | tuple[int, int]) -> str:
    """Return a side or a pair of sides for a message."""
    return f"{side[0]}x{side[1]}" if isinstance(side, tuple) else str(side)


def _pair(side: int | tuple[int, int]) -> tuple[int, int]:
    return side if isinstance(side, tuple) else (side, side)


def _plain(side: int | tuple[int, int]) -> int | list[int]:
    return list(side) if isinstance(side, tuple) else side


def read_then(text: str) -> Change:
    """Read what follows the crop.

    Raises:
        ClassifierError: it is not one change.
    """
    try:
        changes = parse_changes(text)
    except UsageError as error:
        raise ClassifierError(f"what follows the crop cannot be read: {error}") from error
    if len(changes) != 1:
        raise ClassifierError(f"what follows the crop must be one change, such as jpeg:75, not {len(changes)}")
    return changes[0]


def _within(least: float, value: object) -> bool:
    """Tell whether a value is a number from ``least`` to the most that a mean or std may be; NaN is not."""
    return isinstance(value, int | float | np.floating) and bool(least <= value <= _MOST)


@dataclass(frozen=True, eq=False)
class ResizeCrop:
    """Resize and crop of photos of one size as a map of tensors, with its gradient.

    It reads only the *window*: the pixels that the crop depends on. The others never matter to the classifier.

    Attributes:
        axes: the resampling of the two axes, in the order in which PIL resizes them.
        then: what follows the crop. It is for those who hold the state of a pass, as many passes share this object.
    """

    axes: tuple[Axis, Axis]
    then: Sequence[Transform] = field(default=(), kw_only=True)

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the photo that the crop depends on."""
        rows, columns = sorted(self.axes, key=lambda axis: axis.dim)
        return rows.window, columns.window

    def forward(self, window: Tensor) -> Tensor:
        """Resize and crop: float levels [3, window height, window width] to whole float levels of the crop.

        Agrees with PIL to the level wherever single precision can tell which side of a half a sum falls on, and
        within one level everywhere.
        """
        first, second = self.axes
        return round_levels(second.forward(round_levels(first.forward(window))))

    def backward(self, seen: Tensor, out: Tensor) -> Tensor:
        """Map a gradient back: of the crop into ``out``, [3, window height, window width].

        The adjoint of the resize; rounding and clipping pass it straight through (arXiv:1308.3432).
        """
        first, second = self.axes
        return first.adjoint(second.adjoint(seen), out)
