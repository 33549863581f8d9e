"""From a model's name, or a spec, to a classifier: its source, its weights, and what the spec changes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advimg.classifiers.classifier import Classifier, Identity
from advimg.classifiers.device import differentiable, find_device
from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.base import Published, find, hash_digits, listed
from advimg.classifiers.sources.state_dict import fill, read_state_dict, weights_sha256
from advimg.classifiers.spec import ModelSpec
from advimg.errors import ClassifierError
from advimg.labels import Labels
from advimg.settings import DEFAULT_MODEL

__all__ = ["identity_of", "labels_of", "listed", "load_classifier"]

# Up to so many bytes of weights are copied for a better memory layout.
_SMALL = 1 << 25


def load_classifier(
    name: str | ModelSpec = DEFAULT_MODEL,
    *,
    weights: str | Path | None = None,
    labels: str | Path | Iterable[str] | None = None,
    input_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    mean: Iterable[float] | None = None,
    std: Iterable[float] | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Classifier:
    """Load a classifier by name.

    Args:
        name: ``efficientnet_lite0``, ``_lite1`` or ``_lite2`` (bundled, no download), any torchvision classifier, with
            or without the name of its weights (``resnet50:IMAGENET1K_V1``, ``vit_b_16``), any timm classifier
            (``timm/resnet18``), a model of an installed source, or a TOML file with the keys of a spec; or a spec.
        weights: a state dict to load instead of the published weights (``.pth``, ``.pt`` or ``.safetensors``); its head
            gives the number of classes.
        labels: the names of the classes, or a text file with one a line.
        input_size: width and height of the network's input, in pixels.
        resize: the length of the shorter side before the crop, in pixels.
        interpolation: "bilinear" or "bicubic".
        mean: of each channel, on the scale 0..1.
        std: of each channel, on the same scale.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        progress: whether a download shows a progress bar on stderr.

    Raises:
        UsageError: no such model, weights or device name.
        ClassifierError: it cannot be loaded here.
    """
    spec = (name if isinstance(name, ModelSpec) else ModelSpec.of(name)).changed(
        weights=None if weights is None else Path(weights),
        labels=Path(labels) if isinstance(labels, str | Path) else None if labels is None else tuple(labels),
        input_size=input_size,
        resize=resize,
        interpolation=interpolation,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
    )
    place = find_device(device)
    return assemble(find(spec.model), spec, place, progress=progress)


def identity_of(spec: ModelSpec, *, progress: bool = True) -> Identity:
    """Return the identity of a spec's classifier without loading its network; its weights are on disk afterwards.

    Args:
        spec: the classifier.
        progress: whether a download shows a progress bar on stderr.

    Raises:
        UsageError: no such model.
        ClassifierError: the weights cannot be fetched or are damaged, or the labels cannot be read.
    """
    published = find(spec.model)
    _, sha256 = _fetched(published, spec, progress=progress)
    return Identity(
        name=spec.title or published.name,
        preprocessing=_preprocessing(published, spec),
        labels=_labels(published, spec),
        weights=spec.weights.name if spec.weights else None,
        weights_sha256=sha256,
    )


def labels_of(spec: ModelSpec) -> Labels:
    """Return the class names of a spec's classifier without loading its network.

    Raises:
        UsageError: no such model.
        ClassifierError: the labels or the weights cannot be read.
    """
    return _labels(find(spec.model), spec)


def assemble(published: Published, spec: ModelSpec, device: torch.device, *, progress: bool) -> Classifier:
    """Make the classifier of a spec from what its source publishes.

    Raises:
        ClassifierError: the weights cannot be fetched, are damaged or do not fit, or the number of labels is wrong.
    """
    preprocessing = _preprocessing(published, spec)
    path, sha256 = _fetched(published, spec, progress=progress)
    if spec.weights is None and published.load is not None:
        network, classes = published.load(path, preprocessing.crop), len(published.labels)
    else:
        state, network, classes = _read(published, path, preprocessing.crop)
        if classes != len(published.labels):
            network = published.build(classes, preprocessing.crop)
        fill(network, state, source=path)
    return Classifier(
        name=spec.title or published.name,
        network=_placed(network, device).eval(),
        preprocessing=preprocessing,
        labels=_labels(published, spec, classes),
        device=device,
        weights=spec.weights.name if spec.weights else None,
        weights_sha256=sha256,
    )


def _fetched(published: Published, spec: ModelSpec, *, progress: bool) -> tuple[Path, str]:
    """Return the path of the weights, after a download if need be, and their hash."""
    path = spec.weights or published.fetch(progress)
    sha256 = weights_sha256(path)
    if spec.weights is None and not sha256.startswith(hash_digits(path.name)):
        raise ClassifierError(
            f"the weights {path} are damaged (their hash is not {hash_digits(path.name)}…); delete that file"
        )
    return path, sha256


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device.

    On a CPU the weights of a small network are laid out as its convolutions read them; otherwise each verdict converts
    them, which takes up to a third of its time. A large one gains less, and its weights stay mapped from their file.
    """
    with differentiable():
        network = network.to(device)
        small = sum(weights.nbytes for weights in network.parameters()) <= _SMALL
        return network.to(memory_format=torch.channels_last) if small and device.type == "cpu" else network


def _read(published: Published, path: Path, size: int) -> tuple[Mapping[str, Tensor], nn.Module, int]:
    """Read a state dict; return it, the unfilled network with the published head, and the number of its classes.

    The number is read off the heads: the parameters by which a checkpoint may differ from the published network.
    """
    state, published_classes = read_state_dict(path), len(published.labels)
    if published.rename is not None:
        state = published.rename(state)
    network = published.build(published_classes, size)
    heads: dict[str, set[int]] = {}
    for key, own in network.state_dict().items():
        if key in state and own.ndim and len(own) == published_classes and own.ndim == state[key].ndim:
            heads.setdefault(key.rpartition(".")[0], set()).add(len(state[key]))
    counts = {count for sizes in heads.values() for count in sizes if sizes != {published_classes}}
    return state, network, counts.pop() if len(counts) == 1 else published_classes


def _labels(published: Published, spec: ModelSpec, classes: int | None = None) -> Labels:
    """Return the labels for a number of classes; None reads the number off the weights where nothing else tells."""
    given = spec.given_labels()
    if given is not None:
        if classes not in (None, len(given)):
            raise ClassifierError(f"there are {len(given)} labels, but the network has {classes} outputs")
        return given
    own = published.labels
    if classes is None:
        size = _preprocessing(published, spec).crop
        classes = len(own) if spec.weights is None else _read(published, spec.weights, size)[2]
    return own if len(own) == classes else Labels(f"class {index}" for index in range(classes))


def _preprocessing(published: Published, spec: ModelSpec) -> Preprocessing:
    """Return the published preprocessing with what the spec changes; an input size alone keeps the crop's share."""
    own, crop, resize = published.preprocessing, spec.input_size, spec.resize
    if resize is None and crop is not None:
        resize = round(own.resize * crop / own.crop)
    changes: dict[str, Any] = {
        "crop": crop,
        "resize": resize,
        "interpolation": spec.interpolation,
        "mean": spec.mean,
        "std": spec.std,
    }
    return replace(own, **{name: value for name, value in changes.items() if value is not None})
