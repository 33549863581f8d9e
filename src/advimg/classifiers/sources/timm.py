"""timm's classifiers (the extra ``timm``), each with the preprocessing of its own data config.

Names begin with ``timm/``: ``timm/resnet18``, ``timm/resnet18.a1_in1k``. timm is imported on first use.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.base import Listed, Published, Source, cached_path, download, register
from advimg.errors import ClassifierError, UsageError
from advimg.labels import Labels, imagenet_labels

PREFIX = "timm/"
_HUB_FILE = "model.safetensors"


def names() -> Iterator[str]:
    """Yield the names of timm's architectures.

    Raises:
        ClassifierError: timm is not installed.
    """
    return (f"{PREFIX}{name}" for name in _timm().list_models())


def find(name: str) -> Published | None:
    """Return what timm publishes under a name; None for an unknown architecture.

    Raises:
        UsageError: the architecture has no such weights, or no classes.
        ClassifierError: timm is not installed, or the preprocessing is of a kind that is not supported.
    """
    timm = _timm()
    base = name.removeprefix(PREFIX)
    architecture = base.partition(".")[0]
    if not timm.is_model(base):
        return None
    try:
        config = timm.get_pretrained_cfg(base)
    except RuntimeError:  # the architecture is there, the weights are not
        known = [f"{PREFIX}{other}" for other in timm.list_pretrained(f"{architecture}.*")]
        raise UsageError(f"{name} has no such weights; use {' or '.join(known[:5])}") from None
    if not config.num_classes:
        raise _no_classes(name)
    return Published(
        name=f"{PREFIX}{architecture}" + (f".{config.tag}" if config.tag else ""),
        build=lambda classes, size: _created(base, size, pretrained=False, num_classes=classes),
        preprocessing=_preprocessing(name, config),
        labels=_labels(config.num_classes),
        fetch=partial(_fetch, base, config),
        load=partial(_load, base),
    )


def listed() -> Iterator[Listed]:
    """Yield timm's classifiers that have weights.

    Raises:
        ClassifierError: timm is not installed.
    """
    timm = _timm()
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        if config.num_classes and not _is_tower(config):
            yield Listed(
                name=f"{PREFIX}{name}",
                input_size=config.input_size[-1],
                parameters=None,
                top1=None,
                on_disk=_cached(config) is not None,
            )


register(Source(prefix=PREFIX, names=names, find=find, listed=listed))


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ClassifierError("timm's models need timm: pip install 'advimg-cli[timm]'") from None
    return timm


def _preprocessing(name: str, config: Any) -> Preprocessing:
    """Read the preprocessing off a data config, as ``timm.data.create_transform`` reads it for evaluation."""
    _, height, width = config.input_size
    share = config.crop_pct or 0.875
    if height != width or share > 1 or config.crop_mode == "border":
        kind = f"to {width}x{height} pixels" if height != width else "with borders"
        raise ClassifierError(f"{name} cannot be attacked: its preprocessing, {kind}, is not supported")
    return Preprocessing(
        resize=math.floor(height / share),
        crop=height,
        interpolation=config.interpolation,
        mean=tuple(config.mean),
        std=tuple(config.std),
        squash=config.crop_mode == "squash",
    )


def _labels(classes: int) -> Labels:
    if classes == 1000:
        return imagenet_labels()
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        return Labels(f"class {index}" for index in range(classes))
    info = ImageNetInfo(subset)
    # The first of the synonyms, as in torchvision's names of ImageNet's classes.
    return Labels(info.index_to_description(index).partition(",")[0] for index in range(classes))


def _load(name: str, path: Path, size: int) -> nn.Module:
    """Make a network with its published weights; timm converts those that are older than its layers."""
    try:
        return _created(name, size, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    except Exception as error:  # a damaged file makes timm and the readers below it raise nearly anything
        _created(name, size, pretrained=False)  # unless it cannot be built for this size at all
        raise ClassifierError(f"the weights {path} of {PREFIX}{name} are damaged; delete that file") from error


def _created(name: str, size: int, **options: Any) -> nn.Module:
    """Create a network for an input size; not on the meta device, because some buffers are not in its state dict."""
    timm = _timm()
    network: nn.Module
    if size != timm.get_pretrained_cfg(name).input_size[-1]:
        with suppress(TypeError):  # convolutional networks take any size, and no such argument
            network = timm.create_model(name, **options, img_size=size)
            return network
    network = timm.create_model(name, **options)
    return network


def _fetch(name: str, config: Any, progress: bool) -> Path:
    """Return the path of the published weights, after a download on first use."""
    if _is_tower(config):
        raise _no_classes(f"{PREFIX}{name}")
    if (path := _cached(config)) is not None:
        return path
    try:
        if config.hf_hub_id:
            from huggingface_hub import hf_hub_download

            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each of its retries
            return Path(hf_hub_download(config.hf_hub_id, config.hf_hub_filename or _HUB_FILE))
        if config.url:
            return download(config.url, cached_path(config.url), progress=progress)
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = " ".join(str(error).split())[:200]
        raise ClassifierError(
            f"cannot download the weights of {PREFIX}{name} ({reason}); --weights FILE loads a file that you have"
        ) from error
    raise ClassifierError(f"{PREFIX}{name} has no published weights; give --weights FILE")


def _is_tower(config: Any) -> bool:
    """Tell CLIP's image towers, whose "classes" are the width of an embedding, from classifiers made of them."""
    return "clip" in config.architecture and "_ft_" not in (config.tag or "") and config.num_classes < 1000


def _no_classes(name: str) -> UsageError:
    return UsageError(f"{name} has no classes: it is no classifier but a part of another network")


def _cached(config: Any) -> Path | None:
    """Return the path of weights that are on disk; None where a download is needed."""
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or _HUB_FILE)
        return Path(found) if isinstance(found, str) else None
    return path if config.url and (path := cached_path(config.url)).exists() else None
