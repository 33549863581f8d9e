"""The ways from a photo's window to a network's input, and the gradient's way back."""

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.preprocessing import ResizeCrop
from advimg.transforms.base import Transform, apply_all


class Path:
    """The way through a classifier's preprocessing alone.

    Args:
        resize_crop: of the photo's size.
        window: the rows and columns of the photo that are held, which contain those of ``resize_crop``.
    """

    def __init__(self, resize_crop: ResizeCrop, window: tuple[slice, slice]) -> None:
        self.window = window
        self._resize_crop = resize_crop
        places = zip(resize_crop.window, window, strict=True)
        self._rows, self._columns = (slice(own.start - held.start, own.stop - held.start) for own, held in places)

    def part(self, window: Tensor) -> Tensor:
        """Return that part of a tensor of the window, [3, height, width], which :meth:`backward` has gradients for."""
        return window[:, self._rows, self._columns]

    def forward(self, candidate: Tensor, draw: Random | None) -> Tensor:  # noqa: ARG002
        """Return the network's input, float levels [3, crop, crop].

        Args:
            candidate: whole float levels of the window.
            draw: where the transforms take their chance from; None for none.
        """
        return self._resize_crop.forward(self.part(candidate))

    def backward(self, gradient: Tensor, out: Tensor) -> Tensor:
        """Carry a gradient [3, crop, crop] back, into ``out``, of the shape of :meth:`part`."""
        return self._resize_crop.backward(gradient, out)


class TransformedPath(Path):
    """The way through transforms of the whole photo, and then the preprocessing.

    Args:
        straight: the way without them.
        photo: float levels [3, height, width] of the whole photo.
        transforms: in their order.
        classifier: whose preprocessing it is.
    """

    def __init__(self, straight: Path, photo: Tensor, transforms: Sequence[Transform], classifier: Classifier) -> None:
        self.window = straight.window
        self._straight = straight
        self._photo = photo
        self._transforms = transforms
        self._preprocessing = classifier.preprocessing
        self._transformed: tuple[Tensor, Tensor, ResizeCrop] | None = None

    def part(self, window: Tensor) -> Tensor:
        """Return all of it: transforms may move any pixel of it into the crop."""
        return window

    def forward(self, candidate: Tensor, draw: Random | None) -> Tensor:
        """Return the network's input of the transformed photo."""
        self._transformed = None
        if draw is None:
            return self._straight.forward(candidate, None)
        rows, columns = self.window
        leaf = candidate.clone().requires_grad_()
        whole = self._photo.clone()
        whole[:, rows, columns] = leaf
        changed = apply_all(self._transforms, whole, draw)
        height, width = changed.shape[1:]
        resize_crop = self._preprocessing.resize_crop(width, height, changed.device)
        self._transformed = leaf, changed, resize_crop
        # As a file would hold it; the gradient passes the rounding straight through.
        levels = changed.detach().round().clamp_(0, 255)
        rows, columns = resize_crop.window
        return resize_crop.forward(levels[:, rows, columns].contiguous())

    def backward(self, gradient: Tensor, out: Tensor) -> Tensor:
        """Carry a gradient back through preprocessing and transforms."""
        if self._transformed is None:
            out.zero_()
            part = self._straight.part(out)
            part.copy_(self._straight.backward(gradient, out=torch.empty_like(part)))
            return out
        leaf, changed, resize_crop = self._transformed
        rows, columns = resize_crop.window
        carried = torch.zeros_like(changed)
        part = carried[:, rows, columns]
        part.copy_(resize_crop.backward(gradient, out=torch.empty_like(part)))
        (slope,) = torch.autograd.grad(changed, leaf, carried)
        return out.copy_(slope)
