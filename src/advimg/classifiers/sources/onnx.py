"""Classifiers in ONNX files (the extra ``onnx``): a name that ends in ``.onnx`` is a path.

Verdicts come from onnxruntime, on the file itself; gradients go through a copy in torch. The libraries are imported on
first use.
"""

import ast
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.base import Listed, Published, Source, register
from advimg.classifiers.sources.onnx_network import Graph, OnnxNetwork, quiet_options
from advimg.classifiers.sources.state_dict import weights_sha256
from advimg.errors import ClassifierError, UsageError, first_line, unreadable
from advimg.labels import Labels, imagenet_labels

SUFFIX = ".onnx"

_SIDE = 224
_SHARE = 0.875
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NAMES = ("names", "labels")
_LONGEST_NAMES = 1 << 20


def find(name: str) -> Published:
    """Return the classifier in a file.

    Raises:
        ClassifierError: the file is missing or no ONNX file, onnxruntime refuses it, it is no classifier of pictures,
            or a library is not installed.
    """
    graph = _graph_of(Path(name))
    return Published(
        name=graph.path.name,
        build=partial(_no_weights, graph),
        preprocessing=_preprocessing(graph),
        labels=_labels(graph),
        fetch=lambda _: graph.path,
        load=partial(_load, graph),
        sha256=partial(_sha256, graph),
        twin=_twin,
    )


def _none() -> Iterator[Any]:
    yield from ()


def _listed() -> Iterator[Listed]:
    yield from ()


register(Source(suffix=SUFFIX, names=_none, find=find, listed=_listed))


def _no_weights(graph: Graph, *_: int) -> nn.Module:
    raise UsageError(f"{graph.path} holds its own weights; leave out --weights")


def _load(graph: Graph, path: Path, size: int) -> nn.Module:
    if graph.size is not None and max(graph.size) != size:
        width, height = graph.size
        raise ClassifierError(f"{path} takes pictures of {width}x{height} pixels; the input size cannot be {size}")
    return OnnxNetwork(graph, size)


def _twin(network: nn.Module) -> nn.Module:
    from advimg.classifiers.sources.onnx_twin import twin_of

    assert isinstance(network, OnnxNetwork)
    return twin_of(network)


def _sha256(graph: Graph, path: Path) -> str:
    """Return the hash of the file; of one with data files that of all their bytes, in the order of their names."""
    return weights_sha256(path, *graph.data)


def _preprocessing(graph: Graph) -> Preprocessing:
    """Return ImageNet's usual preprocessing for the file's size: the file does not tell its own."""
    width, height = graph.size or (_SIDE, _SIDE)
    levels = graph.dtype == torch.uint8
    return Preprocessing(
        resize=round(max(width, height) / _SHARE),
        crop=width if width == height else (width, height),
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0) if levels else _MEAN,
        std=(1 / 255,) * 3 if levels else _STD,
    )


def _labels(graph: Graph) -> Labels:
    """Return the names in the file; without any those of ImageNet if there are as many, else numbers."""
    for key in _NAMES:
        names = _names(graph.metadata.get(key, ""))
        if names is not None and len(names) == graph.classes:
            return Labels(names)
    if graph.classes == 1000:
        return imagenet_labels()
    return Labels(f"class {index}" for index in range(graph.classes))


def _names(text: str) -> list[str] | None:
    """Read names as JSON, or as a list or dictionary in Python's notation, which is parsed and never run."""
    if len(text) > _LONGEST_NAMES:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict):
            by_index = {str(key): name for key, name in value.items()}
            value = [by_index.get(str(index)) for index in range(len(value))]
        if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
            return list(value)
    return None


def _onnx() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401 - whoever reads a file judges with it
    except ImportError:
        raise ClassifierError("ONNX files need onnx and onnxruntime: pip install 'advimg-cli[onnx]'") from None
    return onnx


