"""What a watcher of an attack is told at each step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advimg.engine.attack_state import AttackState
from advimg.engine.forward import ForwardPass
from advimg.engine.job import Job
from advimg.images.photo import Levels


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """The picture that a step evaluated, and each gradient network's output for it, in the engine's order.

    With ``transfer``, the networks were given it altered by chance.

    Attributes:
        levels: whole, [height, width, 3], uint8.
        probabilities: softmax of each network's logits, each [classes], float64.
        confidences: each network's in what is wanted, 0..1.
        losses: each network's, at temperature 1.
    """

    levels: Levels
    probabilities: tuple[npt.NDArray[np.float64], ...]
    confidences: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StepReport:
    """How far the attack on one photo is, by the gradient network; of several, by the one that is least sure.

    Attributes:
        job: whose photo it is.
        step: how many steps led here from this start, at this eps.
        eps: of the present trial.
        confidence: of what is wanted, 0..1.
        candidate: returns the picture and the networks' outputs; to be called only while the step is watched.
    """

    job: Job
    step: int
    eps: float
    confidence: float
    candidate: Callable[[], Candidate]


Watcher = Callable[[StepReport], None]


@contextmanager
def offered(state: AttackState, passes: Sequence[ForwardPass], position: int) -> Iterator[Callable[[], Candidate]]:
    """Offer a photo's candidate while the context lasts; it costs something only if it is asked for.

    Args:
        state: its last step is not yet followed by another.
        passes: of each network, over all candidates of the pass.
        position: the photo's place among them.
    """
    # Emptied in the end: a report that is kept holds no tensors, and tells nothing of a later candidate.
    held = [(state, passes)]

    def ask() -> Candidate:
        if not held:
            raise RuntimeError("a step's candidate is there only while the step is watched")
        ((state, passes),) = held
        name = state.job.settings.loss
        return Candidate(
            levels=state.proposed_levels(),
            probabilities=tuple(each.probabilities(position) for each in passes),
            confidences=tuple(each.scores[position].confidence for each in passes),
            losses=tuple(each.loss(position, name) for each in passes),
        )

    try:
        yield ask
    finally:
        held.clear()
