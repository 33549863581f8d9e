"""The twin of an ONNX file: a copy in torch, which can be differentiated and, mostly, fused.

onnxruntime simplifies the graph first: it folds constants and batch norms, and what an exporter writes to compute
shapes disappears. onnx2torch converts what is left. Whether the result gives the file's logits is checked on two
pictures here, and on one by :mod:`advimg.classifiers.gradient.trial`.
"""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advimg.classifiers.device import is_out_of_memory
from advimg.classifiers.sources.onnx_network import Graph, OnnxNetwork, padded, quiet_options
from advimg.errors import ClassifierError, first_line

# onnx2torch knows operators as they are up to this version. Later ones take more types, as a rule, and what else has
# changed for classifiers is undone here.
_OPSET = 17
# By how much the logits may differ, as a share of their range, and below which logarithm they do not matter.
_APART = 0.05
_LOWEST = -50.0
# It writes the number of pictures into reshapes.
_DISABLED = ["MatMulAddFusion"]
# What may follow a softmax without changing its values.
_PASSING = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze")


def twin_of(judge: OnnxNetwork) -> nn.Module:
    """Make the network, on the CPU: pictures as the judge takes them to logits [n, classes], up to a constant.

    Raises:
        ClassifierError: an operator cannot be converted, or onnx2torch is not installed.
    """
    try:
        import onnx2torch
    except ImportError:
        raise ClassifierError("gradients of ONNX files need onnx2torch: pip install 'advimg-cli[onnx]'") from None
    graph = judge.graph
    warnings.filterwarnings("ignore", category=UserWarning, module=r"onnx2torch\.")  # of torch, about its code
    _register_gelu()
    try:
        model, logarithm = _simplified(graph, softmax=judge.probabilities)
        _to_known_operators(model)
        if unknown := _unknown(model):
            raise ClassifierError(
                f"{graph.path.name} cannot be attacked: onnx2torch knows no {', '.join(unknown)}; it can stand in "
                "--check-on"
            )
        twins = []
        for each in _of_any_batch(model, graph.batch):
            converted = onnx2torch.convert(each).float()
            _pad_by_modules(converted)
            twins.append(_Twin(converted, channels_last=graph.channels_last, logarithm=logarithm).eval())
            if _agree(twins[-1], judge):
                return twins[-1]
    except ClassifierError:
        raise
    except Exception as error:  # the code of other people
        if is_out_of_memory(error):
            raise
        raise ClassifierError(
            f"{graph.path.name} cannot be attacked: onnx2torch cannot convert it ({first_line(error)}); it can stand "
            "in --check-on"
        ) from error
    return _InParts(twins[0], graph.batch or 1).eval()


class _Twin(nn.Module):
    """A converted graph, with the judge's inputs and outputs."""

    def __init__(self, converted: nn.Module, *, channels_last: bool, logarithm: bool) -> None:
        super().__init__()
        self.converted = converted
        self._channels_last, self._logarithm = channels_last, logarithm

    def forward(self, x: Tensor) -> Tensor:
        if self._channels_last:
            x = x.permute(0, 2, 3, 1)
        output: Tensor = self.converted(x)
        if self._logarithm:
            return output.clamp_min(torch.finfo(torch.float32).tiny).log()
        return output


