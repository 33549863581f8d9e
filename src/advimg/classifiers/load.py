"""From a model's name to a classifier: which source knows it."""

from pathlib import Path

from advimg.classifiers.bundled import NAMES, load_bundled
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import find_device
from advimg.errors import UsageError
from advimg.labels import Labels, imagenet_labels
from advimg.settings import DEFAULT_MODEL


def load_classifier(
    name: str = DEFAULT_MODEL, *, weights: str | Path | None = None, device: str = "auto", progress: bool = True
) -> Classifier:
    """Load a classifier by name.

    Args:
        name: ``efficientnet_lite0`` (bundled, no download) or any torchvision classifier, with or without the name of
            its weights: ``resnet50:IMAGENET1K_V1``, ``vit_b_16``.
        weights: a state dict to load instead of the published weights (``.pth``, ``.pt`` or ``.safetensors``).
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        progress: whether a download shows a progress bar on stderr.

    Raises:
        UsageError: no such model, weights or device name.
        ClassifierError: it cannot be loaded here.
    """
    place = find_device(device)
    path = None if weights is None else Path(weights)
    base, tag = _split(name)
    if base in NAMES:
        return load_bundled(base, path, place)
    # torchvision takes as long to import as torch, and the bundled networks do not need it.
    from advimg.classifiers.torchvision_zoo import load_torchvision

    return load_torchvision(base, tag, path, place, progress=progress)


def labels_of(name: str) -> Labels:
    """Return the class names of a model without loading its weights.

    Raises:
        UsageError: no such model.
    """
    base, tag = _split(name)
    if base in NAMES:
        return imagenet_labels()
    from advimg.classifiers.torchvision_zoo import published_labels

    return published_labels(base, tag)


def _split(name: str) -> tuple[str, str | None]:
    """Split a model's name and the name of its weights, if it has one."""
    base, colon, tag = name.partition(":")
    if base in NAMES and colon:
        raise UsageError(f"{base} has one set of weights; use --model {base}")
    return base, tag if colon else None
