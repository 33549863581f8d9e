"""Targeted projected gradient descent on L2, with momentum, on whole pixel levels.

The problem is that of :mod:`advimg.attacks.pgd`, but for the ball: x is a photo of whole levels, and what is bounded is
the Euclidean length of the change that is written,

    minimise L(x + round(δ))  over  ‖δ‖ <= ε,  ‖round(δ)‖ <= ε,  0 <= x + δ <= 255.

One step (PGD on L2: Madry et al. 2018, arXiv:1706.06083; momentum: Dong et al. 2018, arXiv:1710.06081):

    g <- ∇L / mean|∇L|
    v <- μ v + g
    δ <- project(δ - α v / ‖v‖)

All lengths are in levels. Tensors are whole pictures, of any shape: length is not a matter of single pixels.
"""

import torch
from torch import Tensor

from advimg.attacks.pgd import clip_to_box

# What single precision may be wrong by when it measures a length.
_SAFE = 1 - 1e-5
_HALVINGS = 12


def descend(delta: Tensor, velocity: Tensor, gradient: Tensor, *, step_size: float, momentum: float) -> None:
    """Take one step of length α against the velocity, in place: update ``velocity``, then ``delta``.

    Args:
        delta: the latent perturbation, float levels.
        velocity: the decaying sum of normalised gradients; zeros at the start.
        gradient: the normalised gradient of the loss.
        step_size: α, in levels.
        momentum: μ; 0 is plain PGD.
    """
    velocity.mul_(momentum).add_(gradient)
    length = torch.linalg.vector_norm(velocity)
    delta.sub_(velocity * (step_size / torch.where(length > 0, length, 1.0)))


def project(delta: Tensor, photo: Tensor, eps: float) -> Tensor:
    """Bring δ, in place, into the ball and so that x + δ stays in 0..255, its rounded form as well.

    Rounding can make a change longer. Then δ is shrunk by the least factor that bisection finds.

    Args:
        delta: the latent perturbation, float levels.
        photo: x, in levels.
        eps: the radius, in levels.
    """
    radius = eps * _SAFE
    delta.mul_(torch.clamp(radius / torch.linalg.vector_norm(delta).clamp_min(1e-12), max=1.0))
    clip_to_box(delta, photo)
    if _written_length(delta) <= radius:
        return delta
    fits, too_long = 0.0, 1.0
    for _ in range(_HALVINGS):
        factor = (fits + too_long) / 2
        if _written_length(delta * factor) <= radius:
            fits = factor
        else:
            too_long = factor
    return delta.mul_(fits)


def random_start(delta: Tensor, photo: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Fill δ, in place, with a step of length ε in a direction that is drawn uniformly, projected.

    Drawn on the CPU, so that a seed means the same start on every device.
    """
    noise = torch.empty(delta.shape, dtype=delta.dtype).normal_(generator=generator)
    delta.copy_(noise).mul_(eps / torch.linalg.vector_norm(delta))
    return project(delta, photo, eps)


def _written_length(delta: Tensor) -> float:
    return float(torch.linalg.vector_norm(delta.round()))
