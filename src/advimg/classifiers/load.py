"""From a model's name, or a spec, to a classifier: its source, its weights, and what the spec changes."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advimg.classifiers.classifier import Classifier, Identity
from advimg.classifiers.device import differentiable, failing_as, find_device, repeatable, takes_channels_last
from advimg.classifiers.own_preprocessing import name_of
from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.base import OpenVocabulary, Published, find_any, hash_digits, listed, prefixes
from advimg.classifiers.sources.state_dict import (
    StateDict,
    check_hash,
    fill,
    most_bytes,
    read_state_dict,
    weights_sha256,
)
from advimg.classifiers.spec import ModelSpec
from advimg.errors import ClassifierError, UsageError, unreadable
from advimg.labels import Labels
from advimg.settings import DEFAULT_MODEL, MAX_PIXELS
from advimg.storage.copies import on_disk
from advimg.storage.url import Place, path_or_url

__all__ = ["identity_of", "labels_of", "listed", "load_classifier", "prefixes", "recorded_name"]

# Up to so many bytes of weights are copied for a better memory layout.
_SMALL = 1 << 25


def load_classifier(
    name: str | ModelSpec = DEFAULT_MODEL,
    *,
    weights: str | Place | None = None,
    labels: str | Path | Iterable[str] | None = None,
    prompt: str | None = None,
    input_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    mean: Iterable[float] | None = None,
    std: Iterable[float] | None = None,
    squash: bool | None = None,
    channels: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Classifier:
    """Load a classifier by name.

    Args:
        name: ``efficientnet_lite0``, ``_lite1`` or ``_lite2`` (bundled, no download), any torchvision classifier, with
            or without the name of its weights (``resnet50:IMAGENET1K_V1``, ``vit_b_16``), any timm classifier
            (``timm/resnet18``), a model of Hugging Face (``hf:google/vit-base-patch16-224``), one that sees words typed
            by hand (``clip:openai/clip-vit-base-patch32``, ``open_clip/ViT-B-32:openai``), a model of an installed
            source, an ONNX file (``net.onnx``), or a TOML file with the keys of a spec; or a spec.
        weights: a state dict to load instead of the published weights (``.pth``, ``.pt`` or ``.safetensors``); its head
            gives the number of classes.
        labels: the names of the classes, or a text file with one a line; the words that a model such as
            ``clip:openai/clip-vit-base-patch32`` is to see.
        prompt: the sentence that such a model takes each word in, with ``{}`` for the word.
        input_size: width and height of the network's input, in pixels.
        resize: the length of the shorter side before the crop, in pixels.
        interpolation: "bilinear", "bicubic", "lanczos", "box", "hamming" or "nearest".
        mean: of each channel, on the scale 0..1.
        std: of each channel, on the same scale.
        squash: whether both sides are resized, whatever the picture's shape.
        channels: the order in which the network takes them, "rgb" or "bgr".
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        progress: whether a download shows a progress bar on stderr.

    Raises:
        UsageError: no such model, weights or device name.
        ClassifierError: it cannot be loaded here.
    """
    spec = (name if isinstance(name, ModelSpec) else ModelSpec.of(name)).changed(
        weights=None if weights is None else path_or_url(weights),
        labels=Path(labels) if isinstance(labels, str | Path) else None if labels is None else tuple(labels),
        prompt=prompt,
        input_size=input_size,
        resize=resize,
        interpolation=interpolation,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        squash=squash,
        channels=channels,
    )
    place = find_device(device)
    return assemble(_published(spec), spec, place, progress=progress)


def identity_of(spec: ModelSpec, *, progress: bool = True) -> Identity:
    """Return the identity of a spec's classifier without loading its network; its weights are on disk afterwards.

    Args:
        spec: the classifier.
        progress: whether a download shows a progress bar on stderr.

    Raises:
        UsageError: no such model.
        ClassifierError: the weights cannot be fetched or are damaged, or the labels cannot be read.
    """
    published = _published(spec)
    path = _on_disk(spec.weights) if spec.weights else published.fetch(progress)
    sha256 = weights_sha256(path) if spec.weights else _checked_sha256(published, path)
    return Identity(
        name=spec.title or published.name,
        preprocessing=_preprocessing(published, spec),
        labels=_labels(published, spec),
        weights=spec.weights.name if spec.weights else None,
        weights_sha256=sha256,
        prompt=published.prompt,
    )


def recorded_name(spec: ModelSpec) -> str:
    """Return the name that records have for a spec's classifier, without its weights.

    Raises:
        UsageError: no such model, or there are no words that it could take.
        ClassifierError: its source cannot be used here.
    """
    return spec.title or _published(spec).name


def labels_of(spec: ModelSpec) -> Labels:
    """Return the class names of a spec's classifier without loading its network.

    Raises:
        UsageError: no such model, or there are no words that it could take.
        ClassifierError: the labels or the weights cannot be read.
    """
    found = find_any(spec.model)
    return spec.words() if isinstance(found, OpenVocabulary) else _labels(found, spec)


def assemble(published: Published, spec: ModelSpec, device: torch.device, *, progress: bool) -> Classifier:
    """Make the classifier of a spec from what its source publishes.

    Raises:
        ClassifierError: the weights cannot be fetched, are damaged or do not fit, the network cannot be built for the
            input size, or the number of labels is wrong.
    """
    preprocessing = _preprocessing(published, spec)
    path = _on_disk(spec.weights) if spec.weights else published.fetch(progress)
    with differentiable(), repeatable(device, exact=True):
        if spec.weights is None and published.load is not None:
            network, sha256 = _loaded(published, published.load, path, max(preprocessing.size))
            classes = len(published.labels)
        else:
            state, network, classes = _read(published, spec, path, max(preprocessing.size))
            if classes != len(published.labels):
                network = _built(published, classes, max(preprocessing.size))
            fill(network, state.tensors, source=path)
            sha256 = state.sha256
        network = _placed(network, device).eval()
    return Classifier(
        name=spec.title or published.name,
        network=network,
        preprocessing=preprocessing,
        labels=_labels(published, spec, classes),
        device=device,
        twin=None if published.twin is None else partial(_twin, published.twin, network, device),
        weights=spec.weights.name if spec.weights else None,
        weights_sha256=sha256,
        prompt=published.prompt,
    )


def _published(spec: ModelSpec) -> Published:
    """Return what is published under a spec's name; where that takes words, with the spec's.

    Raises:
        UsageError: no such model; or words, or a prompt, that it does not take.
        ClassifierError: its source cannot be used here.
    """
    found = find_any(spec.model)
    if isinstance(found, OpenVocabulary):
        words = spec.words()
        if len(words) == 1:
            raise UsageError(f"{spec.model} has one word to see, {words[0]!r}; give at least two")
        return found.publish(words, spec.checked_prompt(found.prompt))
    if spec.prompt is not None:
        raise UsageError(f"{spec.model} has classes of its own; a prompt is for models that see words typed by hand")
    return found


def _on_disk(weights: Place) -> Path:
    """Return the path of weights that a person named, which may lie in a store."""
    try:
        return on_disk(weights)
    except OSError as error:
        raise ClassifierError(unreadable(f"the weights {weights}", error)) from error


def _digits(spec: ModelSpec, path: Path) -> str:
    """Return the first digits that the hash of a file of weights must have: of published weights, those in its name."""
    return "" if spec.weights else hash_digits(path.name)


def _built(published: Published, classes: int, size: int) -> nn.Module:
    with _building(published, size):
        return published.build(classes, size)


def _loaded(
    published: Published, load: Callable[[Path, int], nn.Module], path: Path, size: int
) -> tuple[nn.Module, str]:
    """Have a source load its own weights, and return their hash with the network.

    The source opens the file itself, so that the hash is taken before and after.
    """
    sha256 = _checked_sha256(published, path)
    with _building(published, size):
        network = load(path, size).float()
    if _checked_sha256(published, path) != sha256:
        raise ClassifierError(f"the weights {path} were changed while they were read; run the command again")
    return network, sha256


def _checked_sha256(published: Published, path: Path) -> str:
    """Return the hash of published weights, which must be that in the file's name, if it has one there."""
    if published.sha256 is not None:
        return published.sha256(path)
    sha256 = weights_sha256(path)
    check_hash(path, sha256, hash_digits(path.name))
    return sha256


