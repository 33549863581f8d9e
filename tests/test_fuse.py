"""A fused network: fewer operations, the same logits and the same gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient.fuse import copies


def _fused(network: nn.Module) -> nn.Module:
    """Return the fused copy of a network that can be traced."""
    return next(copies(network))


def _modules(network: nn.Module) -> list[str]:
    """Return the kinds of the modules that a traced network calls, in their order."""
    assert isinstance(network, fx.GraphModule)
    called = (node.target for node in network.graph.nodes if node.op == "call_module")
    return [type(network.get_submodule(str(target))).__name__ for target in called]


def _kernels(network: nn.Module) -> set[tuple[int, ...]]:
    return {module.kernel_size for module in network.modules() if isinstance(module, nn.Conv2d)}


def _logits_and_gradient(network: nn.Module, size: int) -> tuple[Tensor, Tensor]:
    """Return the logits of some noise, and their gradient."""
    pictures = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    logits = network(pictures)
    (gradient,) = torch.autograd.grad(logits.square().sum(), pictures)
    return logits.detach(), gradient


def _assert_same(network: nn.Module, other: nn.Module) -> None:
    for one, same in zip(_logits_and_gradient(network, 16), _logits_and_gradient(other, 16), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-4)


def _network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(5)).eval()
    network(torch.randn(2, 3, 16, 16))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            nn.init.uniform_(module.running_var, 0.1, 3)
    return network


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [(0, 1, 0, 1), (1, 2, 1, 2), (2, 0, 1, 1), (1, 1, 1, 1), (0, 3, 2, 0)])
def test_depthwise_convolutions_pad_for_themselves(padding: tuple[int, int, int, int], stride: int) -> None:
    network = _network(nn.ZeroPad2d(padding), nn.Conv2d(3, 6, 3, stride, groups=3), nn.BatchNorm2d(6), nn.ReLU6())
    quick = _fused(network)
    assert _modules(quick) == ["Conv2d", "ReLU6", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    _assert_same(network, quick)
    assert _kernels(network) == {(3, 3)}


class _Twice(nn.Module):
    """Uses what is padded, or convolved, for something else, too."""

    def __init__(self, *, padded: bool) -> None:
        super().__init__()
        self.padded = padded
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.conv = nn.Conv2d(3, 3, 2, groups=3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        padded = self.pad(x)
        convolved = self.conv(padded)
        rectified: Tensor = self.relu(convolved)
        beside: Tensor = padded[..., 1:, 1:] if self.padded else convolved
        return rectified + beside


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 6, 3)),  # dearer with a larger kernel
        lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 3, 3, padding=1, groups=3)),
        lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 3, 3, dilation=2, groups=3)),
        lambda: nn.Sequential(nn.ZeroPad2d((-1, 1, 0, 1)), nn.Conv2d(3, 3, 3, groups=3)),
        lambda: _Twice(padded=True),
    ],
    ids=["dense", "padded", "dilated", "cropped", "used twice"],
)
def test_other_padding_stays(make: Callable[[], nn.Module]) -> None:
    network = _network(make(), nn.ReLU())
    quick = _fused(network)
    assert _modules(quick)[0] == "ZeroPad2d"
    _assert_same(network, quick)


def test_a_convolution_that_is_used_twice_keeps_its_padding() -> None:
    pad, conv = nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 3, 2, groups=3)
    network = _network(pad, conv, nn.ReLU(), pad, conv)
    quick = _fused(network)
    assert _modules(quick)[:5] == ["ZeroPad2d", "Conv2d", "ReLU", "ZeroPad2d", "Conv2d"]
    _assert_same(network, quick)


def test_units_rectify_in_place_what_nobody_else_takes() -> None:
    for make, in_place in (
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), True),
        (lambda: _Twice(padded=False), False),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.ReLU6()), False),
    ):
        network = _network(make())
        quick = _fused(network)
        places = [module.inplace for module in quick.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
        assert places == [in_place]
        _assert_same(network, quick)
        assert not any(module.inplace for module in network.modules() if isinstance(module, nn.ReLU | nn.ReLU6))


def test_the_bundled_network_pads_only_its_first_convolution(lite0: Classifier) -> None:
    quick = _fused(lite0.network)
    assert _modules(quick).count("ZeroPad2d") == 1
    assert "BatchNorm2d" not in _modules(quick)
    # Not element by element: a unit that is next to its kink falls on the one side or on the other.
    for one, same in zip(_logits_and_gradient(lite0.network, 224), _logits_and_gradient(quick, 224), strict=True):
        assert torch.cosine_similarity(one.flatten(), same.flatten(), dim=0) > 0.9999
