"""What classifiers that took no part in an attack see in its picture."""

from advimg.classifiers.ensemble import Ensemble
from advimg.engine.criterion import Judgement, criteria_for
from advimg.engine.job import Result


def look_on(result: Result, ensemble: Ensemble) -> tuple[Judgement, ...]:
    """Show a result to classifiers that took no part.

    Raises:
        PhotoError: one of them cannot look at a photo of this shape.
        ClassifierError: the output of one is not finite logits.
        UsageError: one has no class of the target's name.
    """
    before = ensemble.judge_photo(result.job.photo)
    target = None if result.job.target == "untargeted" else result.target
    criteria = criteria_for(target, result.judgements[0].classifier.labels, ensemble.classifiers, before)
    return tuple(map(Judgement.of, ensemble.classifiers, criteria, before, ensemble.judge(result.levels)))