class _InParts(nn.Module):
    """Runs a network whose graph holds the number of its pictures on so many at a time."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.network = network
        self._batch = batch

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self._batch)
        return torch.cat([self.network(padded(part, self._batch))[: len(part)] for part in parts])


def _simplified(graph: Graph, *, softmax: bool) -> tuple[Any, bool]:
    """Return the model up to its logits, as onnxruntime folds it; and whether its outputs are still probabilities."""
    import onnx.shape_inference
    import onnxruntime

    model = onnx.load(graph.path, format="protobuf")
    (output,) = (value for value in model.graph.output if value.name == graph.output)
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(output)
    del model.graph.output[:]
    model.graph.output.append(kept)
    _to_32_bits(model.graph)
    dropped = softmax and _drop_softmax(model.graph)
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # the standard's operators
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "given.onnx"), Path(folder, "made.onnx")
        onnx.save(model, given)
        options.optimized_model_filepath = str(made)
        onnxruntime.InferenceSession(
            str(given), options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED
        )
        # Shapes are added while the operators have their own version.
        return onnx.shape_inference.infer_shapes(onnx.load(made)), softmax and not dropped


def _drop_softmax(graph: Any) -> bool:
    """Let the last softmax before the output, if there is one, pass on its input; tell whether there was one."""
    made_by = {name: node for node in graph.node for name in node.output}
    node = made_by.get(graph.output[0].name)
    while node is not None and node.op_type in _PASSING:
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "Softmax":
        return False
    node.op_type = "Identity"
    del node.attribute[:]
    return True


def _to_32_bits(graph: Any) -> None:
    """Compute in 32 bits what a graph computes in other floats, which CPUs are slow in or do not know."""
    from onnx import TensorProto, numpy_helper

    others = (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    for tensor in (*graph.initializer, *(attribute.t for attribute in attributes)):
        if tensor.data_type in others:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    for attribute in attributes:
        if attribute.name == "to" and attribute.i in others:
            attribute.i = TensorProto.FLOAT
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in others:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]


def _to_known_operators(model: Any) -> None:
    """Write newer operators as they were written before."""
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) > 1:
            if node.input[1] in constants:  # else it stays, and the conversion fails
                axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
                _drop_attribute(node, "noop_with_empty_axes")
                node.attribute.append(helper.make_attribute("axes", axes))
                del node.input[1:]
        elif node.op_type == "Split":
            _drop_attribute(node, "num_outputs")
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = min(opset.version, _OPSET)


def _drop_attribute(node: Any, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _unknown(model: Any) -> list[str]:
    """Return the operators that onnx2torch does not know."""
    from onnx2torch.node_converters.registry import get_converter

    versions = {opset.domain: opset.version for opset in model.opset_import}
    unknown = set()
    for node in model.graph.node:
        try:
            get_converter(domain=node.domain, operation_type=node.op_type, version=versions.get(node.domain, 1))
        except NotImplementedError:
            unknown.add(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
    return sorted(unknown)


def _register_gelu() -> None:
    """Teach onnx2torch the one operator of many classifiers that it lacks."""
    from onnx2torch.node_converters.registry import add_converter, get_converter
    from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

    try:
        get_converter("Gelu", _OPSET)
    except NotImplementedError:

        def convert(node: Any, _: Any) -> Any:
            gelu = nn.GELU(node.attributes.get("approximate", "none"))
            return OperationConverterResult(gelu, onnx_mapping_from_node(node))

        # It is younger than the version that we claim, which is then the version asked for.
        add_converter(operation_type="Gelu", version=_OPSET)(convert)


def _of_any_batch(model: Any, batch: int | None) -> Iterator[Any]:
    """Yield the model; then, if its batch is fixed, one whose reshapes keep the first side instead of setting it."""
    from onnx import numpy_helper

    yield model
    if batch is None:
        return
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in {node.input[1] for node in model.graph.node if node.op_type == "Reshape"} & set(constants):
        shape = numpy_helper.to_array(constants[name]).copy()
        if shape.size and shape[0] == batch:
            shape[0] = 0
            constants[name].CopyFrom(numpy_helper.from_array(shape, name))
    yield model


def _pad_by_modules(network: nn.Module) -> None:
    """Replace onnx2torch's padding by torch's own module, which the gradient network folds into convolutions."""
    from onnx2torch.node_converters.pad import OnnxPadStatic

    for path, module in list(network.named_modules()):
        if isinstance(module, OnnxPadStatic) and module.mode == "constant" and module.constant_value == 0:
            if len(module.pads) < 4 or any(module.pads[4:]):
                continue
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, nn.ZeroPad2d(tuple(module.pads[:4])))


def _agree(twin: nn.Module, judge: OnnxNetwork) -> bool:
    """Tell whether a twin gives the judge's logits, up to a constant, for one picture and for several at a time."""
    return all(_agree_on(judge.pictures(count), twin, judge) for count in (1, 2))


def _agree_on(pictures: Tensor, twin: nn.Module, judge: OnnxNetwork) -> bool:
    with torch.no_grad():
        expected = judge(pictures).log_softmax(1).clamp_min(_LOWEST)
        try:
            given = twin(pictures).log_softmax(1).clamp_min(_LOWEST)
        except Exception:  # it may know only the number of pictures that it was exported with
            return False
    most = _APART * (expected.max() - expected.min())
    return given.shape == expected.shape and bool((given - expected).abs().max() <= most)
