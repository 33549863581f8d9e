"""ReLU with a soft derivative: the forward pass is unchanged, the gradient is smooth around the kinks.

A step of an attack moves every pixel and switches many units on and off, which the gradient at one point does not
show. So the derivative of ReLU, a step at zero, is replaced with

    σ(x / w),  w = softness · rms(x),

the derivative of softplus, where rms(x) is the root mean square of the layer's input for that picture. It is close to
the mean slope around x. ReLU6 has a second kink, and the derivative σ(x / w) - σ((x - 6) / w). Backward passes without
ReLU were found to need fewer steps (Guo et al. 2020, arXiv:2012.03528; Li et al. 2021, arXiv:2112.11018).

Layers deep in the network, whose maps are small, have a softness of their own. In the layers before, whose maps are
large, it costs most and does not help against the network itself, but it helps the transfer to other networks.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# The last stage of most networks has maps of a thirty-second of the picture in width and height; networks for small
# pictures end with larger ones.
_SHARE = 32
_SMALL = 8
# Avoids a division by zero in a layer whose input is zero.
_NARROWEST = 1e-9
# rms(x) is taken over a grid of about this many rows and columns.
_GRID = 16


Values = Sequence[tuple[float, float]]
"""For each picture of a pass, the softness of the layers deep in the network and of those before; 0 is the true
derivative."""


class Softness:
    """How soft the derivatives of one network are.

    Threads that share the network have values of their own.

    Args:
        deep_map: the largest width and height of a layer's input that counts as deep in the network.
    """

    def __init__(self, deep_map: int) -> None:
        self._deep_map = deep_map
        self._values: dict[int, tuple[Values, bool]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Softness":
        # Without the values of the passes that other threads have under way.
        return Softness(self._deep_map)

    @contextmanager
    def during(self, values: Values, *, always: bool = False) -> Iterator[None]:
        """Give the passes of this thread their values while the context lasts.

        Args:
            values: for each picture.
            always: whether units take the soft form also where all values are 0.
        """
        thread = threading.get_ident()
        self._values[thread] = values, always
        try:
            yield
        finally:
            del self._values[thread]

    def of_maps(self, width: int, count: int) -> tuple[float, ...] | None:
        """Return the softness of each of so many pictures in layers whose maps have this width; None for none."""
        values, always = self._values.get(threading.get_ident(), ((), False))
        if len(values) != count:
            return None
        chosen = tuple(deep if width <= self._deep_map else early for deep, early in values)
        return chosen if always or any(chosen) else None


class SoftReLU(nn.Module):
    """ReLU or ReLU6 with a soft derivative.

    Args:
        exact: the module that is replaced.
        softness: shared by all units of the network.
    """

    def __init__(self, exact: nn.ReLU | nn.ReLU6, softness: Softness) -> None:
        super().__init__()
        self.exact = exact
        self.softness = softness
        self._most = 6.0 if isinstance(exact, nn.ReLU6) else None

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0), of a ReLU6 at most 6, whatever the softness."""
        values = self.softness.of_maps(max(x.shape[2:]) if x.dim() == 4 else 1, len(x))
        if values is None:
            rectified: Tensor = self.exact(x)
            return rectified
        soft: Tensor = _Soft.apply(x, self._most, values)
        return soft


def soften(network: nn.Module, side: int) -> Softness:
    """Replace the ReLUs of a network, in place, by soft ones, and return their common softness.

    Only modules ``nn.ReLU`` and ``nn.ReLU6`` are replaced, and none with hooks, which may do anything.

    Args:
        network: changed in place.
        side: the longer of its input.
    """
    softness = Softness(max(_SMALL, math.ceil(side / _SHARE)))
    for path, module in list(network.named_modules(remove_duplicate=False)):
        hooked = module._forward_hooks or module._forward_pre_hooks
        if path and type(module) in (nn.ReLU, nn.ReLU6) and not hooked:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, SoftReLU(module, softness))
    return softness


class _Soft(torch.autograd.Function):
    """The forward pass of ReLU or ReLU6, with the soft backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: float | None, softness: tuple[float, ...]) -> Tensor:
        widths = _root_mean_square(x) * x.new_tensor(softness, dtype=torch.float32)
        ctx.save_for_backward(x, widths)
        ctx.most, ctx.softness = most, softness
        return x.clamp(0, most)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, widths = ctx.saved_tensors
        widths = widths.clamp_min(_NARROWEST).to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        scaled = x / widths
        if ctx.most is None:
            out = scaled.sigmoid_()
        else:
            out = scaled.sigmoid()
            out -= scaled.sub_(ctx.most / widths).sigmoid_()
        out *= gradient
        for number, value in enumerate(ctx.softness):
            if value == 0:
                most = torch.inf if ctx.most is None else ctx.most
                torch.ops.aten.hardtanh_backward(gradient[number], x[number], 0, most, grad_input=out[number])
        return out, None, None


def _root_mean_square(x: Tensor) -> Tensor:
    """Return the root mean square of each picture, [n], float32, over a grid of places of [n, c, h, w] or [n, c]."""
    if x.dim() == 4:
        x = x[:, :, :: max(1, x.shape[2] // _GRID), :: max(1, x.shape[3] // _GRID)]
    places = max(1, x[0].numel())
    axes = tuple(range(1, x.dim()))
    length: Tensor = torch.linalg.vector_norm(x, dim=axes, dtype=torch.float32)
    return length / math.sqrt(places)
