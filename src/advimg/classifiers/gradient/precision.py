"""The precision in which gradients are faster, measured with the network on the machine.

On a CPU with bfloat16 units the gradient of ResNet-50 takes half the time in bfloat16, that of a network of depthwise
convolutions one and a half times, that of a vision transformer two fifths for one picture and twice the time for
several; without such units it takes twenty times as long. No flag of the processor tells these cases apart.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from advimg.classifiers.gradient.network import GradientNetwork
from advimg.errors import ClassifierError

# The gain has to exceed the noise of a measurement, so that the next run makes the same choice.
_WORTH = 0.8
_HOPELESS = 1.5
# Below this many seconds the gradient is not the largest part of a step.
_QUICK = 0.005


@dataclass(frozen=True, eq=False, slots=True)
class Choice:
    """A gradient network in the chosen precision, and the reason, for a person."""

    network: GradientNetwork
    reason: str


def chosen(network: GradientNetwork, seen: Tensor) -> Choice:
    """Choose the precision of a gradient network on a CPU by the time that a gradient takes.

    Args:
        network: in fp32.
        seen: float levels [n, 3, crop, crop]: as many pictures as a pass will have.
    """
    usual = _seconds(lambda: _gradient(network, seen), count=2)
    if usual < _QUICK:
        return Choice(network, "fp32: the network is small")
    if not has_bf16_units():
        return Choice(network, "fp32: bf16 is slower on this processor")
    try:
        low = network.in_bf16()
        other = _seconds(lambda: _gradient(low, seen), count=1)
        if other < _HOPELESS * usual:  # the first takes longer than those that follow
            other = min(other, _seconds(lambda: _gradient(low, seen), count=1))
    except ClassifierError:  # an operation that torch does not have in bfloat16
        return Choice(network, "fp32: bf16 is not possible with this network")
    better = other < _WORTH * usual
    reason = f"a pass takes {usual * 1e3:.0f} ms in fp32, {other * 1e3:.0f} ms in bf16"
    return Choice(low if better else network, f"{'bf16' if better else 'fp32'}: {reason}")


@cache
def has_bf16_units() -> bool:
    """Tell whether a small convolution is faster in bfloat16 than in 32 bits; takes a few milliseconds."""
    picture, weight = torch.zeros(1, 64, 56, 56), torch.zeros(64, 64, 3, 3)
    low = picture.bfloat16(), weight.bfloat16()
    with torch.inference_mode():
        usual = _seconds(lambda: functional.conv2d(picture, weight), count=5)
        return _seconds(lambda: functional.conv2d(*low), count=5) < usual


def _gradient(network: GradientNetwork, seen: Tensor) -> None:
    pictures = seen.detach().clone().requires_grad_()
    torch.autograd.grad(network.logits(pictures, [(1.0, 0.0)] * len(pictures)).logsumexp(dim=1).sum(), pictures)


def _seconds(work: Callable[[], object], *, count: int) -> float:
    """Return the least seconds of ``count`` runs; the first of a kind is the slowest."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)
