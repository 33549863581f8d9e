"""The transform seam: what may happen to a picture before a network gets it, so that an attack can take account of it.

A transform is a map of levels that can be differentiated, drawn anew at each pass where it is random, with its
real counterpart beside it, which changes a picture as PIL does. To add one, write a file like
:mod:`advimg.transforms.mirror` and name its module in :data:`advimg.registry.TRANSFORMS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random
from typing import ClassVar, Literal

from PIL import Image
from torch import Tensor

from advimg.registry import TRANSFORMS

Stage = Literal["photo", "input"]


class Transform(ABC):
    """A change of a picture.

    Attributes:
        stage: where it stands: "photo" changes the photo's levels before the preprocessing; "input" what the
            preprocessing gives, before it is normalised: smaller, and so cheaper, but it is no longer the file.
    """

    stage: ClassVar[Stage] = "photo"

    @abstractmethod
    def apply(self, levels: Tensor, draw: Random) -> Tensor:
        """Return the changed picture, to be differentiated.

        By autograd; a map without a useful gradient is a :class:`torch.autograd.Function` with an adjoint of its own.

        Args:
            levels: float, 0..255, [3, height, width].
            draw: where chance comes from; a picture and its real counterpart get the same.

        Returns:
            Float levels [3, height, width] on the same device; the size may be another if the stage is "photo".
        """

    @abstractmethod
    def apply_to_picture(self, picture: Image.Image, draw: Random) -> Image.Image:
        """Return what becomes of an RGB picture, computed without torch."""


def transforms_named(names: Sequence[str], stage: Stage) -> tuple[Transform, ...]:
    """Return the transforms of a stage among those of these names, in their order.

    Raises:
        UsageError: no such transform.
    """
    made: list[Transform] = [TRANSFORMS[name]() for name in names]
    return tuple(transform for transform in made if transform.stage == stage)


def apply_all(transforms: Sequence[Transform], levels: Tensor, draw: Random) -> Tensor:
    """Apply transforms one after another."""
    for transform in transforms:
        levels = transform.apply(levels, draw)
    return levels
