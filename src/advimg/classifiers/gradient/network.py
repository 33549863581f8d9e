"""The gradient network: a private copy of a classifier's network that the attack differentiates.

It never gives a verdict. It is frozen, fused where that is possible (:mod:`advimg.classifiers.gradient.fuse`), and
computes in bfloat16 where that is faster. Its logits are those of the classifier; the derivatives of its ReLUs can be
softened (:mod:`advimg.classifiers.gradient.soft_relu`).
"""

import copy
from collections.abc import Sequence
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient.fuse import fused_copy
from advimg.classifiers.gradient.soft_relu import soften
from advimg.errors import UsageError
from advimg.settings import Precision


class GradientNetwork:
    """Maps float levels, resized and cropped, to logits that can be differentiated.

    Attributes:
        precision: "fp32" or "bf16"; "auto" is bf16 on GPUs with tensor cores, else fp32.

    Raises:
        UsageError: an unknown precision.
    """

    def __init__(self, classifier: Classifier, precision: Precision = "auto") -> None:
        self._classifier = classifier
        self.precision = _resolve(precision, classifier.device)
        network, self._layout = fused_copy(classifier.network, classifier.preprocessing.crop, classifier.device)
        self._softness = soften(network, classifier.preprocessing.crop)
        self._network = network.to(_DTYPES[self.precision]).requires_grad_(False).eval()

    def in_bf16(self) -> Self:
        """Return a copy that computes in bfloat16."""
        other = copy.copy(self)
        other.precision = "bf16"
        network, other._softness = copy.deepcopy((self._network, self._softness))
        other._network = network.to(torch.bfloat16)
        return other

    def logits(self, seen: Tensor, softness: Sequence[tuple[float, float]] = ()) -> Tensor:
        """Return logits [n, classes], float32.

        Args:
            seen: float levels 0..255, [n, 3, crop, crop].
            softness: of the derivative of ReLU for each picture, deep in the network and before; the derivative is the
                true one where it is 0 or left out. Logits do not depend on it.

        Raises:
            ClassifierError: the output is not logits.
        """
        pictures = self._classifier.preprocessing.normalise(seen)
        self._softness.values = softness
        output = self._network(pictures.to(dtype=_DTYPES[self.precision], memory_format=self._layout))
        return self._classifier.checked_logits(output, count=len(seen)).to(torch.float32)


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _resolve(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    if precision not in get_args(Precision):
        raise UsageError(f"unknown precision {precision!r}; use {', '.join(get_args(Precision))}")
    if precision != "auto":
        return precision
    # On CPUs the gain depends on the network as much as on the processor: it is measured on the first pictures.
    has_tensor_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if has_tensor_cores else "fp32"
