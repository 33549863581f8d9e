"""ReLU with a soft derivative: the same logits, another gradient."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from advimg.attacks.pgd import PGD
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.gradient.soft_relu import Softness, SoftReLU, soften
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.images.decode import read_photo
from advimg.settings import Settings
from tests.conftest import run_all, sample

_SHAPES = [(3, 5, 7, 7), (3, 2, 40, 33), (3, 11)]


def _noise(*shape: int) -> Tensor:
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _soft(exact: nn.ReLU | nn.ReLU6, x: Tensor, *values: float) -> Tensor:
    """Return what a unit gives for pictures of these softnesses."""
    softness = Softness(1)
    with softness.during([(value, value) for value in values]):
        out: Tensor = SoftReLU(exact, softness)(x)
    return out


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("exact", [nn.ReLU(), nn.ReLU6()])
def test_what_it_gives_does_not_depend_on_the_softness(exact: nn.ReLU | nn.ReLU6, shape: tuple[int, ...]) -> None:
    x = _noise(*shape)
    for values in ((), (0.0, 0.0, 0.0), (0.0, 0.3, 2.0)):
        assert torch.equal(_soft(exact, x, *values), exact(x))


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize(("exact", "most"), [(nn.ReLU(), None), (nn.ReLU6(), 6.0)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_each_picture_s_derivative_has_its_own_width(
    exact: nn.ReLU | nn.ReLU6, most: float | None, shape: tuple[int, ...], precision: torch.dtype
) -> None:
    x = _noise(*shape).to(precision)
    x.view(3, -1)[:, 0] = 0  # at the kink itself the true derivative is zero
    x.requires_grad_()
    upstream = _noise(*shape).flip(0).to(precision)
    (gradient,) = torch.autograd.grad(_soft(exact, x, 0.0, 0.1, 0.5), x, upstream)
    assert gradient.dtype == precision
    fed = x.detach().double()
    slopes = [((fed[0] > 0) & (fed[0] < (most or torch.inf))).double()]
    for picture, softness in ((fed[1], 0.1), (fed[2], 0.5)):
        width = softness * _grid(picture).square().mean().sqrt()
        kinks = [0.0] if most is None else [0.0, most]
        steps = [1 / (1 + torch.exp(-(picture - kink) / width)) for kink in kinks]
        slopes.append(steps[0] - sum(steps[1:]))
    rtol, atol = (5e-2, 4e-2) if precision == torch.bfloat16 else (1e-4, 1e-5)
    torch.testing.assert_close(gradient.double(), upstream.double() * torch.stack(slopes), rtol=rtol, atol=atol)


def _grid(picture: Tensor) -> Tensor:
    """Return the places of [c, h, w] or [c] that a root mean square is taken over."""
    if picture.dim() == 1:
        return picture
    rows, columns = (max(1, side // 16) for side in picture.shape[1:])
    return picture[:, ::rows, ::columns]


def test_maps_that_are_large_for_the_picture_have_a_softness_of_their_own() -> None:
    exact = nn.ReLU()
    for crop, deepest, next_to_it in ((224, 7, 14), (260, 9, 17), (32, 8, 16)):
        softness = soften(nn.Sequential(exact), crop)
        module = SoftReLU(exact, softness)
        for side, soft in ((deepest, 0), (next_to_it, 1)):
            x = _noise(2, 5, side, side).requires_grad_()
            with softness.during([(0.3, 0.0), (0.0, 0.3)]):
                (gradient,) = torch.autograd.grad(module(x).sum(), x)
            partly = [bool(((each > 0.01) & (each < 0.99)).any()) for each in gradient]
            assert partly == [soft == 0, soft == 1]
    flat = _noise(1, 50).requires_grad_()
    with softness.during([(0.3, 0.0)]):
        (gradient,) = torch.autograd.grad(module(flat).sum(), flat)
    assert ((gradient > 0.01) & (gradient < 0.99)).any()


def test_a_layer_that_is_fed_zeros_gives_no_nan() -> None:
    x = torch.zeros(2, 4, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(_soft(nn.ReLU(), x, 0.5, 0.0).sum(), x)
    assert torch.isfinite(gradient).all()


def test_memory_keeps_its_layout() -> None:
    x = _noise(2, 8, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    out = _soft(nn.ReLU(), x, 0.5, 0.2)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    for tensor in (out, gradient):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


class _Loud(nn.ReLU):
    """A subclass of ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def test_only_relus_as_torch_has_them_are_replaced() -> None:
    shared = nn.ReLU(inplace=True)
    network = nn.Sequential(nn.Linear(2, 2), shared, nn.Sequential(nn.ReLU6(), nn.GELU()), _Loud(), shared)
    softness = soften(network, 8)
    kinds = [type(module).__name__ for module in network]
    assert kinds == ["Linear", "SoftReLU", "Sequential", "_Loud", "SoftReLU"]
    inner = network[2]
    assert isinstance(inner, nn.Sequential)
    assert [type(module).__name__ for module in inner] == ["SoftReLU", "GELU"]
    assert all(module.softness is softness for module in network.modules() if isinstance(module, SoftReLU))


