"""A copy of a network that gives the same logits and their gradient sooner.

Batch norms are folded into the convolutions before them, depthwise convolutions pad for themselves, units rectify in
place, and memory is laid out for convolutions. What comes of it is compared with the network itself.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

from advimg.classifiers.device import repeatable


def fused_copy(network: nn.Module, crop: int, device: torch.device) -> tuple[nn.Module, torch.memory_format]:
    """Return a copy of a network in the quickest form that gives the same logits, and its memory layout.

    Where none does, for the network gives something else each time, or no logits, it is the copy as it is.

    Args:
        network: in eval mode, 32-bit.
        crop: width and height of the pictures it is fed.
        device: where it is.
    """
    picture = torch.rand(1, 3, crop, crop, generator=torch.Generator().manual_seed(0)).to(device)
    with repeatable(device, exact=True):  # TF32 would make them differ
        expected = _output(network, picture)
        for candidate in _copies(network):
            # Not all take memory that is laid out for convolutions: ``x.view(x.size(0), -1)`` does not.
            for layout in (torch.channels_last, torch.contiguous_format):
                candidate = candidate.to(memory_format=layout)
                if _agree(expected, _output(candidate, picture.clone(memory_format=layout))):
                    return candidate, layout
    return candidate, layout


def _copies(network: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy that is put together anew, if it can be traced, then one as it is.

    What the first gives has to be compared: tracing drops hooks, and takes one path of those that depend on the input.
    """
    with suppress(Exception):  # a network that cannot be traced raises nearly anything
        fused = fuse(network)
        assert isinstance(fused, fx.GraphModule)
        calls = _Calls(fused)
        _pad_in_convolutions(calls)
        _rectify_in_place(calls)
        fused.recompile()
        yield fused
    yield copy.deepcopy(network)


class _Calls:
    """Which modules of a traced network are called where."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.graph = network.graph
        self._modules = dict(network.named_modules(remove_duplicate=False))

    def of(self, *kinds: type[nn.Module]) -> Iterator[tuple[nn.Module, list[fx.Node]]]:
        """Yield each module of just these kinds, with the nodes that call it."""
        called: dict[nn.Module, list[fx.Node]] = defaultdict(list)
        for node in self.graph.nodes:
            if node.op == "call_module" and type(module := self._modules[str(node.target)]) in kinds:
                called[module].append(node)
        yield from called.items()

    def before(self, node: fx.Node) -> tuple[fx.Node, nn.Module | None]:
        """Return the node whose output another takes, and its module; none if there are others that take it."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            return node, None
        alone = source.op == "call_module" and len(source.users) == 1
        return source, self._modules[str(source.target)] if alone else None


def _pad_in_convolutions(calls: _Calls) -> None:
    """Leave out the padding before depthwise convolutions, which takes them longer than the convolution itself.

    torch pads opposite sides alike; where a network pads more on one of them, the kernel gets zeros on the other.
    """
    for conv, (node, *others) in calls.of(nn.Conv2d):
        assert isinstance(conv, nn.Conv2d)
        source, pad = calls.before(node)
        if type(pad) is not nn.ZeroPad2d or min(pad.padding) < 0:
            continue
        depthwise = 1 < conv.in_channels == conv.groups
        if others or not depthwise or conv.padding != (0, 0) or conv.dilation != (1, 1):
            continue
        left, right, top, bottom = pad.padding
        zeros = (right - left, left - right, bottom - top, top - bottom)
        conv.weight = nn.Parameter(functional.pad(conv.weight, [max(0, count) for count in zeros]))
        conv.kernel_size = (conv.weight.shape[2], conv.weight.shape[3])
        conv.padding = (max(top, bottom), max(left, right))
        node.args = source.args
        calls.graph.erase_node(source)


def _rectify_in_place(calls: _Calls) -> None:
    """Have ReLUs overwrite what convolutions give, which these do not need for their gradient."""
    for relu, nodes in calls.of(nn.ReLU, nn.ReLU6):
        assert isinstance(relu, nn.ReLU | nn.ReLU6)
        if all(type(calls.before(node)[1]) is nn.Conv2d for node in nodes):
            relu.inplace = True


def _output(network: nn.Module, picture: Tensor) -> object:
    """Return what a network makes of a picture; None if it cannot be fed that."""
    try:
        with torch.no_grad():  # and not in inference mode, whose tensors could not be differentiated later
            output: object = network(picture)
    except Exception:  # somebody else's code
        return None
    return output


def _agree(expected: object, got: object) -> bool:
    """Tell whether two outputs are the same logits but for the rounding of 32-bit arithmetic."""
    if not isinstance(expected, Tensor) or not isinstance(got, Tensor) or expected.shape != got.shape:
        return False
    return bool((expected - got).abs().max() <= 1e-3 * expected.abs().max())
