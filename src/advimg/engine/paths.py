"""The ways from a photo's window to a network's input, and the gradient's way back."""

from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor

from advimg.changes import Change
from advimg.classifiers.preprocessing import Preprocessing, ResizeCrop
from advimg.transforms.base import apply_all, picture_of, planes, pull_all_back, transforms_of


class Path:
    """The way through a classifier's preprocessing alone.

    Args:
        resize_crop: of the photo's size.
        window: the rows and columns of the photo that are held, which contain those of ``resize_crop``.
    """

    def __init__(self, resize_crop: ResizeCrop, window: tuple[slice, slice]) -> None:
        self._resize_crop = resize_crop
        self._crops: list[Image.Image] = []
        places = zip(resize_crop.window, window, strict=True)
        self._rows, self._columns = (slice(own.start - held.start, own.stop - held.start) for own, held in places)

    def part(self, window: Tensor) -> Tensor:
        """Return that part of a tensor of the window, [3, height, width], which :meth:`backward` has gradients for."""
        return window[:, self._rows, self._columns]

    def forward(self, candidate: Tensor) -> Tensor:
        """Return the network's input, float levels [3, crop, crop], of a candidate's window, whole float levels."""
        crop = self._resize_crop.forward(self.part(candidate))
        if not self._resize_crop.then:
            return crop
        self._crops = apply_all(self._resize_crop.then, picture_of(crop))
        return planes(self._crops[-1], crop.device)

    def backward(self, gradient: Tensor, out: Tensor) -> Tensor:
        """Carry a gradient [3, crop, crop] of the last candidate back, into ``out``, of the shape of :meth:`part`."""
        gradient = pull_all_back(self._resize_crop.then, gradient, self._crops)
        return self._resize_crop.backward(gradient, out)


class ChangedPath:
    """The way of one candidate through a change of the whole picture, and then any classifier's preprocessing.

    Args:
        change: without ranges.
        picture: the whole candidate.
        device: of the networks' inputs.
    """

    def __init__(self, change: Change, picture: Image.Image, device: torch.device) -> None:
        self._transforms = transforms_of(change)
        self._pictures = apply_all(self._transforms, picture)
        self._paths: dict[Preprocessing, Path] = {}
        self._device = device

    def forward(self, preprocessing: Preprocessing) -> Tensor:
        """Return a network's input, float levels [3, crop, crop]."""
        changed = self._pictures[-1]
        resize_crop = resize_crop_of(preprocessing.description, *changed.size, self._device)
        rows, columns = resize_crop.window
        path = self._paths[preprocessing] = Path(resize_crop, resize_crop.window)
        # Only the window goes to the device.
        box = columns.start, rows.start, columns.stop, rows.stop
        return path.forward(planes(changed.crop(box), self._device))

    def backward(self, gradient: Tensor, preprocessing: Preprocessing) -> Tensor:
        """Carry a gradient [3, crop, crop] back to the whole candidate, [3, height, width]."""
        width, height = self._pictures[-1].size
        resize_crop = resize_crop_of(preprocessing.description, width, height, self._device)
        rows, columns = resize_crop.window
        carried = torch.zeros((3, height, width), device=self._device)
        part = carried[:, rows, columns]
        part.copy_(self._paths[preprocessing].backward(gradient, out=torch.empty_like(part)))
        return pull_all_back(self._transforms, carried, self._pictures)


@lru_cache(maxsize=64)
def resize_crop_of(preprocessing: Preprocessing, width: int, height: int, device: torch.device) -> ResizeCrop:
    """Return the differentiable form of a description for one size; many passes use the same."""
    return preprocessing.resize_crop(width, height, device)
