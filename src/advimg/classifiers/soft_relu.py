"""ReLU with a soft derivative: the network computes what it always computes, but its gradient sees around the kink.

A step of an attack moves every pixel, and switches many units on and off that the gradient at one point takes for what
they are there. So the derivative of ReLU, a step at zero, is replaced with

    σ(x / (softness · rms(x))),

the derivative of softplus, where rms(x) is the root mean square of what the layer is fed for that picture. It is close
to what the slope is on average around x. That a way back without kinks can need fewer steps was found for one that
leaves ReLU out (Guo et al. 2020, arXiv:2012.03528; Li et al. 2021, arXiv:2112.11018).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Beyond so many widths above zero σ is 1; torch's own limit for softplus.
_THRESHOLD = 20.0
# rms(x) is taken over a grid of about so many rows and columns: to read all of it would cost as much as ReLU itself.
_GRID = 16


@dataclass(eq=False, slots=True)
class Softness:
    """How soft the derivatives of one network are.

    Attributes:
        values: one a picture of the pass that comes; 0 is the true derivative.
    """

    values: Sequence[float] = ()


class SoftReLU(nn.Module):
    """ReLU or ReLU6, whose derivative is as soft as ``softness`` says.

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
        values = self.softness.values
        if not any(values) or len(values) != len(x):
            rectified: Tensor = self.exact(x)
            return rectified
        soft: Tensor = _Soft.apply(x, self._most, tuple(values))
        return soft


def soften(network: nn.Module) -> Softness:
    """Replace the ReLUs of a network, in place, by soft ones, and return what says how soft they are.

    Only modules ``nn.ReLU`` and ``nn.ReLU6`` are found, and those with hooks, which may do anything, are passed over.
    """
    softness = Softness()
    for path, module in list(network.named_modules(remove_duplicate=False)):
        hooked = module._forward_hooks or module._forward_pre_hooks
        if path and type(module) in (nn.ReLU, nn.ReLU6) and not hooked:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, SoftReLU(module, softness))
    return softness


class _Soft(torch.autograd.Function):
    """Rectify, and remember what was rectified."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: float | None, softness: tuple[float, ...]) -> Tensor:
        widths = _root_mean_square(x) * x.new_tensor(softness, dtype=torch.float32)
        ctx.save_for_backward(x, widths)
        ctx.most = most
        return x.clamp(0, most)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, widths = ctx.saved_tensors
        scaled = scaled_one_by_one if x.device.type == "cpu" else scaled_together
        return scaled(gradient, x, widths, ctx.most), None, None


def scaled_together(gradient: Tensor, x: Tensor, widths: Tensor, most: float | None) -> Tensor:
    """Multiply a gradient by the soft derivative, in operations on all pictures: for devices that are slow to answer.

    Args:
        gradient: [n, ...].
        x: what was rectified, [n, ...].
        widths: of each picture, [n]; 0 stands for the true derivative.
        most: where ReLU6 is level again; the derivative is zero beyond.
    """
    widths = widths.clamp_min(1e-9).to(x.dtype).view(-1, *[1] * (x.dim() - 1))
    out = torch.sigmoid(x / widths).mul_(gradient)
    return out if most is None else out.masked_fill_(x >= most, 0)


def scaled_one_by_one(gradient: Tensor, x: Tensor, widths: Tensor, most: float | None) -> Tensor:
    """Do what :func:`scaled_together` does, picture by picture, each in one pass over memory: that is what counts."""
    out = torch.empty_like(x)
    derivatives = torch.ops.aten
    for one, picture, into, width in zip(gradient, x, out, widths.tolist(), strict=True):
        if width > 0:
            derivatives.softplus_backward(one, picture, 1 / width, _THRESHOLD, grad_input=into)
        else:
            derivatives.threshold_backward(one, picture, 0, grad_input=into)
        if most is not None:
            derivatives.hardtanh_backward(into, picture, -torch.inf, most, grad_input=into)
    return out


def _root_mean_square(x: Tensor) -> Tensor:
    """Return the root mean square of each picture, [n], float32, over a grid of its places: [n, c, h, w] or [n, c]."""
    if x.dim() == 4:
        x = x[:, :, :: max(1, x.shape[2] // _GRID), :: max(1, x.shape[3] // _GRID)]
    places = max(1, x[0].numel())
    axes = tuple(range(1, x.dim()))
    length: Tensor = torch.linalg.vector_norm(x, dim=axes, dtype=torch.float32)
    return length / math.sqrt(places)
