"""The criterion of an attack for each classifier, and each classifier's judgement of the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from advimg.changes import Change
from advimg.classifiers.classifier import Classifier, Verdict
from advimg.labels import Labels
from advimg.record import Survival


@dataclass(frozen=True, slots=True)
class Criterion:
    """The class that a classifier has to predict; for an untargeted attack, the one that it has to leave.

    Attributes:
        index: of the class.
        away: whether the classifier has to leave it.
    """

    index: int
    away: bool = False

    def met(self, verdict: Verdict) -> bool:
        """Tell whether a verdict is what is wanted."""
        return (verdict.top1 == self.index) != self.away

    def confidence(self, verdict: Verdict) -> float:
        """Return how sure a verdict is of what is wanted, 0..1."""
        confidence = verdict.confidence(self.index)
        return 1 - confidence if self.away else confidence

    def target(self, verdict: Verdict) -> int:
        """Return the target class; for an untargeted attack, the other class that was reached, or came nearest."""
        if not self.away:
            return self.index
        first, *others = (prediction.index for prediction in verdict.top(2))
        return first if first != self.index or not others else others[0]

    def survivals(self, changed: Mapping[Change, Verdict]) -> tuple[Survival, ...]:
        """Say what is seen after each change, and whether it is what is wanted."""
        return tuple(
            Survival(str(change), self.met(each), each.top(1)[0], round(self.confidence(each), 6))
            for change, each in changed.items()
        )


@dataclass(frozen=True, eq=False, slots=True)
class Judgement:
    """One classifier's verdicts before and after an attack.

    Attributes:
        before: on the photo.
        after: on the adversarial picture, through the official preprocessing.
        target: the index of the target class; for an untargeted attack, of the other class that was reached, or
            came nearest.
        fooled: whether ``after`` meets the criterion, and every verdict after a change, too.
        survives: what is seen after each change that the picture is to survive.
    """

    classifier: Classifier
    before: Verdict
    after: Verdict
    target: int
    fooled: bool
    survives: tuple[Survival, ...] = ()

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        criterion: Criterion,
        before: Verdict,
        after: Verdict,
        changed: Mapping[Change, Verdict],
    ) -> Self:
        """Hold verdicts against the criterion; ``changed`` are those after changes."""
        survives = criterion.survivals(changed)
        fooled = criterion.met(after) and all(each.fooled for each in survives)
        return cls(classifier, before, after, criterion.target(after), fooled, survives)

    @property
    def confidence(self) -> float:
        """How sure the classifier is of the target, 0..1."""
        return self.after.confidence(self.target)


def criteria_for(
    target: int | None, labels: Labels, classifiers: Sequence[Classifier], before: Sequence[Verdict]
) -> tuple[Criterion, ...]:
    """Return the criterion of an attack on a photo for each classifier.

    Args:
        target: the index of the class, or None: then each has to leave the class that it predicts.
        labels: to which the index belongs.
        classifiers: those that are attacked, or that judge.
        before: their verdicts on the photo.

    Raises:
        UsageError: a classifier has no class of the target's name.
    """
    if target is None:
        return tuple(Criterion(verdict.top1, away=True) for verdict in before)
    return tuple(Criterion(classifier.labels.counterpart(target, labels[target])) for classifier in classifiers)
