"""The candidate of one step, for watchers that want more than to know where the photo stands."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advimg.engine.attack_state import AttackState
from advimg.engine.forward import ForwardPass
from advimg.images.photo import Levels


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """The picture that a step looked at, and what each of the networks saw in it, in the engine's order.

    With ``transfer``, the networks saw it altered by chance.

    Attributes:
        levels: whole, [height, width, 3], uint8.
        probabilities: softmax of the gradient network's logits, each [classes], float64.
        confidences: how sure each is of what is wanted, 0..1.
        losses: what the step goes down, at temperature 1.
    """

    levels: Levels
    probabilities: tuple[npt.NDArray[np.float64], ...]
    confidences: tuple[float, ...]
    losses: tuple[float, ...]


@contextmanager
def offered(slot: AttackState, looks: Sequence[ForwardPass], position: int) -> Iterator[Callable[[], Candidate]]:
    """Offer a slot's candidate while the context lasts; it costs something only if it is asked for.

    Args:
        slot: its last step is not yet followed by another.
        looks: of each network, at all candidates of the pass.
        position: the slot's place among them.
    """
    # Emptied in the end: a report that somebody keeps holds no tensors, and tells nothing of a later candidate.
    place = [(slot, looks)]

    def ask() -> Candidate:
        if not place:
            raise RuntimeError("a step's candidate is there only while the step is watched")
        ((slot, looks),) = place
        name = slot.job.settings.loss
        return Candidate(
            levels=slot.candidate_levels(),
            probabilities=tuple(look.probabilities(position) for look in looks),
            confidences=tuple(look.standings[position].confidence for look in looks),
            losses=tuple(look.loss(position, name) for look in looks),
        )

    try:
        yield ask
    finally:
        place.clear()
