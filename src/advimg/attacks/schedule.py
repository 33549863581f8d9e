"""What changes while an attack goes on."""

_WARMEST = 3.0
_COOLING = 1 / 8


def temperature(step: int) -> float:
    """Return what the logits are divided by in the loss at a step, counted from 0: 3 at first, 1 from the 16th on.

    A warm cross-entropy presses on many other classes at once, which makes the target sure in fewer steps; a cool one
    on those that are nearest to it, which takes a target that is hard to reach further.
    """
    return max(1.0, _WARMEST - _COOLING * step)