def _twin(made: Callable[[nn.Module], nn.Module], network: nn.Module, device: torch.device) -> nn.Module:
    return made(network).to(device).eval()


def _building(published: Published, size: int) -> AbstractContextManager[None]:
    """Turn an error of the code that builds a network into one line that names the model and the input size."""
    return failing_as(f"{published.name} cannot be built for an input of {size}x{size} pixels")


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device.

    On a CPU the weights of a small network are laid out as its convolutions read them; otherwise each verdict converts
    them, which takes up to a third of its time. A large one gains less.
    """
    network = network.to(device)
    small = sum(weights.nbytes for weights in network.parameters()) <= _SMALL
    if small and device.type == "cpu" and takes_channels_last(network):
        return network.to(memory_format=torch.channels_last)
    return network


def _read(published: Published, spec: ModelSpec, path: Path, size: int) -> tuple[StateDict, nn.Module, int]:
    """Read a state dict; return it, the unfilled network with the published head, and the number of its classes.

    The number is read off the heads: the layers by which a checkpoint may differ from the published network.
    """
    published_classes = len(published.labels)
    network = _built(published, published_classes, size)
    state = read_state_dict(path, most=most_bytes(network), digits=_digits(spec, path))
    if published.rename is not None:
        state = replace(state, tensors=published.rename(state.tensors))
    heads: dict[str, set[int | None]] = {}
    for key, own in network.state_dict().items():
        if own.ndim and len(own) == published_classes:
            value = state.tensors.get(key)
            # All that a layer has, or a few bytes could ask for a network of any size.
            fits = value is not None and value.ndim == own.ndim and value.shape[1:] == own.shape[1:]
            heads.setdefault(key.rpartition(".")[0], set()).add(len(value) if value is not None and fits else None)
    counts = {next(iter(sizes)) for sizes in heads.values() if len(sizes) == 1} - {None, published_classes}
    return state, network, counts.pop() or published_classes if len(counts) == 1 else published_classes


def _labels(published: Published, spec: ModelSpec, classes: int | None = None) -> Labels:
    """Return the labels for a number of classes; None reads the number off the weights where nothing else tells."""
    given = spec.given_labels() if published.prompt is None else published.labels
    if given is not None:
        if classes not in (None, len(given)):
            raise ClassifierError(f"there are {len(given)} labels, but the network has {classes} outputs")
        return given
    own = published.labels
    if classes is None:
        size = max(_preprocessing(published, spec).size)
        classes = len(own) if spec.weights is None else _read(published, spec, _on_disk(spec.weights), size)[2]
    return own if len(own) == classes else Labels(f"class {index}" for index in range(classes))


def _preprocessing(published: Published, spec: ModelSpec) -> Preprocessing:
    """Return the published preprocessing with what the spec changes; an input size alone keeps the crop's share."""
    own, crop, resize = published.preprocessing, spec.input_size, spec.resize
    if resize is None and type(crop) is int and abs(crop) <= MAX_PIXELS:  # else the crop is refused anyway
        resize = round(_side(own.resize) * crop / _side(own.crop))
    changes: dict[str, Any] = {
        "crop": crop,
        "resize": resize,
        "interpolation": spec.interpolation,
        "mean": spec.mean,
        "std": spec.std,
        "squash": spec.squash,
        "channels": spec.channels,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    if given and own.preprocess is not None:
        raise ClassifierError(
            f"{published.name} comes with a preprocessing of its own ({name_of(own.preprocess)}), which settles "
            f"{', '.join(sorted(given))}"
        )
    return replace(own, **given)


def _side(side: int | tuple[int, int]) -> int:
    return side if isinstance(side, int) else side[0]
