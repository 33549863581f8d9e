"""The gradient of what is looked at, on linear networks, where it is known in closed form."""

import pytest
import torch
from torch.nn import functional

from advimg.classifiers.gradient.network import GradientNetwork
from advimg.engine.criterion import Criterion
from advimg.engine.forward import forward
from tests.conftest import linear_classifier, weight_of

_SCALE = 255 * 0.5
"""How many levels the network is fed as one."""


@pytest.mark.parametrize("away", [False, True])
def test_each_gradient_is_that_of_its_own_loss_at_its_own_temperature(away: bool) -> None:
    classifier = linear_classifier(classes=4, scale=0.01)
    pictures = [torch.randint(0, 256, (3, 8, 8)).float() for _ in range(3)]
    look = forward(pictures, GradientNetwork(classifier, "fp32"), [Criterion(2, away=away)] * 3)
    warm, cool, margin = look.gradient(["ce", "ce", "margin"], [3.0, 1.0, 1.0])
    logits = look.logits.detach()
    weight = weight_of(classifier)
    assert torch.allclose(warm, _cross_entropy_slope(logits[0], weight, 3.0, away=away), rtol=1e-4, atol=1e-8)
    assert torch.allclose(cool, _cross_entropy_slope(logits[1], weight, 1.0, away=away), rtol=1e-4, atol=1e-8)
    best_other = int(logits[2].scatter(0, torch.tensor(2), float("-inf")).argmax())
    expected = (weight[best_other] - weight[2]) * (-1 if away else 1)
    assert torch.allclose(margin, expected.view(3, 8, 8) / _SCALE, rtol=1e-4, atol=1e-8)


def _cross_entropy_slope(logits: torch.Tensor, weight: torch.Tensor, heat: float, *, away: bool) -> torch.Tensor:
    """Return the gradient of the class's cross-entropy, or of all others', [3, 8, 8], written out."""
    chances = (logits / heat).softmax(0)
    wanted = functional.one_hot(torch.tensor(2), 4).float()
    if away:
        wanted = chances * (1 - wanted) / (chances * (1 - wanted)).sum()
    return ((chances - wanted) @ weight / heat).view(3, 8, 8) / _SCALE
