"""The trial of a gradient network: on one picture it has to give the logits and the gradient of the untouched network.

Logits that agree do not show that gradients do: tracing drops the backward pass of an ``autograd.Function``, such as a
straight-through estimator (arXiv:1308.3432).
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import evaluated, is_out_of_memory
from advimg.errors import ClassifierError, first_line

# What the rounding of 32-bit arithmetic may change. A unit next to its kink falls on one side or on the other, which
# changes the gradient more than the logits.
_LOGITS = 1e-3
_GRADIENT = 5e-2
# By how much the confidences of a twin may differ: verdicts do not come from it.
_TWIN = 1e-2


@dataclass(frozen=True, eq=False, slots=True)
class Trial:
    """A picture, and what the untouched network makes of it.

    Attributes:
        picture: normalised, [1, 3, height, width].
        logits: [1, classes].
        gradient: of the weighted sum of the logits, [1, 3, height, width].
        weights: of the logits in that sum, [classes].
    """

    picture: Tensor
    logits: Tensor
    gradient: Tensor
    weights: Tensor

    @classmethod
    def of(cls, classifier: Classifier, network: nn.Module) -> Self:
        """Run a classifier's untouched network, or its twin, if torch can differentiate only that.

        Raises:
            ClassifierError: it fails, its output is not one finite logit a class, torch cannot differentiate it, or the
                twin gives other logits than the untouched network.
        """
        chance = torch.Generator().manual_seed(0)
        levels = _structured(*classifier.preprocessing.size, chance).to(classifier.device)
        picture = classifier.preprocessing.normalise(levels)
        weights = torch.randn(len(classifier.labels), generator=chance).to(classifier.device)
        with evaluated(network), classifier.failing_clearly():
            leaf = picture.clone().requires_grad_()
            # A copy, because some networks write into their input, which is not allowed where a gradient is asked for.
            logits = classifier.checked_logits(network(leaf.clone()), count=1)
            if not torch.isfinite(logits).all():
                raise classifier.not_finite()
            if network is not classifier.network:
                with torch.no_grad():
                    _check_twin(classifier, logits, classifier.checked_logits(classifier.network(picture), count=1))
            total = logits.float() @ weights
        try:
            (gradient,) = torch.autograd.grad(total, leaf)
        except Exception as error:  # the code of other people
            if is_out_of_memory(error):
                raise
            raise ClassifierError(
                f"{classifier.name} cannot be attacked: torch cannot differentiate it ({first_line(error)})"
            ) from error
        return cls(picture, logits.detach(), gradient, weights)

    def run(
        self, network: nn.Module, layout: torch.memory_format, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Return a network's logits and its gradient, in 32 bits, for an input of this layout and type.

        It may raise any error.
        """
        leaf = self.picture.clone().requires_grad_()
        logits = network(leaf.to(dtype, memory_format=layout, copy=True)).float()
        (gradient,) = torch.autograd.grad(logits @ self.weights, leaf)
        return logits.detach(), gradient

    def passes(self, network: nn.Module, layout: torch.memory_format) -> bool:
        """Tell whether a network gives the same logits and the same gradient, up to the rounding of 32 bits."""
        try:
            logits, gradient = self.run(network, layout)
        except Exception:  # the code of other people, changed by ours
            return False
        return self._same(logits) and _apart(gradient, self.gradient) <= _GRADIENT

    def passes_forward(self, network: nn.Module, layout: torch.memory_format) -> bool:
        """Tell whether a network gives the same logits."""
        try:
            with torch.no_grad():
                return self._same(network(self.picture.clone(memory_format=layout)))
        except Exception:  # the code of other people, changed by ours
            return False

    def _same(self, logits: Tensor) -> bool:
        if logits.shape != self.logits.shape:
            return False
        return bool((logits - self.logits).abs().max() <= _LOGITS * self.logits.abs().max())


def _check_twin(classifier: Classifier, twin: Tensor, logits: Tensor) -> None:
    apart = float((twin.log_softmax(1).exp() - logits.log_softmax(1).exp()).abs().max())
    if not apart <= _TWIN:
        raise ClassifierError(
            f"{classifier.name} cannot be attacked: its copy in torch gives other confidences (by {apart:.2g})"
        )


def _apart(gradient: Tensor, expected: Tensor) -> float:
    """Return the length of the difference of two gradients, as a share of that of the second."""
    difference, length = float((gradient - expected).norm()), float(expected.norm())
    return difference / length if length else difference


def _structured(width: int, height: int, chance: torch.Generator) -> Tensor:
    """Return a picture with what photos have, a quarter each, as levels [1, 3, height, width].

    That is a slope, edges, soft clouds and noise: noise alone is one grey to most networks. No area is quite even, for
    there a rounding would decide for all its pixels at once which way a gradient takes through a maximum.
    """
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width)[None, :].expand(height, width)
    slope = torch.stack([x, y, 1 - x])
    edges = torch.stack([((8 * x).floor() + (k * y).floor()) % 2 for k in (8, 4, 2)])
    clouds = functional.interpolate(torch.rand(1, 3, 8, 8, generator=chance), (height, width), mode="bilinear")[0]
    noise = torch.rand(3, height, width, generator=chance)
    upper = torch.where(x < 0.5, slope, edges)
    lower = torch.where(x < 0.5, clouds, noise)
    grain = torch.rand(3, height, width, generator=chance)
    return torch.where(y < 0.5, upper, lower).mul(239).add(16 * grain)[None].round()
