"""The search for the smallest eps that suffices, in whole levels."""

from dataclasses import dataclass, field

from advimg.record import Trial

_FIRST = 2
"""Most photos need no more than this, and many no more than half of it."""


@dataclass(slots=True)
class EpsSearch:
    """Doubles eps until it suffices, then halves the gap to the largest that did not.

    What suffices at one eps is taken to suffice at every larger one.

    Attributes:
        least, most: the bounds; the same where eps is given.
        eps: what is tried now.
        tried: what came of the trials that have ended.
    """

    least: float
    most: float
    eps: float = field(init=False)
    tried: list[Trial] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.eps = min(max(_FIRST, self.least), self.most)

    def end_trial(self, *, reached: bool, confidence: float, gradients: int) -> bool:
        """Note what came of the present eps, and go on to the next.

        Args:
            reached: whether it sufficed.
            confidence: of the target, in the best picture.
            gradients: what the trial took.

        Returns:
            Whether there is another eps to try.
        """
        self.tried.append(Trial(self.eps, reached, round(confidence, 6), gradients))
        if self.least == self.most:
            return False
        short = max((trial.eps for trial in self.tried if not trial.reached), default=self.least - 1)
        enough = min((trial.eps for trial in self.tried if trial.reached), default=None)
        show_progress = min(2 * self.eps, self.most) if enough is None else (short + enough) // 2
        if show_progress in (short, enough):
            return False
        self.eps = show_progress
        return True
