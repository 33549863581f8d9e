"""torchvision's classifiers, with the weights, preprocessing and class names that torchvision publishes.

Names are those of torchvision, with or without the name of the weights: ``resnet50``, ``resnet50:IMAGENET1K_V1``.
torchvision takes as long to import as torch, and the bundled networks do not need it: it is imported on first use.
"""

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.base import Listed, Published, Source, cached_path, download, register
from advimg.errors import ClassifierError, UsageError
from advimg.labels import Labels


def names() -> list[str]:
    """Return the names of torchvision's classifiers, without those of detectors and the like."""
    from torchvision import models

    known: list[str] = models.list_models(module=models)
    return known


def find(name: str) -> Published | None:
    """Return what torchvision publishes under a name, by default its default weights; None for an unknown name.

    Raises:
        UsageError: the network is not a classifier, is quantised, or has no such weights.
    """
    from torchvision import models

    base, colon, tag = name.partition(":")
    if base not in names():
        if base not in models.list_models():
            return None
        kind = "quantised" if base.startswith("quantized_") else "not an image classifier"
        raise UsageError(f"{base} cannot be attacked: it is {kind}")
    choices = models.get_model_weights(base)
    if colon and tag not in choices.__members__:
        known = " or ".join(f"{base}:{member.name}" for member in choices)
        raise UsageError(f"{base} has no weights {tag!r}; use {known}")
    weights = choices[tag] if colon else choices.DEFAULT
    return Published(
        name=f"{base}:{weights.name}",
        build=partial(_build, base),
        preprocessing=Preprocessing.from_preset(weights.transforms()),
        labels=Labels(weights.meta["categories"]),
        fetch=partial(_fetch, weights.url),
        rename=_renamed_densenet if base.startswith("densenet") else None,
    )


def listed() -> Iterator[Listed]:
    """Yield each of torchvision's classifiers with each of its weights."""
    from torchvision import models

    for name in names():
        for weights in models.get_model_weights(name):
            yield Listed(
                name=f"{name}:{weights.name}",
                input_size=Preprocessing.from_preset(weights.transforms()).size[0],
                parameters=weights.meta["num_params"],
                top1=weights.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1"),
                on_disk=cached_path(weights.url).exists(),
            )


register(Source(names=names, find=find, listed=listed))


def _build(name: str, classes: int, size: int) -> nn.Module:
    """Build the architecture with the options that torchvision's builders set for published weights."""
    from torchvision import models

    options: dict[str, Any] = {"weights": None, "num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"transform_input": True, "aux_logits": True, "init_weights": False}
    if name.startswith("vit_"):
        options["image_size"] = size
    try:
        with torch.device("meta"):  # neither memory nor random numbers for parameters that the weights replace
            network: nn.Module = models.get_model(name, **options)
    except NotImplementedError:  # RegNet's builder computes its widths with tensors
        network = models.get_model(name, **options)
    return network


def _renamed_densenet(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Give the parameters of DenseNet's published weights, which are older than its layers, their present names."""
    return {re.sub(r"(\.denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key): state[key] for key in state}


def _fetch(url: str, progress: bool) -> Path:
    """Return the path of the published weights in torch's cache, after a download on first use."""
    path = cached_path(url)
    if os.path.exists(path):  # noqa: PTH110 - a folder that may not be searched is no error yet
        return path
    try:
        return download(url, path, progress=progress)
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise ClassifierError(
            f"cannot download {url} ({reason}); put that file at {path}, "
            "or use --model efficientnet_lite0, which needs no download"
        ) from error
