"""What classifiers that took no part in an attack see in its picture."""

from advimg.classifiers.panel import Panel
from advimg.engine.goal import Sight, goals_for
from advimg.engine.job import Result


def look_on(result: Result, panel: Panel) -> tuple[Sight, ...]:
    """Show a result to classifiers that took no part.

    Raises:
        PhotoError: one of them cannot look at a photo of this shape.
        ClassifierError: the output of one is not finite logits.
        UsageError: one has no class of the target's name.
    """
    before = panel.judge_photo(result.job.photo)
    target = None if result.job.target == "untargeted" else result.target
    goals = goals_for(target, result.sights[0].classifier.labels, panel.classifiers, before)
    return tuple(map(Sight.of, panel.classifiers, goals, before, panel.judge(result.levels)))
