"""The attack seam: what every attack has in common, and how the engine drives it.

An attack proposes a picture of whole levels; the engine evaluates it and hands back the gradient of the loss there, and
the attack takes a step. It knows one photo, its budget and its settings, nothing of networks, batches or files. To add
one, write a file like :mod:`advimg.attacks.pgd` and name its module in :data:`advimg.registry.ATTACKS`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advimg.settings import Settings

# Elementwise work goes in pieces that stay in a core's cache: on a 12-megapixel photo a third of the time of whole
# tensors, and no temporaries of their size. GPUs take the picture whole.
_PIECE = 1 << 17

# The share of the steps that take the networks' inputs altered by chance, with ``transfer``.
_DIVERSIFIED = 0.9


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the networks made of a candidate.

    Attributes:
        fooled: whether each of them predicts what the attack wants.
        log_confidence: of what the attack wants; of several networks, the least.
        compute_loss: returns the loss.
    """

    fooled: bool
    log_confidence: float
    compute_loss: Callable[[], float]

    @property
    def confidence(self) -> float:
        """The confidence of what the attack wants, 0..1."""
        return math.exp(min(0.0, self.log_confidence))

    @property
    def loss(self) -> float:
        """The loss; of several networks, the mean. Computed when it is asked for, because that waits for the device."""
        return self.compute_loss()


class Attack(ABC):
    """The attack on one photo.

    Args:
        photo: whole levels, uint8 [3, height, width]: the part of the photo that the classifiers depend on.
        settings: of the attack.
        eps: the budget of the first trial, in the unit of the norm.
        free: where the photo may change, bool [height, width]; everywhere if None.

    Attributes:
        eps: the budget of the present trial.
        steps: taken from the present start.
        restarts_left: how many further starts may follow at this eps.
    """

    def __init__(self, photo: Tensor, settings: Settings, eps: float, free: Tensor | None = None) -> None:
        self.photo = photo
        self.settings = settings
        self.eps = eps
        self.free = free
        self.steps = 0
        self.restarts_left = settings.restarts
        # On the CPU, so that a seed means the same numbers on every device.
        self.generator = torch.Generator().manual_seed(settings.seed)

    @abstractmethod
    def propose(self, out: Tensor) -> None:
        """Write the picture to evaluate, whole levels within eps, the mask and 0..255, into ``out``, float."""

    @abstractmethod
    def update(self, gradient: Tensor, evaluation: Evaluation) -> None:
        """Take a step.

        Args:
            gradient: of the loss at the picture that was proposed, float [3, height, width]; may be overwritten.
            evaluation: of that picture.
        """

    def restart(self) -> None:
        """Begin again at a random point; subclasses draw it."""
        self.restarts_left -= 1
        self.steps = 0

    def change_eps(self, eps: float) -> None:
        """Begin a trial at another budget, from the present point; subclasses bring it into the new ball."""
        self.eps = eps
        self.steps = 0
        self.restarts_left = self.settings.restarts

    def keep_to_mask(self, values: Tensor) -> None:
        """Set values [3, height, width] to zero, in place, where the photo may not change."""
        if self.free is not None:
            values.mul_(self.free)

    @property
    def out_of_steps(self) -> bool:
        """Whether this start has taken all the steps it may."""
        return self.steps >= self.settings.max_steps

    @property
    def diversified(self) -> bool:
        """Whether, with ``transfer``, the next evaluation is of altered inputs, and so tells nothing of the file.

        The last steps go without, until the classifiers themselves are fooled.
        """
        return self.steps < math.floor(_DIVERSIFIED * self.settings.max_steps)

    def weigh(self, log_confidences: Sequence[float]) -> list[float]:
        """Return the weight of each view's loss in the next gradient, where changes are to be survived.

        Args:
            log_confidences: of what the attack wants, in the picture itself and after changes.
        """
        return [1.0] * len(log_confidences)

    @property
    def loss(self) -> str:
        """The name of the loss whose gradient the next step takes."""
        return self.settings.loss

    @property
    def temperature(self) -> float:
        """What the logits are divided by in the loss of the next step."""
        return 1.0

    @property
    def softness(self) -> tuple[float, float]:
        """How soft ReLU's derivative is in the next gradient, deep in the networks and before; 0 is the true one."""
        return 0.0, 0.0


def normalise(gradient: Tensor) -> Tensor:
    """Divide a gradient by its mean absolute value, in place; a gradient of zeros stays as it is."""
    mean = torch.linalg.vector_norm(gradient, 1) / gradient.numel()
    return gradient.div_(torch.where(mean > 0, mean, 1.0))


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of contiguous tensors of one shape, piece by piece, for elementwise work in place."""
    size = _PIECE if tensors[0].device.type == "cpu" else tensors[0].numel()
    return zip(*(torch.split(tensor.view(-1), size) for tensor in tensors), strict=True)


def whole(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors once, as they are, for work that is not elementwise."""
    yield tensors
