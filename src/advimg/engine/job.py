"""What an engine is given, and what it gives back."""

from dataclasses import dataclass
from typing import NamedTuple

from advimg.classifiers.classifier import Verdict
from advimg.engine.criterion import Judgement
from advimg.engine.verdicts import Verdicts
from advimg.errors import AdvimgError
from advimg.images.mask import Mask
from advimg.images.photo import Levels, Photo
from advimg.record import Trial
from advimg.settings import Settings, TargetRule


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """A photo, its target and the settings of the attack on it.

    Attributes:
        target: the index of the class, as the first classifier counts, or the rule that chooses it by the first
            classifier's verdict on the photo; "untargeted" means any class but the predicted one.
        mask: where the photo may be changed; everywhere if None.
    """

    photo: Photo
    target: int | TargetRule
    settings: Settings
    mask: Mask | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What came of a job.

    Attributes:
        levels: the adversarial picture, [height, width, 3], uint8: the best that was found.
        eps: within which it is.
        tried: what came of each eps, where the least was looked for.
        judgements: what each classifier that was attacked sees in the photo and in ``levels``.
        steps: how many steps led to ``levels`` from its start.
        gradients: passes through the network, or through each of several, of all starts; the last needs no way back.
        seconds: from the first look to the verdict.
        precision: what the gradients were computed in: "fp32", "bf16", or first the one and then the other.
    """

    job: Job
    levels: Levels
    eps: float
    tried: tuple[Trial, ...]
    judgements: tuple[Judgement, ...]
    steps: int
    gradients: int
    seconds: float
    precision: str

    @property
    def target(self) -> int:
        """The class that was aimed at, or reached, as the first classifier counts."""
        return self.judgements[0].target

    @property
    def before(self) -> Verdict:
        """What the first classifier sees in the photo."""
        return self.judgements[0].before

    @property
    def after(self) -> Verdict:
        """What the first classifier sees in ``levels``."""
        return self.judgements[0].after

    @property
    def fooled(self) -> bool:
        """Whether every classifier is fooled."""
        return all(judgement.fooled for judgement in self.judgements)


@dataclass(frozen=True, eq=False)
class Failed:
    """A job that ended without a result, and why."""

    job: Job
    error: AdvimgError


class Attempt(NamedTuple):
    """A picture at one eps.

    Attributes:
        levels: whole, [height, width, 3], uint8.
        verdicts: of the classifiers.
        eps: within which it is.
        steps: that led to it from its start.
        reached: whether each criterion is met, with the confidence asked for.
    """

    levels: Levels
    verdicts: Verdicts
    eps: float
    steps: int
    reached: bool
