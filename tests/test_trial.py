"""Gradient networks that would be wrong: each is tried against the untouched network, and left alone if it differs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient import precision
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.gradient.soft_relu import SoftReLU
from advimg.engine.engine import Engine
from advimg.errors import ClassifierError
from tests.conftest import random_photo


class _StraightThrough(torch.autograd.Function):
    """The sign, with the gradient of the identity (arXiv:1308.3432)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient


class _Binary(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _StraightThrough.apply(x)
        return out


class _Branch(nn.Module):
    """Binarises beside a way that does not, so that only a part of the gradient is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.binary = _Binary()

    def forward(self, x: Tensor) -> Tensor:
        binary: Tensor = self.binary(self.conv(x))
        return x + binary


class _FakeQuantised(nn.Module):
    """Rounds to a grid, as quantisation-aware training does, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return x + ((8 * x).round() / 8 - x).detach()


class _PreActivated(nn.Module):
    """Rectifies first, in place, so that what goes round the branch is rectified, too."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.conv(self.relu(x))
        return convolved + x


class _AddsInPlace(nn.Module):
    """Adds to the tensor that a ReLU has taken."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.relu(x))
        x += y
        return x


class _Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(6, 6, (1, 3, 3), padding=(0, 1, 1))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.conv(x[:, :, None]))
        return out.squeeze(2)


class _Constant(nn.Module):
    """Has a constant that is no buffer, and stays in 32 bits; cannot be traced, which would make it one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = [torch.full((6, 1, 1), 1.5)]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[0] if x.isfinite().all() else x


_ODD: dict[str, Callable[[], nn.Module]] = {
    "straight through": _Binary,
    "straight through a branch": _Branch,
    "fake quantised": _FakeQuantised,
    "in place first": _PreActivated,
    "added in place": _AddsInPlace,
    "volume": _Volume,
    "constant": _Constant,
}


def wrapped(*layers: nn.Module) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), *layers, nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip
    return Classifier.wrap(
        network, labels="abc", mean=(0.5,) * 3, std=(0.5,) * 3, resize=24, crop=24, name="odd", device="cpu"
    )


def logits_and_gradient(network: Callable[[Tensor], Tensor], seen: Tensor) -> tuple[Tensor, Tensor]:
    leaf = seen.clone().requires_grad_()
    logits = network(leaf)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    return logits.detach(), gradient


def pictures() -> Tensor:
    """Return a picture of noise and one of soft shapes, levels [2, 3, 24, 24]."""
    chance = torch.Generator().manual_seed(2)
    soft = functional.interpolate(torch.rand(1, 3, 4, 4, generator=chance), (24, 24), mode="bilinear")
    return torch.cat([torch.rand(1, 3, 24, 24, generator=chance), soft]).mul(255).round()


@pytest.mark.parametrize("kind", _ODD)
def test_logits_and_gradients_are_those_of_the_untouched_network(kind: str) -> None:
    classifier = wrapped(_ODD[kind]())
    seen = pictures()
    expected = logits_and_gradient(lambda x: classifier.network(classifier.preprocessing.normalise(x)), seen)
    assert expected[1].abs().max() > 0
    network = GradientNetwork(classifier, "fp32")
    for softness in ((), [(0.0, 0.0)] * 2):
        got = logits_and_gradient(lambda x, softness=softness: network.logits(x, softness), seen)  # type: ignore[misc]
        torch.testing.assert_close(got[0], expected[0], rtol=1e-3, atol=1e-4)
        assert (got[1] - expected[1]).norm() < 0.01 * expected[1].norm()
    logits, gradient = logits_and_gradient(lambda x: network.logits(x, [(0.5, 0.5), (0.0, 0.0)]), seen)
    torch.testing.assert_close(logits, expected[0], rtol=1e-3, atol=1e-4)
    assert (gradient[1] - expected[1][1]).norm() < 0.01 * expected[1][1].norm()


@pytest.mark.parametrize("kind", _ODD)
def test_odd_networks_are_attacked(kind: str) -> None:
    classifier = wrapped(_ODD[kind]())
    photo = random_photo(40, 30)
    target = int(classifier.judge(photo.levels).probabilities.argmin())
    outcome = advimg.attack(photo, target, model=classifier, eps=64, confidence=0)
    assert outcome.record.fooled


@pytest.mark.parametrize(
    ("kind", "fused", "soft"),
    [
        ("straight through", False, False),
        ("straight through a branch", False, False),
        ("in place first", True, False),
        ("added in place", True, True),  # tracing makes it an addition of its own
        ("volume", True, True),
        ("constant", False, True),
    ],
)
def test_a_network_is_changed_as_far_as_it_stays_the_same(kind: str, fused: bool, soft: bool) -> None:
    network = GradientNetwork(wrapped(_ODD[kind](), nn.ReLU()), "fp32")._form.network
    # Where units cannot be softened, none is; a network that cannot be fused may still have soft units.
    assert isinstance(network, fx.GraphModule) == fused
    softened = any(isinstance(module, SoftReLU) for module in network.modules())
    assert softened == (soft or not fused)


# Precisions.


def test_bf16_that_a_network_does_not_take_is_one_line() -> None:
    with pytest.raises(
        ClassifierError, match=r"^odd cannot be computed in bf16 \(.*\); use --precision fp32$"
    ) as caught:
        advimg.attack(random_photo(40, 30), 1, model=wrapped(_Constant()), precision="bf16")
    assert "\n" not in str(caught.value)


def test_auto_is_fp32_where_bf16_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, where bf16 is not measured but taken for the better; and on a CPU, where it is measured."""
    photo, resolve = random_photo(40, 30), "advimg.classifiers.gradient.network._resolve"
    with monkeypatch.context() as patched:
        patched.setattr(resolve, lambda precision, _: "bf16" if precision == "auto" else precision)
        engine = Engine(wrapped(_Constant()))
        assert engine.precision == "fp32"
        assert engine.choices[0].startswith("fp32: odd cannot be computed in bf16 (")
        assert Engine(wrapped(_Volume())).precision == "bf16"
    monkeypatch.setattr(precision, "_QUICK", 0)
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    outcome = advimg.attack(photo, 1, model=wrapped(_Constant()), steps=2)
    assert outcome.record.precision == "fp32"


