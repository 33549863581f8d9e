"""A copy of a network that computes the same logits and their gradient faster.

Batch norms are folded into the convolutions before them, padding into depthwise convolutions, ReLUs work in place, and
memory is laid out for convolutions. The output is compared with that of the network itself.
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
    """Return a copy of a network in the fastest form that gives the same logits, and its memory layout.

    It is a plain copy where no form agrees: the network is random, or does not return logits.

    Args:
        network: in eval mode, 32-bit.
        crop: width and height of its input.
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
    """Yield a fused copy, if the network can be traced, then a plain one.

    The output of the first has to be compared: tracing drops hooks, and records one path where the input decides.
    """
    with suppress(Exception):  # a network that cannot be traced raises nearly anything
        fused = fuse(network)
        assert isinstance(fused, fx.GraphModule)
        _fold_padding(fused)
        _rectify_in_place(fused)
        fused.recompile()
        yield fused
    yield copy.deepcopy(network)


def _calls(network: fx.GraphModule, *kinds: type[nn.Module]) -> dict[nn.Module, list[fx.Node]]:
    """Return the modules of exactly these kinds, each with the nodes that call it."""
    called: dict[nn.Module, list[fx.Node]] = defaultdict(list)
    for node in network.graph.nodes:
        if node.op == "call_module" and type(module := network.get_submodule(str(node.target))) in kinds:
            called[module].append(node)
    return called


def _before(network: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, nn.Module | None]:
    """Return the node whose output a node takes, and its module; None as the module if others take it as well."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return node, None
    alone = source.op == "call_module" and len(source.users) == 1
    return source, network.get_submodule(str(source.target)) if alone else None


def _fold_padding(network: fx.GraphModule) -> None:
    """Replace the padding before depthwise convolutions, which is slower than they are, by their own padding.

    torch's own pads opposite sides alike; where a network pads one of them more, the kernel gets zeros on the other.
    """
    for conv, (node, *others) in _calls(network, nn.Conv2d).items():
        assert isinstance(conv, nn.Conv2d)
        source, pad = _before(network, node)
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
        network.graph.erase_node(source)


def _rectify_in_place(network: fx.GraphModule) -> None:
    """Let ReLUs overwrite the outputs of convolutions, whose gradient does not need them."""
    for relu, nodes in _calls(network, nn.ReLU, nn.ReLU6).items():
        assert isinstance(relu, nn.ReLU | nn.ReLU6)
        if all(type(_before(network, node)[1]) is nn.Conv2d for node in nodes):
            relu.inplace = True


def _output(network: nn.Module, picture: Tensor) -> object:
    """Return a network's output for a picture; None if it raises an error."""
    try:
        with torch.no_grad():  # and not in inference mode, whose tensors could not be differentiated later
            output: object = network(picture)
    except Exception:  # the code of other people
        return None
    return output


def _agree(expected: object, got: object) -> bool:
    """Tell whether two outputs are the same logits, up to the rounding of 32-bit arithmetic."""
    if not isinstance(expected, Tensor) or not isinstance(got, Tensor) or expected.shape != got.shape:
        return False
    return bool((expected - got).abs().max() <= 1e-3 * expected.abs().max())
