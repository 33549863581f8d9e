"""The transform seam: what may happen to a file before a network gets it, so that an attack can take account of it.

A transform changes a picture as the world does: by the real codec or resize, on whole levels. What an attack evaluates
is therefore exactly what the verdict will be on. The gradient passes the other way, by :meth:`Transform.pull_back`:
the adjoint of a linear change, and for what has no useful derivative, such as rounding, a model of one.

To add one, write a file like :mod:`advimg.transforms.mirror` and name its module in
:data:`advimg.registry.TRANSFORMS`. The fields of the class are its parameters, declared by
:func:`advimg.changes.number` and :func:`advimg.changes.word`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advimg.changes import Change
from advimg.errors import UsageError
from advimg.registry import TRANSFORMS
from advimg.settings import MAX_PIXELS


class Transform(ABC):
    """A change of a picture; a frozen dataclass of its parameters."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height that become of these.

        Raises:
            UsageError: the change is not possible.
        """
        return width, height

    @abstractmethod
    def apply(self, picture: Image.Image) -> Image.Image:
        """Return what becomes of an RGB picture."""

    @abstractmethod
    def pull_back(self, gradient: Tensor, picture: Image.Image) -> Tensor:
        """Map the gradient of a loss back through the change.

        Args:
            gradient: with respect to the levels of the changed picture, float [3, height, width].
            picture: that was changed.

        Returns:
            The gradient with respect to the levels of ``picture``, float [3, height, width], on the same device.
        """


def transforms_of(change: Change) -> tuple[Transform, ...]:
    """Return the transforms of a change without ranges, in their order."""
    return tuple(TRANSFORMS[link.name](*link.values) for link in change.links)


def apply_all(transforms: Iterable[Transform], picture: Image.Image) -> list[Image.Image]:
    """Apply transforms one after another; return the picture itself and what became of it after each."""
    pictures = [picture]
    for transform in transforms:
        pictures.append(transform.apply(pictures[-1]))
    return pictures


def pull_all_back(transforms: Sequence[Transform], gradient: Tensor, pictures: Sequence[Image.Image]) -> Tensor:
    """Map a gradient back through transforms; ``pictures`` are as :func:`apply_all` returns them."""
    for transform, picture in zip(reversed(transforms), reversed(pictures[:-1]), strict=True):
        gradient = transform.pull_back(gradient, picture)
    return gradient


def changed_picture(change: Change, picture: Image.Image) -> Image.Image:
    """Return what becomes of an RGB picture by a change without ranges."""
    return apply_all(transforms_of(change), picture)[-1]


def check_size(change: Change, width: int, height: int, *, source: str) -> list[tuple[int, int]]:
    """Refuse a change of which nothing is left, or more than a machine has memory for.

    Returns:
        The width and height of the picture itself, and of what becomes of it after each transform.

    Raises:
        UsageError: naming the change and the photo.
    """
    wide, high = width, height
    sizes = [(width, height)]
    for transform in transforms_of(change):
        try:
            wide, high = transform.size(wide, high)
        except UsageError as error:
            raise UsageError(f"{change} of {source} ({width}x{height}): {error}") from None
        if min(wide, high) < 1:
            raise UsageError(f"{change} leaves less than a pixel of {source} ({width}x{height})")
        if wide * high > MAX_PIXELS:
            raise UsageError(f"{change} makes {wide}x{high} pixels of {source} ({width}x{height}): too many")
        sizes.append((wide, high))
    return sizes


def planes(picture: Image.Image, device: torch.device) -> Tensor:
    """Return the levels of an RGB picture, float [3, height, width]."""
    levels = torch.from_numpy(np.array(picture)).to(device)
    return levels.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)


def picture_of(levels: Tensor) -> Image.Image:
    """Return the RGB picture of whole levels [3, height, width]."""
    pixels = levels.permute(1, 2, 0).to(torch.uint8).cpu().contiguous().numpy()
    return Image.fromarray(pixels)
