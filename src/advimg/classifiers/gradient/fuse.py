"""A copy of a network that computes the same logits and their gradient faster.

Batch norms are folded into the convolutions before them, padding into depthwise convolutions, and ReLUs work in place.
Whether it does give the same is for :mod:`advimg.classifiers.gradient.trial` to tell.
"""

import copy
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional


def copies(network: nn.Module) -> Iterator[nn.Module]:
    """Yield a fused copy of a network in eval mode, if it can be traced, then a plain one.

    The first has to be tried against the network itself: tracing drops hooks and the backward passes of
    ``autograd.Function``, and records one path where the input decides.
    """
    with suppress(Exception):  # a network that cannot be traced raises nearly anything
        fused = fuse(_traced(copy.deepcopy(network)), inplace=True, no_trace=True)
        assert isinstance(fused, fx.GraphModule)
        _fold_padding(fused)
        _rectify_in_place(fused)
        fused.recompile()
        yield fused
    yield copy.deepcopy(network)


class _OneThread(fx.Tracer):
    """Traces what its own thread calls.

    While fx traces it replaces ``nn.Module.__call__`` for all threads; what others call has to run as ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Converted ONNX files are networks of these; some decide by their inputs.
        converted = type(m).__module__.startswith("onnx2torch.")
        return converted or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


# Two traces at a time would restore each other's replacements.
_TRACING = threading.Lock()


def _traced(network: nn.Module) -> fx.GraphModule:
    with _TRACING:
        tracer = _OneThread()
        return fx.GraphModule(network, tracer.trace(network))


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
