"""A preprocessing that is somebody's own function, from a picture to what the network is given."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from advimg.classifiers.device import failing_as, repeatable
from advimg.errors import ClassifierError
from advimg.formatting import printable

PreprocessFunction = Callable[[Image.Image], Tensor]

_LONGEST_NAME = 100


def name_of(function: PreprocessFunction) -> str:
    """Return the name of a function, for messages and records; of a callable object that of its class."""
    named: Any = function
    while isinstance(named, partial):
        named = named.func
    return printable(str(getattr(named, "__name__", type(named).__name__)), _LONGEST_NAME)


def input_from(function: PreprocessFunction, picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """Return what the network is given of a picture: floats, [3, height, width], on the CPU.

    Args:
        function: from an RGB picture to a tensor of that shape, floats of any precision, on any device.
        picture: RGB.
        size: width and height of the network's input.

    Raises:
        ClassifierError: the function fails, or returns something else; one line that names it.
    """
    name = f"the preprocessing function {name_of(function)}"
    shown = f"a picture of {picture.width}x{picture.height} pixels"
    cpu = torch.device("cpu")
    with failing_as(f"{name} fails on {shown}"), torch.no_grad(), repeatable(cpu, exact=True):
        given: object = function(picture)
    if not isinstance(given, Tensor):
        raise ClassifierError(f"{name} makes a {type(given).__name__} of {shown}; a tensor was expected")
    width, height = size
    if given.shape != (3, height, width):
        raise ClassifierError(
            f"{name} makes a tensor {list(given.shape)} of {shown}; {[3, height, width]} was expected, as crop is "
            f"{width if width == height else size}"
        )
    if not given.is_floating_point():
        kind = str(given.dtype).removeprefix("torch.")
        raise ClassifierError(f"{name} makes a tensor of {kind} of {shown}; floats were expected")
    given = given.detach().to(cpu, torch.float32, copy=True)  # it may be memory that the function uses again
    if not torch.isfinite(given).all():
        raise ClassifierError(f"{name} makes values that are not finite (NaN) of {shown}")
    return given