# Networks that cannot be attacked at all.


class _Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 7)


class _Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class _Nan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.nan


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (_Fails, "odd fails on an input of 24x24 pixels: RuntimeError: shape '[-1, 7]' is invalid for input of size"),
        (_Detached, "odd cannot be attacked: torch cannot differentiate it (RuntimeError: "),
        (_Nan, "odd gives logits that are not finite (NaN); its weights are damaged"),
    ],
)
def test_a_network_that_cannot_be_attacked_is_one_line_before_the_first_photo(
    layer: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ClassifierError) as caught:
        Engine(wrapped(layer()))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class _Opaque(nn.Module):
    """Computes where torch cannot follow, as another library does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.from_numpy(self.inner(x).numpy().copy())


def _opaque(twin: nn.Module) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    wrapped = Classifier.wrap(
        _Opaque(network), labels=["a", "b", "c"], mean=(0, 0, 0), std=(1, 1, 1), resize=32, crop=32, device="cpu"
    )
    if isinstance(twin, nn.Identity):
        twin = network
    return replace(wrapped, twin=lambda: twin)


def test_gradients_go_through_the_twin_of_a_network_that_torch_cannot_differentiate() -> None:
    classifier = _opaque(nn.Identity())
    seen = torch.rand(2, 3, 32, 32).mul(255).requires_grad_()
    logits = GradientNetwork(classifier, "fp32").logits(seen)
    torch.testing.assert_close(logits, classifier.network(classifier.preprocessing.normalise(seen.detach())))
    (gradient,) = torch.autograd.grad(logits.sum(), seen)
    assert gradient.abs().min(dim=1).values.max() > 0


def test_a_twin_of_other_logits_is_refused() -> None:
    head = nn.Linear(4, 3)
    nn.init.constant_(head.bias[0], 5.0)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    with pytest.raises(
        ClassifierError, match=r"cannot be attacked: its copy in torch gives other confidences \(by 0\."
    ):
        GradientNetwork(_opaque(other), "fp32")
