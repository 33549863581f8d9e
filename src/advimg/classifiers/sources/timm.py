"""timm's classifiers (the extra ``timm``), each with the preprocessing of its own data config.

Names begin with ``timm/``: ``timm/resnet18``, ``timm/resnet18.a1_in1k``.
"""

import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.listing import Listed
from advimg.classifiers.sources.published import Published
from advimg.errors import ClassifierError, UsageError
from advimg.labels import Labels, imagenet_labels

PREFIX = "timm/"


def find(name: str) -> Published:
    """Return what timm publishes under a name.

    Raises:
        UsageError: timm has no such classifier.
        ClassifierError: timm is not installed, or the preprocessing is of a kind that is not supported.
    """
    timm = _timm()
    base = name.removeprefix(PREFIX)
    if not timm.is_model(base):
        raise UsageError(_unknown_model(timm, base))
    try:
        config = timm.get_pretrained_cfg(base)
    except RuntimeError:  # an architecture that exists, with weights that do not
        known = [f"{PREFIX}{other}" for other in timm.list_pretrained(f"{base.partition('.')[0]}.*")]
        raise UsageError(f"{name} has no such weights; use {' or '.join(known[:5])}") from None
    if not config.num_classes:
        raise _no_classes(name)
    tag = f".{config.tag}" if config.tag else ""
    return Published(
        name=f"{PREFIX}{base.partition('.')[0]}{tag}",
        build=partial(_empty, timm, base),
        preprocessing=_preprocessing(name, config),
        labels=_labels(config.num_classes),
        fetch=partial(_fetch, base, config),
        load=partial(_filled, timm, base),
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


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ClassifierError("timm's models need timm: pip install 'advimg-cli[timm]'") from None
    return timm


def _unknown_model(timm: Any, base: str) -> str:
    from difflib import get_close_matches

    nearest = [f"{PREFIX}{name}" for name in get_close_matches(base, timm.list_models(), n=3)]
    hint = f"did you mean {', '.join(nearest)}?" if nearest else f"`advimg models {PREFIX}` lists them"
    return f"unknown model {PREFIX + base!r}; {hint}"


def _preprocessing(name: str, config: Any) -> Preprocessing:
    """Read the view off a model's data config, as ``timm.data.create_transform`` reads it for evaluation."""
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
    # The first of the synonyms, as torchvision names ImageNet's classes.
    return Labels(info.index_to_description(index).partition(",")[0] for index in range(classes))


def _empty(timm: Any, name: str, classes: int, size: int) -> nn.Module:
    """Build the architecture; not on the meta device, for its buffers are not all in state dicts."""
    return _made(timm, name, size, pretrained=False, num_classes=classes)


def _filled(timm: Any, name: str, path: Path, size: int) -> nn.Module:
    """Build the network with its published weights; timm knows how to read those that are older than its layers."""
    try:
        return _made(timm, name, size, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    except Exception as error:  # a damaged file makes timm and the readers below it raise nearly anything
        raise ClassifierError(f"the weights {path} of {PREFIX}{name} are damaged; delete that file") from error


def _made(timm: Any, name: str, size: int, **options: Any) -> nn.Module:
    network: nn.Module
    if size != timm.get_pretrained_cfg(name).input_size[-1]:
        try:
            network = timm.create_model(name, **options, img_size=size)
        except TypeError:  # convolutional networks take any size
            pass
        else:
            return network
    network = timm.create_model(name, **options)
    return network


def _fetch(name: str, config: Any, progress: bool) -> Path:
    """Return the path of the published weights, after a download on first use."""
    if _is_tower(config):
        raise _no_classes(f"{PREFIX}{name}")
    path = _cached(config)
    if path is not None:
        return path
    try:
        if config.hf_hub_id:
            from huggingface_hub import hf_hub_download

            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each of its retries
            return Path(hf_hub_download(config.hf_hub_id, _file_name(config)))
        if config.url:
            path = _torch_path(config)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(config.url, str(path), progress=progress)
            return path
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
    """Return the path of weights that are on disk already."""
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(config.hf_hub_id, _file_name(config))
        return Path(found) if isinstance(found, str) else None
    return path if config.url and (path := _torch_path(config)).exists() else None


def _file_name(config: Any) -> str:
    name: str = config.hf_hub_filename or "model.safetensors"
    return name


def _torch_path(config: Any) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url).name
