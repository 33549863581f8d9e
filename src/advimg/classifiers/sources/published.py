"""What a source publishes under a name, and how that, or a checkpoint of its architecture, becomes a classifier.

A source is a file with ``find(name) -> Published`` and ``listed()``; to add one, write it and enter it in ``load``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import differentiable
from advimg.classifiers.identity import Identity
from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.state_dict import file_sha256, fill, read_state_dict
from advimg.classifiers.spec import ModelSpec
from advimg.errors import ClassifierError
from advimg.labels import Labels

# Bytes of weights of which a copy does not matter.
_SMALL = 1 << 25


def as_it_is(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict as it is."""
    return state


@dataclass(frozen=True, eq=False, kw_only=True)
class Published:
    """A classifier as its source publishes it.

    Attributes:
        name: in full, such as ``resnet50:IMAGENET1K_V1``.
        build: makes the network, to be filled, for a number of classes and an input size.
        preprocessing: the preprocessing.
        labels: the classes' names.
        fetch: returns the path of the weights, after a download if need be; is told whether to show its progress.
        modern: renames the parameters of weights that are older than the present architecture.
        load: makes the network with its published weights for an input size, where they are no plain state dict of it.
    """

    name: str
    build: Callable[[int, int], nn.Module]
    preprocessing: Preprocessing
    labels: Labels
    fetch: Callable[[bool], Path]
    modern: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = as_it_is
    load: Callable[[Path, int], nn.Module] | None = None


def assemble(published: Published, spec: ModelSpec, device: torch.device, *, progress: bool) -> Classifier:
    """Make the classifier that a spec means.

    Raises:
        ClassifierError: the weights cannot be had, are damaged or do not fit, or the labels are of another number.
    """
    preprocessing = _preprocessing(published.preprocessing, spec)
    path, sha256 = _fetched(published, spec, progress=progress)
    if spec.weights is None and published.load is not None:
        network, classes = published.load(path, preprocessing.crop), len(published.labels)
    else:
        network, classes = _filled(published, path, preprocessing.crop)
    return Classifier(
        name=spec.title or published.name,
        network=_placed(network, device).eval(),
        preprocessing=preprocessing,
        labels=_labels(spec, published.labels, classes),
        device=device,
        weights=spec.weights.name if spec.weights else None,
        weights_sha256=sha256,
    )


def identify(published: Published, spec: ModelSpec, *, progress: bool) -> Identity:
    """Return what the classifier that a spec means is known by, without making it; its weights are there afterwards.

    Raises:
        ClassifierError: the weights cannot be had or are damaged, or the labels cannot be read.
    """
    _, sha256 = _fetched(published, spec, progress=progress)
    return Identity(
        name=spec.title or published.name,
        preprocessing=_preprocessing(published.preprocessing, spec),
        labels=labels_in(published, spec),
        weights=spec.weights.name if spec.weights else None,
        weights_sha256=sha256,
    )


def labels_in(published: Published, spec: ModelSpec) -> Labels:
    """Return the class names of the classifier that a spec means, without making it.

    Raises:
        ClassifierError: the labels or the weights cannot be read.
    """
    given = spec.given_labels()
    if given is not None:
        return given
    if spec.weights is None:
        return published.labels
    _, _, classes = _read(published, spec.weights, _preprocessing(published.preprocessing, spec).crop)
    return _labels(spec, published.labels, classes)


def hash_digits(file_name: str) -> str:
    """Return the first digits of the SHA-256 that the names of weights may end in (``resnet50-0676ba61.pth``)."""
    match = re.search(r"-([0-9a-f]{8,})\.", file_name)
    return match.group(1) if match else ""


def _fetched(published: Published, spec: ModelSpec, *, progress: bool) -> tuple[Path, str]:
    """Return the path of the weights, after a download if need be, and their hash."""
    path = spec.weights or published.fetch(progress)
    sha256 = file_sha256(path)
    if spec.weights is None and not sha256.startswith(hash_digits(path.name)):
        raise ClassifierError(
            f"the weights {path} are damaged (their hash is not {hash_digits(path.name)}…); delete that file"
        )
    return path, sha256


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device.

    On a CPU the memory of a small one is laid out as its convolutions read it: else each verdict would do so anew,
    which takes up to a third of its time. A large one gains less, and its weights stay in the file that is mapped.
    """
    with differentiable():
        network = network.to(device)
        small = sum(weights.nbytes for weights in network.parameters()) <= _SMALL
        return network.to(memory_format=torch.channels_last) if small and device.type == "cpu" else network


def _filled(published: Published, path: Path, size: int) -> tuple[nn.Module, int]:
    """Build a network with as many classes as the head of a state dict has, and fill it; return both."""
    state, network, classes = _read(published, path, size)
    if classes != len(published.labels):
        network = published.build(classes, size)
    fill(network, state, source=path)
    return network, classes


def _read(published: Published, path: Path, size: int) -> tuple[Mapping[str, Tensor], nn.Module, int]:
    """Read a state dict; return it, the empty network with the published head, and its own number of classes."""
    state = published.modern(read_state_dict(path))
    network = published.build(len(published.labels), size)
    return state, network, _classes(state, network, len(published.labels))


def _classes(state: Mapping[str, Tensor], network: nn.Module, published: int) -> int:
    """Read the number of classes off the heads, where a checkpoint differs from the published network in that alone."""
    heads: dict[str, set[int]] = {}
    for key, own in network.state_dict().items():
        if key in state and own.ndim and len(own) == published and own.ndim == state[key].ndim:
            heads.setdefault(key.rpartition(".")[0], set()).add(len(state[key]))
    counts = {count for sizes in heads.values() for count in sizes if sizes != {published}}
    return counts.pop() if len(counts) == 1 else published


def _labels(spec: ModelSpec, published: Labels, classes: int) -> Labels:
    given = spec.given_labels()
    if given is not None and len(given) != classes:
        raise ClassifierError(f"there are {len(given)} labels, but the network has {classes} outputs")
    if given is not None:
        return given
    return published if len(published) == classes else Labels(f"class {index}" for index in range(classes))


def _preprocessing(preprocessing: Preprocessing, spec: ModelSpec) -> Preprocessing:
    changes: dict[str, Any] = {
        name: value for name in ("interpolation", "mean", "std") if (value := getattr(spec, name)) is not None
    }
    if spec.input_size is not None:
        # Unless told otherwise, the crop stays the same share of what is resized.
        changes |= {
            "crop": spec.input_size,
            "resize": round(preprocessing.resize * spec.input_size / preprocessing.crop),
        }
    if spec.resize is not None:
        changes["resize"] = spec.resize
    return replace(preprocessing, **changes)
