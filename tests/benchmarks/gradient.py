"""What a gradient costs: milliseconds per photo and gradient, against the network alone and other libraries.

Photos of 500x375, one, eight and 32 at a time; ResNet-50 with random weights (speed does not depend on them) and the
bundled network. Measured in turns within one run:

- advimg: one step of every photo, all of it: preprocessing, network, the way back through both, step (AttackState and
  GradientNetwork), in 32 bits and, where ``--precision auto`` finds that quicker, in bfloat16;
- the bare network: forward and the gradient of its 224x224 input, in the same precisions, parameters frozen, as
  torchvision or the bundled network's own package builds it;
- Foolbox, Torchattacks and ART, where installed: their whole call on 224x224 tensors, divided by its steps, with the
  network as their examples have it (eval mode, parameters not frozen).

    python -m tests.benchmarks gradient
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from advimg.api import open_photo
from advimg.attacks.base import Evaluation
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.ensemble import Ensemble
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.gradient.precision import chosen
from advimg.classifiers.load import load_classifier
from advimg.engine.attack_state import AttackState
from advimg.engine.forward import forward
from advimg.engine.job import Job
from advimg.labels import imagenet_labels
from advimg.settings import Settings
from tests.benchmarks.measure import Spread, in_turns, print_machine, print_table, progress, ratios, settle
from tests.benchmarks.peers import Peer, find_peers, seeded
from tests.benchmarks.photos import device_option, find_photos, photos_option
from tests.referee import Normalised, open_upright, published_network

_SIZE = (500, 375)
_TARGET = 144
_EPS = 10
_BARE = "bare network, fp32"


@dataclass(frozen=True)
class _Subject:
    """A classifier, and its network as it is published, on the same device."""

    name: str
    classifier: Classifier
    published: nn.Module


@click.command()
@photos_option
@device_option
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Turns of each.")
@click.option("--gradients", default=10, show_default=True, type=click.IntRange(1), help="Gradients in a turn.")
@click.option("--batch", "batches", multiple=True, default=(1, 8, 32), show_default=True, type=click.IntRange(1))
@click.option("--peers/--no-peers", default=True, help="Whether to compare other libraries.")
def benchmark(
    photos: Path | None, device: str, rounds: int, gradients: int, batches: Sequence[int], peers: bool
) -> None:
    """Time a gradient of ours against the bare network's and other libraries'."""
    print_machine()
    others = find_peers() if peers else []
    pictures = [ImageOps.fit(open_upright(path), _SIZE) for path in find_photos(photos)]
    rows = []
    for subject in (_resnet50(device), _bundled(device)):
        for batch in batches:
            progress(f"{subject.name}, batch {batch} ...")
            some = [pictures[index % len(pictures)] for index in range(batch)]
            contenders = _contenders(subject, some, gradients, others)
            measured = in_turns(contenders, rounds)
            for name, values in measured.items():
                milliseconds = Spread.of([1000 * value / (gradients * batch) for value in values])
                ratio = ratios(values, measured[_BARE])
                rows.append((f"{subject.name}, batch {batch}: {name}", milliseconds.text(1), ratio.text(2)))
    print_table(
        f"Milliseconds per photo and gradient, photos of {_SIZE[0]}x{_SIZE[1]}, median (quartiles) of {rounds} turns "
        f"of {gradients} gradients",
        ("network, photos at a time, who", "ms", "ratio to the bare network in fp32"),
        rows,
    )


def _resnet50(device: str) -> _Subject:
    torch.manual_seed(0)
    network = models.resnet50(weights=None).eval()
    classifier = Classifier.wrap(
        network,
        labels=imagenet_labels().names,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        name="resnet50",
        device=device,
    )
    return _Subject("resnet50", classifier, copy.deepcopy(classifier.network))


def _bundled(device: str) -> _Subject:
    classifier = load_classifier("efficientnet_lite0", device=device)
    return _Subject(classifier.name, classifier, published_network().to(classifier.device))


def _contenders(
    subject: _Subject, pictures: Sequence[Image.Image], gradients: int, peers: Sequence[Peer]
) -> dict[str, Callable[[], float]]:
    """Return what is to be measured: each call computes so many gradients of every picture and returns its seconds."""
    device = subject.classifier.device
    targets = torch.full((len(pictures),), _TARGET, device=device)
    fed = torch.stack([subject.classifier.preprocessing.stock(picture) for picture in pictures]).to(device)
    network = GradientNetwork(subject.classifier, "fp32")
    settings = Settings(eps=_EPS)
    ensemble = Ensemble([subject.classifier])
    states = [
        AttackState(Job(photo=open_photo(picture), target=_TARGET, settings=settings), ensemble) for picture in pictures
    ]
    bare = copy.deepcopy(subject.published).requires_grad_(False)
    loops: dict[str, Callable[[], object]] = {
        "advimg, fp32": partial(_ours, network, states, gradients),
        _BARE: partial(_bare, bare, fed, targets, gradients),
    }
    quicker = chosen(network, torch.stack(_inputs(states))).network
    if quicker.precision == "bf16":
        low = copy.deepcopy(bare).to(torch.bfloat16)
        loops["advimg, bf16"] = partial(_ours, quicker, states, gradients)
        loops["bare network, bf16"] = partial(_bare, low, fed.to(torch.bfloat16), targets, gradients)
    preprocessing = subject.classifier.preprocessing
    model = Normalised(subject.published, preprocessing.mean, preprocessing.std).eval()
    levels = _levels(fed, preprocessing.mean, preprocessing.std)
    for peer in peers:
        loops[peer.package] = partial(seeded, peer, model, levels, targets, eps=_EPS, steps=gradients)
    return {name: partial(_seconds, loop, device) for name, loop in loops.items()}


_UNSEEN = Evaluation(fooled=False, log_confidence=0.0, compute_loss=lambda: 0.0)
"""PGD goes by the gradient alone."""


def _ours(network: GradientNetwork, states: Sequence[AttackState], gradients: int) -> None:
    """Take so many steps of every photo as the engine does, without its verdicts."""
    losses = [state.job.settings.loss for state in states]
    criteria = [criterion for state in states for criterion in state.criteria]
    for _ in range(gradients):
        look = forward(_inputs(states), network, criteria, [state.attack.softness for state in states])
        for state, standing in zip(states, look.scores, strict=True):
            state.keep_if_best(fooled=0, log_confidence=standing.log_confidence)
        temperatures = [state.attack.temperature for state in states]
        for state, slope, score in zip(states, look.gradient(losses, temperatures), look.scores, strict=True):
            state.gather([slope[None]])
            state.step([score], _UNSEEN)


def _inputs(states: Sequence[AttackState]) -> list[Tensor]:
    """Return what the one network gets of each photo: nothing is to be survived, so there is one view of each."""
    return [picture for state in states for views in state.inputs() for picture in views]


def _bare(network: nn.Module, fed: Tensor, targets: Tensor, gradients: int) -> None:
    for _ in range(gradients):
        pictures = fed.clone().requires_grad_()
        loss = functional.cross_entropy(network(pictures), targets, reduction="sum")
        torch.autograd.grad(loss, pictures)


def _levels(fed: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo the normalisation: what a network is fed to levels 0..1."""
    shape = (3, 1, 1)
    levels = fed * fed.new_tensor(std).view(shape) + fed.new_tensor(mean).view(shape)
    return levels.clamp(0, 1)


def _seconds(loop: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    loop()
    settle(device)
    return time.perf_counter() - began
