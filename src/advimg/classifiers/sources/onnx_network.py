"""An ONNX file as a network of torch's kind: onnxruntime computes it, so torch cannot differentiate it."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advimg.errors import ClassifierError, first_line

# Below it the logarithm of a 32-bit probability is no number.
_LEAST = float(torch.finfo(torch.float32).tiny)
# How far from 1 the sum of probabilities may be; those of float16 are coarse.
_SUM = 1e-2


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Graph:
    """What an ONNX file takes and gives.

    Attributes:
        path: of the file.
        data: the files beside it that hold its weights, if it does not hold them itself.
        input: the name of its input.
        dtype: of the input.
        batch: the number of pictures that it takes at a time; None for any.
        size: width and height of its pictures; None for any.
        channels_last: whether the input is [n, height, width, 3].
        output: the name of its logits, [n, classes].
        classes: how many.
        metadata: texts that whoever made the file has put into it, by their keys.
    """

    path: Path
    data: Sequence[Path]
    input: str
    dtype: torch.dtype
    batch: int | None
    size: tuple[int, int] | None
    channels_last: bool
    output: str
    classes: int
    metadata: Mapping[str, str]


class OnnxNetwork(nn.Module):
    """Maps normalised pictures [n, 3, height, width] to logits [n, classes].

    Pictures are levels if the file takes whole numbers. Logits of a file that ends in a softmax are the logarithms of
    its probabilities.

    Args:
        graph: of the file.
        side: width and height of the pictures, if the file takes any.

    Attributes:
        probabilities: whether the file gives probabilities.

    Raises:
        ClassifierError: onnxruntime refuses the file or fails on it, or its output is not [n, classes].
    """

    def __init__(self, graph: Graph, side: int) -> None:
        super().__init__()
        self.graph = graph
        self._size = graph.size or (side, side)
        self._lock = threading.Lock()
        self._session: Any = None
        self._session_device = torch.device("meta")
        # Moves with the module, which has no weights to tell where it is.
        self._place: Tensor
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self.probabilities = False
        output = self.forward(self.pictures(2))
        if output.shape != (2, graph.classes):
            raise ClassifierError(
                f"{graph.path} gives an output {list(output.shape)} for two pictures; {[2, graph.classes]} was expected"
            )
        self.probabilities = bool((output >= 0).all() and ((output.sum(1) - 1).abs() <= _SUM).all())

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, classes], float32, without a gradient.

        One picture at a time, unless the file takes more: then the verdict on one does not depend on the others.
        """
        session = self._running()
        parts = torch.split(x.detach().float().cpu(), self.graph.batch or 1)
        outputs = [self._logits(session, part) for part in parts]
        logits = torch.cat(outputs).to(x.device)
        return logits.clamp_min(_LEAST).log() if self.probabilities else logits

    def pictures(self, count: int) -> Tensor:
        """Return pictures of noise that the file takes, [count, 3, height, width], the same each time."""
        width, height = self._size
        chance = torch.Generator().manual_seed(0)
        if self.graph.dtype == torch.uint8:
            return torch.rand(count, 3, height, width, generator=chance).mul(255).round()
        return torch.randn(count, 3, height, width, generator=chance)

    def _logits(self, session: Any, part: Tensor) -> Tensor:
        pictures = padded(part, self.graph.batch)
        if self.graph.dtype == torch.uint8:
            pictures = pictures.round().clamp(0, 255)
        if self.graph.channels_last:
            pictures = pictures.permute(0, 2, 3, 1)
        fed = pictures.to(self.graph.dtype).contiguous().numpy()
        try:
            (output,) = session.run([self.graph.output], {self.graph.input: fed})
        except Exception as error:  # onnxruntime's are of many kinds
            raise ClassifierError(f"onnxruntime fails on {self.graph.path}: {first_line(error)}") from error
        return torch.from_numpy(output).float()[: len(part)]

    def _running(self) -> Any:
        """Return the session on the device where the module is, made on first use there."""
        with self._lock:
            if self._session is None or self._session_device != self._place.device:
                self._session = _session(self.graph.path, self._place.device)
                self._session_device = self._place.device
            return self._session


def padded(pictures: Tensor, batch: int | None) -> Tensor:
    """Return pictures with as many of zeros after them as a file of a fixed batch needs."""
    missing = (batch or len(pictures)) - len(pictures)
    return torch.cat([pictures, pictures.new_zeros(missing, *pictures.shape[1:])]) if missing else pictures


def quiet_options() -> Any:
    """Return options of a session that prints nothing and leaves waiting threads asleep."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, too
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch's threads need the processors
    options.use_deterministic_compute = True
    return options


def _session(path: Path, device: torch.device) -> Any:
    import onnxruntime

    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        # TF32 keeps 10 bits, and trying algorithms out is left to chance.
        given = {"device_id": device.index or 0, "use_tf32": 0, "cudnn_conv_algo_search": "DEFAULT"}
        providers.insert(0, ("CUDAExecutionProvider", given))
    try:
        return onnxruntime.InferenceSession(str(path), quiet_options(), providers=providers)
    except Exception as error:  # onnxruntime's are of many kinds
        raise ClassifierError(f"onnxruntime refuses {path}: {first_line(error)}") from error
