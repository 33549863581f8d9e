"""Other libraries' L∞ PGD, for comparison where they are installed: Foolbox, Torchattacks and ART.

They attack what the network is fed, a float tensor [n, 3, 224, 224] of levels 0..1, and hand such a tensor back.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import click
import torch
from torch import Tensor, nn

# Model, levels 0..1 [n, 3, h, w], targets [n], eps as a fraction, steps -> levels 0..1 [n, 3, h, w].
_Attack = Callable[[nn.Module, Tensor, Tensor, float, int], Tensor]


@dataclass(frozen=True)
class Peer:
    """A library's targeted L∞ PGD with its default settings.

    Attributes:
        package: the library.
        steps: its default number of steps; it takes them all.
        attack: runs it.
    """

    package: str
    steps: int
    attack: _Attack

    @property
    def missing(self) -> str | None:
        """Why it cannot be used here; None if it can."""
        try:
            importlib.import_module(self.package)
        except ModuleNotFoundError as error:
            return "not installed" if error.name == self.package else f"not installed whole: no {error.name}"
        except ImportError as error:
            return f"cannot be imported: {error}"
        return None


def _foolbox(model: nn.Module, levels: Tensor, targets: Tensor, eps: float, steps: int) -> Tensor:
    foolbox = importlib.import_module("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=levels.device)
    criterion = foolbox.criteria.TargetedMisclassification(targets)
    _, clipped, _ = foolbox.attacks.LinfPGD(steps=steps)(wrapped, levels, criterion, epsilons=eps)
    assert isinstance(clipped, Tensor)
    return clipped.detach()


def _torchattacks(model: nn.Module, levels: Tensor, targets: Tensor, eps: float, steps: int) -> Tensor:
    attack = importlib.import_module("torchattacks").PGD(model, eps=eps, steps=steps)
    attack.set_mode_targeted_by_label(quiet=True)
    changed = attack(levels, targets)
    assert isinstance(changed, Tensor)
    return changed.detach()


def _art(model: nn.Module, levels: Tensor, targets: Tensor, eps: float, steps: int) -> Tensor:
    estimators = importlib.import_module("art.estimators.classification")
    attacks = importlib.import_module("art.attacks.evasion")
    classifier = estimators.PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(levels.shape[1:]),
        nb_classes=1000,
        clip_values=(0.0, 1.0),
        device_type="gpu" if levels.is_cuda else "cpu",
    )
    attack = attacks.ProjectedGradientDescentPyTorch(
        classifier, eps=eps, eps_step=eps / 4, max_iter=steps, targeted=True, batch_size=len(levels), verbose=False
    )
    wanted = nn.functional.one_hot(targets, 1000).cpu().numpy()
    return torch.from_numpy(attack.generate(levels.cpu().numpy(), y=wanted)).to(levels.device)


_PEERS = (Peer("foolbox", 40, _foolbox), Peer("torchattacks", 10, _torchattacks), Peer("art", 100, _art))


def peer_named(package: str) -> Peer:
    """Return the peer of a package that :func:`find_peers` has found."""
    return next(peer for peer in _PEERS if peer.package == package)


def find_peers() -> list[Peer]:
    """Return those that can be used here, and print a line for each that cannot."""
    found = []
    for peer in _PEERS:
        if (reason := peer.missing) is None:
            found.append(peer)
        else:
            click.echo(f"{peer.package}: {reason}")
    return found


def seeded(peer: Peer, model: nn.Module, levels: Tensor, targets: Tensor, *, eps: int, steps: int) -> Tensor:
    """Run a peer from random starts that are the same every time; ``eps`` in levels of 255."""
    torch.manual_seed(0)
    return peer.attack(model, levels, targets, eps / 255, steps)
