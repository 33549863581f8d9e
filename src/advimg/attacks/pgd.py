"""Targeted projected gradient descent on L∞, with momentum, on whole pixel levels.

The problem: given a photo x of whole levels 0..255 and a loss L that is small where the classifier sees the target,

    minimise L(x + round(δ))  over  |δ| <= ε,  0 <= x + δ <= 255.

The latent δ is continuous while every picture that is evaluated is whole levels, x + round(δ); the gradient passes the
rounding straight through (arXiv:1308.3432). So what is judged is what will be written, and small steps still add up.

One step (PGD: Madry et al. 2018, arXiv:1706.06083; momentum: Dong et al. 2018, arXiv:1710.06081):

    g <- ∇L / mean|∇L|
    v <- μ v + g
    δ <- project(δ - α sign(v))

All functions but :func:`normalise` work on each element by itself, so they may be applied to a picture in pieces.
"""

import torch
from torch import Tensor


def candidate(delta: Tensor, photo: Tensor, out: Tensor) -> Tensor:
    """Write the picture to evaluate, x + round(δ), whole float levels, into ``out``."""
    return torch.round(delta, out=out).add_(photo)


def normalise(gradient: Tensor) -> Tensor:
    """Divide a gradient by its mean absolute value, in place; a gradient of zeros stays as it is."""
    mean = torch.linalg.vector_norm(gradient, 1) / gradient.numel()
    return gradient.div_(torch.where(mean > 0, mean, 1.0))


def descend(delta: Tensor, velocity: Tensor, gradient: Tensor, *, step_size: float, momentum: float) -> None:
    """Take one step of sign descent with momentum, in place: update ``velocity``, then ``delta``.

    Args:
        delta: the latent perturbation, float levels.
        velocity: the decaying sum of normalised gradients; zeros at the start.
        gradient: the normalised gradient of the loss.
        step_size: α, in levels.
        momentum: μ; 0 is plain PGD.
    """
    velocity.mul_(momentum).add_(gradient)
    delta.sub_(velocity.sign().mul_(step_size))


def project(delta: Tensor, photo: Tensor, eps: float) -> Tensor:
    """Clip δ, in place, to the ε-ball and so that x + δ stays in 0..255. ``photo`` is x, in levels."""
    return clip_to_box(delta.clamp_(-eps, eps), photo)


def clip_to_box(delta: Tensor, photo: Tensor) -> Tensor:
    """Clip δ, in place, so that x + δ stays in 0..255. ``photo`` is x, in levels."""
    levels = photo.to(delta.dtype)
    torch.minimum(delta, 255 - levels, out=delta)
    return torch.maximum(delta, -levels, out=delta)


def random_start(delta: Tensor, photo: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Fill δ, in place, with a point drawn uniformly from the ε-ball, projected.

    Drawn on the CPU, so that a seed means the same start on every device.
    """
    noise = torch.empty(delta.shape, dtype=delta.dtype).uniform_(-eps, eps, generator=generator)
    return project(delta.copy_(noise), photo, eps)
