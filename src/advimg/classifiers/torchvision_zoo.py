"""torchvision's classifiers, with the weights, preprocessing and class names that torchvision publishes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.state_dict import file_sha256, fill, read_state_dict
from advimg.classifiers.view import View
from advimg.errors import ClassifierError, UsageError
from advimg.labels import Labels


def load_torchvision(
    name: str, tag: str | None, weights: Path | None, device: torch.device, *, progress: bool = True
) -> Classifier:
    """Load a torchvision classifier.

    Args:
        name: the builder's name, such as ``resnet50``.
        tag: which weights, such as ``IMAGENET1K_V1``; None means torchvision's default.
        weights: a state dict to load instead; the tag still decides the preprocessing.
        device: where to put the network.
        progress: whether a download shows torchvision's progress bar.

    Raises:
        UsageError: torchvision has no such classifier, or no such weights of it.
        ClassifierError: the weights cannot be had, are damaged or do not fit.
    """
    published = _published(name, tag)
    path = weights or _cached(published, progress=progress)
    sha256 = file_sha256(path)
    if weights is None and not sha256.startswith(_hash_digits(path.name)):
        raise ClassifierError(
            f"the weights {path} are damaged (their hash is not {_hash_digits(path.name)}…); delete that file"
        )
    network = _empty(name, published)
    state = read_state_dict(path)
    if name.startswith("densenet"):
        state = _modern_densenet(state)
    fill(network, state, source=path)
    return Classifier(
        name=f"{name}:{published.name}",
        network=network.to(device).eval(),
        view=View.from_preset(published.transforms()),
        labels=Labels(published.meta["categories"]),
        device=device,
        weights=weights.name if weights else None,
        weights_sha256=sha256,
    )


def published_labels(name: str, tag: str | None) -> Labels:
    """Return the class names of a torchvision classifier without its weights.

    Raises:
        UsageError: torchvision has no such classifier, or no such weights of it.
    """
    return Labels(_published(name, tag).meta["categories"])


def _published(name: str, tag: str | None) -> Any:
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
    hint = f"did you mean {', '.join(nearest)}?" if nearest else "use a torchvision classifier or efficientnet_lite0"
    return f"unknown model {name!r}; {hint}"


def _empty(name: str, published: Any) -> nn.Module:
    """Build the architecture that the published weights belong to, to be filled.

    torchvision's builders set these same options when they are given weights.
    """
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options |= {"transform_input": True, "aux_logits": True, "init_weights": False}
    if name.startswith("vit_"):
        options["image_size"] = published.meta["min_size"][0]
    try:
        with torch.device("meta"):  # no memory and no random numbers for parameters that are about to be replaced
            network: nn.Module = models.get_model(name, **options)
    except NotImplementedError:  # RegNet's builder computes its widths with tensors
        network = models.get_model(name, **options)
    return network


def _modern_densenet(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Rename the parameters of DenseNet's published weights, which are older than its present layers."""
    return {re.sub(r"(\.denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key): state[key] for key in state}


def _cached(published: Any, *, progress: bool) -> Path:
    """Return the path of the published weights in torch's cache, after a download on first use."""
    file_name = Path(urlparse(published.url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if not os.path.exists(path):  # noqa: PTH110 - a folder that may not be searched is no error yet
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                published.url, str(path), hash_prefix=_hash_digits(file_name) or None, progress=progress
            )
        except (URLError, OSError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or error
            raise ClassifierError(
                f"cannot download {published.url} ({reason}); put that file at {path}, "
                "or use --model efficientnet_lite0, which needs no download"
            ) from error
    return path


def _hash_digits(file_name: str) -> str:
    """Return the first digits of the SHA-256 that torchvision's file names end in (``resnet50-0676ba61.pth``)."""
    match = re.search(r"-([0-9a-f]{8,})\.", file_name)
    return match.group(1) if match else ""
