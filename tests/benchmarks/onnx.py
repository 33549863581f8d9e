"""ONNX files as they are deployed: whether verdicts are torch's, whether files hold, and what a gradient costs.

The bundled network is exported in several forms. Verdicts through advimg are held against those of the published
network in torch, on the photos and on crops of them. Files made at ``--eps 4`` are judged by onnxruntime alone: PIL and
torchvision for the official preprocessing, and the exported file. The time of a gradient through its copy in torch is
given as a share of that of the network itself, in turns.

    python -m tests.benchmarks onnx --photos FOLDER
"""

import random
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.load import load_classifier
from advimg.images.photo import Levels
from tests.benchmarks.measure import print_machine, print_table, progress
from tests.benchmarks.photos import find_photos, photos_option
from tests.benchmarks.strength import random_targets
from tests.referee import CROP, Judge, linf, open_upright

_EPS = 4
_ROUNDS = 5
_TOGETHER = 8


class _AsTensorFlow(nn.Module):
    """A network that takes channels last and ends in softmax."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        probabilities: Tensor = self.network(pictures.permute(0, 3, 1, 2)).softmax(1)
        return probabilities


@click.command()
@photos_option
@click.option("--seed", default=0, show_default=True, help="Of the targets and the crops.")
def benchmark(photos: Path | None, seed: int) -> None:
    """Export the bundled network, and hold the ONNX files against it."""
    print_machine()
    judge = Judge()
    own = load_classifier("efficientnet_lite0", device="cpu")
    paths = find_photos(photos)
    targets = {path: random_targets(path, judge, 1, seed)[0] for path in paths}
    pictures = [picture for path in paths for picture in _with_crops(path, random.Random(seed))]
    firsts = [int(judge.see(Image.fromarray(each)).argmax()) for each in pictures]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (network, shape, dynamic) in _forms(own.network).items():
            progress(f"{name} ...")
            file = Path(folder) / "net.onnx"
            _export(network, shape, file, dynamic=dynamic)
            classifier = load_classifier(
                str(file), resize=256, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, device="cpu"
            )
            same = sum(classifier.judge(each).top1 == first for each, first in zip(pictures, firsts, strict=True))
            held = sum(_holds(classifier, file, path, target, Path(folder)) for path, target in targets.items())
            shares = [f"{_share(classifier, own, count):.2f}" for count in (1, _TOGETHER)]
            rows.append((name, f"{same} of {len(pictures)}", f"{held} of {len(targets)}", *shares))
    print_table(
        f"efficientnet_lite0 as ONNX, {len(paths)} photos",
        ("", "verdicts as in torch", f"files at eps {_EPS} that hold", "gradient, 1 picture", f"{_TOGETHER} pictures"),
        rows,
    )


def _forms(network: nn.Module) -> Mapping[str, tuple[nn.Module, tuple[int, ...], bool]]:
    """Return the networks to export, each with the shape of its input, and whether any number may share a batch."""
    return {
        "any batch": (network, (1, 3, 224, 224), True),
        "batch of 1": (network, (1, 3, 224, 224), False),
        "channels last, softmax": (_AsTensorFlow(network), (1, 224, 224, 3), False),
    }


def _export(network: nn.Module, shape: tuple[int, ...], file: Path, *, dynamic: bool) -> None:
    axes = {"input": {0: "batch"}, "output": {0: "batch"}} if dynamic else None
    export: Callable[..., Any] = torch.onnx.export
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that needs no further package
        export(
            network.eval(),
            torch.zeros(shape),
            file,
            dynamo=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=axes,
        )


def _with_crops(path: Path, draw: random.Random) -> Sequence[Levels]:
    """Return a photo, and three parts of it."""
    picture = open_upright(path)
    parts = [picture]
    for _ in range(3):
        width, height = (round(side * draw.uniform(0.35, 0.8)) for side in picture.size)
        left, top = draw.randrange(picture.width - width), draw.randrange(picture.height - height)
        parts.append(picture.crop((left, top, left + width, top + height)))
    return [np.asarray(part) for part in parts]


def _holds(classifier: Classifier, file: Path, photo: Path, target: int, folder: Path) -> bool:
    """Attack a photo, and tell whether onnxruntime sees the target in the file, within eps."""
    import onnxruntime

    png = folder / "adversarial.png"
    advimg.attack(photo, model=classifier, target=target, eps=_EPS).save(png, overwrite=True)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    levels = (CROP(open_upright(png)).numpy()[None] - np.float32(0.5)) / np.float32(0.5)
    fed = levels.transpose(0, 2, 3, 1) if given.shape[-1] == 3 else levels
    (scores,) = session.run(None, {given.name: np.ascontiguousarray(fed)})
    return int(np.asarray(scores)[0].argmax()) == target and linf(png, photo) <= _EPS


def _share(classifier: Classifier, own: Classifier, count: int) -> float:
    """Return the processor time of a gradient through an ONNX file's copy, as a share of the network's own."""
    levels = torch.rand(count, 3, 224, 224, generator=torch.Generator().manual_seed(0)).mul(255)
    networks = [GradientNetwork(each, "fp32") for each in (classifier, own)]
    seconds: list[list[float]] = [[], []]
    for turn in range(_ROUNDS + 1):
        for network, times in zip(networks, seconds, strict=True):
            began = time.process_time()
            seen = levels.clone().requires_grad_()
            torch.autograd.grad(network.logits(seen).sum(), seen)
            if turn:  # the first warms up
                times.append(time.process_time() - began)
    first, second = map(median, seconds)
    return first / second
