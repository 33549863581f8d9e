"""EoT-PGD through kornia's differentiable JPEG, to compare with: an attack whose files are to survive changes.

Written from the papers, with nothing of advimg's attack: PGD's sign steps (Madry et al. 2017, arXiv:1706.06083) along
the mean of the gradients of seven views, the picture itself and six changes of it (Athalye et al. 2018,
arXiv:1707.07397). It attacks the photo at its own size, through differentiable forms of the changes and of the official
preprocessing. kornia's JPEG (after Reich et al. 2024, arXiv:2309.06978) smooths the rounding. kornia has no WebP, so
that JPEG 80 stands for WebP 80.
"""

import copy
import importlib
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from advimg.images.photo import Levels

_View = Callable[[Tensor], Tensor]
"""Levels 0..1, [1, 3, h, w], to those of what a change makes of them."""


class EotPgd:
    """The attack.

    Args:
        model: levels 0..1, [n, 3, 224, 224], to logits; a copy of it is used.
        stride: the length of a step, as a share of eps.
        device: where to compute.

    Raises:
        ImportError: kornia is missing.
    """

    def __init__(self, model: nn.Module, stride: float, device: torch.device) -> None:
        self._model = copy.deepcopy(model).requires_grad_(False).to(device)
        self._stride = stride
        self._device = device
        self._codec = importlib.import_module("kornia.enhance").jpeg_codec_differentiable
        self.views: Sequence[_View] = (
            lambda picture: picture,
            partial(self._jpeg, quality=75),
            partial(self._jpeg, quality=50),
            partial(self._jpeg, quality=80),
            _half_size,
            _without_a_tenth,
            lambda picture: self._jpeg(_half_size(picture), quality=75),
        )

    def __call__(self, photo: Levels, target: int, *, eps: int, steps: int) -> Levels:
        """Take so many steps from the photo, [h, w, 3], uint8; return the last picture, rounded to whole levels.

        Each step costs as many passes through the network as there are views.
        """
        start = torch.from_numpy(photo.transpose(2, 0, 1).copy())[None].to(self._device).float() / 255
        radius = eps / 255
        lowest, highest = (start - radius).clamp_min(0), (start + radius).clamp_max(1)
        wanted = torch.full((len(self.views),), target, device=self._device)
        picture = start
        for _ in range(steps):
            tried = picture.clone().requires_grad_()
            seen = torch.cat([_preprocessed(view(tried)) for view in self.views])
            loss = functional.cross_entropy(self._model(seen), wanted)
            (slope,) = torch.autograd.grad(loss, tried)
            moved = picture - self._stride * radius * slope.sign()
            picture = torch.minimum(torch.maximum(moved, lowest), highest)
        levels: Levels = (picture[0] * 255).round().byte().permute(1, 2, 0).cpu().contiguous().numpy()
        return levels

    def _jpeg(self, picture: Tensor, *, quality: int) -> Tensor:
        coded: Tensor = self._codec(picture, torch.tensor([float(quality)]))
        return coded


def _half_size(picture: Tensor) -> Tensor:
    return _resized(picture, round(picture.shape[2] / 2), round(picture.shape[3] / 2))


def _without_a_tenth(picture: Tensor) -> Tensor:
    height, width = picture.shape[2:]
    kept_height, kept_width = round(height * 0.9), round(width * 0.9)
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return picture[:, :, top : top + kept_height, left : left + kept_width]


def _preprocessed(picture: Tensor) -> Tensor:
    """Resize the shorter side to 256 and crop the centre, [1, 3, 224, 224]."""
    height, width = picture.shape[2:]
    shorter = min(height, width)
    height, width = 256 * height // shorter, 256 * width // shorter
    top, left = round((height - 224) / 2), round((width - 224) / 2)  # halves to even, as torchvision does
    return _resized(picture, height, width)[:, :, top : top + 224, left : left + 224]


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    resized = functional.interpolate(picture, (height, width), mode="bicubic", align_corners=False, antialias=True)
    # Bicubic sums leave the scale where edges are sharp; the levels of a picture cannot.
    return resized.clamp(0, 1)
