"""torchvision's classifiers, with the weights, preprocessing and class names that torchvision publishes."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models

from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.listing import Listed
from advimg.classifiers.sources.published import Published, as_it_is, hash_digits
from advimg.errors import ClassifierError, UsageError
from advimg.labels import Labels


def find(name: str) -> Published:
    """Return what torchvision publishes under a name such as ``resnet50``, or ``resnet50:IMAGENET1K_V1``.

    Without the name of weights, torchvision's default ones are meant.

    Raises:
        UsageError: torchvision has no such classifier, or no such weights of it.
    """
    base, colon, tag = name.partition(":")
    weights = _weights(base, tag if colon else None)
    return Published(
        name=f"{base}:{weights.name}",
        build=partial(_empty, base),
        preprocessing=Preprocessing.from_preset(weights.transforms()),
        labels=Labels(weights.meta["categories"]),
        fetch=partial(_cached, weights),
        modern=_modern_densenet if base.startswith("densenet") else as_it_is,
    )


def listed() -> Iterator[Listed]:
    """Yield each of torchvision's classifiers with each of its weights."""
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            accuracy = weights.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
            yield Listed(
                name=f"{name}:{weights.name}",
                input_size=Preprocessing.from_preset(weights.transforms()).crop,
                parameters=weights.meta["num_params"],
                top1=accuracy,
                on_disk=_path(weights).exists(),
            )


def _weights(name: str, tag: str | None) -> Any:
    """Return the member of torchvision's weights enum that a name and tag mean."""
    if name not in models.list_models(module=models):
        raise UsageError(_unknown_model(name))
    choices = models.get_model_weights(name)
    if tag is None:
        return choices.DEFAULT
    try:
        return choices[tag]
    except KeyError:
        known = " or ".join(f"{name}:{member.name}" for member in choices)
        raise UsageError(f"{name} has no weights {tag!r}; use {known}") from None


def _unknown_model(name: str) -> str:
    from difflib import get_close_matches

    if name in models.list_models():
        kind = "quantised" if name.startswith("quantized_") else "not an image classifier"
        return f"{name} cannot be attacked: it is {kind}"
    nearest = get_close_matches(name, models.list_models(module=models), n=3)
    hint = f"did you mean {', '.join(nearest)}?" if nearest else "`advimg models` lists them"
    return f"unknown model {name!r}; {hint}"


def _empty(name: str, classes: int, size: int) -> nn.Module:
    """Build the architecture that the published weights belong to, to be filled.

    torchvision's builders set these same options when they are given weights.
    """
    options: dict[str, Any] = {"weights": None, "num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"transform_input": True, "aux_logits": True, "init_weights": False}
    if name.startswith("vit_"):
        options["image_size"] = size
    try:
        with torch.device("meta"):  # no memory and no random numbers for parameters that are about to be replaced
            network: nn.Module = models.get_model(name, **options)
    except NotImplementedError:  # RegNet's builder computes its widths with tensors
        network = models.get_model(name, **options)
    return network


def _modern_densenet(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Rename the parameters of DenseNet's published weights, which are older than its present layers."""
    return {re.sub(r"(\.denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key): state[key] for key in state}


def _path(weights: Any) -> Path:
    """Return where torch keeps published weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name


def _cached(weights: Any, progress: bool) -> Path:
    """Return the path of the published weights in torch's cache, after a download on first use."""
    path = _path(weights)
    if not os.path.exists(path):  # noqa: PTH110 - a folder that may not be searched is no error yet
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                weights.url, str(path), hash_prefix=hash_digits(path.name) or None, progress=progress
            )
        except (URLError, OSError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or error
            raise ClassifierError(
                f"cannot download {weights.url} ({reason}); put that file at {path}, "
                "or use --model efficientnet_lite0, which needs no download"
            ) from error
    return path
