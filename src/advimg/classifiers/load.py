"""From a model's name to a classifier: which source knows it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import find_device
from advimg.classifiers.identity import Identity
from advimg.classifiers.sources import bundled
from advimg.classifiers.sources.listing import Listed
from advimg.classifiers.sources.published import Published, assemble, identify, labels_in
from advimg.classifiers.spec import ModelSpec
from advimg.labels import Labels
from advimg.settings import DEFAULT_MODEL

_TIMM = "timm/"


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
            (``timm/resnet18``), or a TOML file that says all of this; or a spec of all of this.
        weights: a state dict to load instead of the published weights (``.pth``, ``.pt`` or ``.safetensors``); the
            number of classes is read off its head.
        labels: the names of the classes, or a text file with one a line.
        input_size: width and height of what the network is fed.
        resize: the length of the shorter side before the crop.
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
    return assemble(_find(spec.model), spec, place, progress=progress)


def identity_of(spec: ModelSpec, *, progress: bool = True) -> Identity:
    """Return what the classifier that a spec means is known by, without loading it; its weights are there afterwards.

    Args:
        spec: what is meant.
        progress: whether a download shows a progress bar on stderr.

    Raises:
        UsageError: no such model.
        ClassifierError: the weights cannot be had or are damaged, or the labels cannot be read.
    """
    return identify(_find(spec.model), spec, progress=progress)


def labels_of(spec: ModelSpec) -> Labels:
    """Return the class names of the classifier that a spec means, without loading it.

    Raises:
        UsageError: no such model.
        ClassifierError: the labels or the weights cannot be read.
    """
    return labels_in(_find(spec.model), spec)


def listed(query: str = "") -> Iterator[Listed]:
    """Yield the classifiers whose name contains every word of a query; those of timm if it begins with ``timm/``.

    Raises:
        ClassifierError: timm is not installed.
    """
    if query.startswith(_TIMM):
        from advimg.classifiers.sources import timm as timm_source

        known = timm_source.listed()
    else:
        known = _listed_without_timm()
    words = query.lower().split()
    return (each for each in known if all(word in each.name.lower() for word in words))


def _listed_without_timm() -> Iterator[Listed]:
    yield from bundled.listed()
    from advimg.classifiers.sources import torchvision as torchvision_source

    yield from torchvision_source.listed()


def _find(name: str) -> Published:
    if name.partition(":")[0] in bundled.NAMES:
        return bundled.find(name)
    # torchvision and timm take as long to import as torch, and the bundled networks do not need them.
    if name.startswith(_TIMM):
        from advimg.classifiers.sources import timm as timm_source

        return timm_source.find(name)
    from advimg.classifiers.sources import torchvision as torchvision_source

    return torchvision_source.find(name)