def _graph_of(path: Path) -> Graph:
    onnx = _onnx()
    model = _model(path)
    data = [path.parent / name for name in sorted(set(_locations(model.graph)))]
    for each in data:
        if not each.is_file():
            raise ClassifierError(f"{path} keeps its weights in {each}, which is missing")
    own = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in own]
    if len(inputs) != 1:
        raise ClassifierError(f"{path} has {len(inputs)} inputs; one was expected, that of the pictures")
    shape = _shape(inputs[0])
    if shape is None or len(shape) != 4 or 3 not in (shape[1] or 3, shape[3] or 3):
        raise ClassifierError(
            f"{path} takes an input of shape {_shown(shape)}; pictures [n, 3, height, width] or [n, height, width, 3] "
            "were expected"
        )
    channels_last = shape[1] != 3 and (shape[1] is not None or shape[3] == 3)
    height, width = shape[1:3] if channels_last else shape[2:4]
    kinds = onnx.TensorProto
    dtypes = {
        kinds.FLOAT: torch.float32,
        kinds.FLOAT16: torch.float16,
        kinds.DOUBLE: torch.float64,
        kinds.UINT8: torch.uint8,
    }
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in dtypes:
        raise ClassifierError(
            f"{path} takes pictures of {kinds.DataType.Name(kind).lower()}; float32, float16, float64 or uint8 was "
            "expected"
        )
    size = (width, height) if width and height else None
    dtype, batch = dtypes[kind], shape[0]
    output, classes = _logits(path, model, inputs[0].name, dtype, _filled(shape, channels_last=channels_last))
    return Graph(
        path=path,
        data=data,
        input=inputs[0].name,
        dtype=dtype,
        batch=batch,
        size=size,
        channels_last=channels_last,
        output=output,
        classes=classes,
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _model(path: Path) -> Any:
    """Read a file without its data files."""
    try:
        model = _onnx().load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise ClassifierError(f"there is no file {path}; check the path") from None
    except (OSError, ValueError) as error:
        raise ClassifierError(unreadable(path, error)) from error
    except Exception as error:  # the reader of another library
        raise ClassifierError(f"{path} is not an ONNX file, or is damaged") from error
    if not model.graph.node:
        raise ClassifierError(f"{path} is not an ONNX file, or is damaged")
    return model


def _locations(graph: Any) -> Iterator[str]:
    """Yield the names of the data files that a graph refers to."""
    tensors = list(graph.initializer)
    for attribute in (each for node in graph.node for each in node.attribute):
        tensors += [attribute.t, *attribute.tensors]
        for inner in (attribute.g, *attribute.graphs):
            yield from _locations(inner)
    external = _onnx().TensorProto.EXTERNAL
    for tensor in tensors:
        if tensor.data_location == external:
            yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _shape(value: Any) -> list[int | None] | None:
    """Return the shape of an input or output; None stands for what is not fixed, also for all of it."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]


def _shown(shape: list[int | None] | None) -> str:
    return "of any rank" if shape is None else f"[{', '.join('?' if side is None else str(side) for side in shape)}]"


def _filled(shape: list[int | None], *, channels_last: bool) -> list[int]:
    """Return the shape of an input that the file takes."""
    usual = [1, _SIDE, _SIDE, 3] if channels_last else [1, 3, _SIDE, _SIDE]
    return [side or other for side, other in zip(shape, usual, strict=True)]


def _logits(path: Path, model: Any, name: str, dtype: torch.dtype, shape: list[int]) -> tuple[str, int]:
    """Return the name of the first output [n, classes], and the number of classes.

    Where the file does not say the shapes of its outputs, it is run once.
    """
    shapes = [(value.name, _shape(value)) for value in model.graph.output]
    for output, each in shapes:
        if each is not None and len(each) == 2 and each[1]:
            return output, each[1]
    if any(each is None or (len(each) == 2 and not each[1]) for _, each in shapes):
        for (output, _), value in zip(shapes, _run(path, name, torch.zeros(shape, dtype=dtype)), strict=True):
            if getattr(value, "ndim", 0) == 2 and len(value) == shape[0]:
                return output, value.shape[1]
    shown = " and ".join(_shown(each) for _, each in shapes)
    raise ClassifierError(f"{path} is no classifier: it gives {shown}; logits [n, classes] were expected")


def _run(path: Path, name: str, fed: torch.Tensor) -> list[Any]:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), quiet_options(), providers=["CPUExecutionProvider"])
        outputs: list[Any] = session.run(None, {name: fed.numpy()})
    except Exception as error:  # onnxruntime's are of many kinds
        raise ClassifierError(f"onnxruntime refuses {path}: {first_line(error)}") from error
    return outputs