def _small(change: Callable[[nn.Sequential], object] = nn.Sequential.eval) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(6 * 36, 4)
    )
    change(network)
    return Classifier.wrap(network, labels="abcd", mean=(0.5,) * 3, std=(0.5,) * 3, resize=8, crop=8, device="cpu")


def _gradient(network: GradientNetwork, softness: Sequence[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    seen = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(1)).float().requires_grad_()
    logits = network.logits(seen, softness)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), seen)
    return logits.detach(), gradient


def test_the_derivative_is_soft_and_the_logits_are_the_same() -> None:
    classifier = _small()
    network = GradientNetwork(classifier, "fp32")
    logits, true = _gradient(network, ())
    same, soft = _gradient(network, [(0.5, 0.0), (0.0, 0.5)])
    assert torch.equal(logits, same)
    assert not torch.allclose(true[0], soft[0], rtol=0.05)
    assert torch.allclose(true[1], soft[1], rtol=1e-4, atol=1e-7)
    # Nothing of a pass stays for the next.
    assert torch.equal(_gradient(network, ())[1], true)
    # And the classifier's own network is left alone.
    assert not any(isinstance(module, SoftReLU) for module in classifier.network.modules())


def test_a_copy_in_bf16_is_as_soft_and_does_not_share() -> None:
    network = GradientNetwork(_small(), "fp32")
    low = network.in_bf16()
    _, true = _gradient(low, ())
    _, soft = _gradient(low, [(0.5, 0.0)] * 2)
    assert not torch.allclose(true, soft, rtol=0.05)
    assert low._form.softness is not network._form.softness


def test_a_relu_with_a_hook_keeps_it() -> None:
    classifier = _small(lambda network: network[2].register_forward_hook(lambda _, __, output: output / 7))
    network = GradientNetwork(classifier, "fp32")
    seen = torch.randint(0, 256, (2, 3, 8, 8)).float()
    expected = classifier.network(classifier.preprocessing.normalise(seen))
    for softness in ([], [(0.5, 0.5)] * 2):
        torch.testing.assert_close(network.logits(seen, softness), expected, rtol=1e-3, atol=1e-3)


def test_soft_derivatives_save_passes(lite0: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = read_photo(sample("coffee.png"))
    jobs = [Job(photo=photo, target=target, settings=Settings(eps=2, refine=0)) for target in (144, 207, 500, 717, 933)]

    def passes() -> int:
        results = run_all(Engine(lite0, precision="fp32"), jobs)
        assert all(result.fooled for result in results)
        return sum(result.gradients for result in results)

    soft = passes()
    monkeypatch.setattr(PGD, "softness", (0.0, 0.0))
    assert soft < 0.9 * passes()
