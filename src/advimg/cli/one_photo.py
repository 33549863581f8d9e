"""One photo attacked under the eyes of a person: what ``attack`` and ``demo`` share."""

from typing import TYPE_CHECKING

from advimg.cli.console import Console
from advimg.record import Record, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advimg.classifiers.classifier import Classifier
    from advimg.images.mask import Mask
    from advimg.images.photo import Photo
    from advimg.outcome import Outcome
    from advimg.settings import Precision, Settings, TargetRule
    from advimg.tracing import Tracer

NOT_REACHED = 3
"""The exit code when the best attempt was written and the target not reached."""


def perform(
    photo: "Photo",
    target: "int | TargetRule",
    classifiers: "Sequence[Classifier]",
    settings: "Settings",
    *,
    mask: "Mask | None" = None,
    check_on: "Sequence[Classifier]" = (),
    precision: "Precision",
    console: Console,
    tracer: "Tracer | None" = None,
) -> "Outcome":
    """Attack one photo under the eyes of a person, and of a tracer if there is one."""
    from advimg.checking import look_on
    from advimg.classifiers.ensemble import Ensemble
    from advimg.engine.allocator import keep_freed_memory
    from advimg.engine.engine import Engine
    from advimg.engine.job import Job
    from advimg.outcome import outcome_of

    for note in photo.notes:
        console.warn(note)
    keep_freed_memory()
    engine = Engine(*classifiers, precision=precision)
    for classifier in classifiers:
        console.detail(f"{classifier.name} on {classifier.device}")
    wanted = classifiers[0].labels[target] if isinstance(target, int) else target
    with console.watching(wanted, settings.max_steps) as watch:
        job = Job(photo=photo, target=target, settings=settings, mask=mask)
        result = engine.attack(job, watch=tracer.beside(watch) if tracer else watch)
    if tracer:
        tracer.end(result)
    for classifier, choice in zip(classifiers, engine.choices, strict=False):  # none, where it was given
        console.detail(f"gradients of {classifier.name} in {choice}")
    checked = look_on(result, Ensemble(check_on)) if check_on else ()
    return outcome_of(result, checked=checked)


def tell(record: Record, console: Console) -> None:
    """Say what came of an attack."""
    first, *others = attacked = record.attacked
    console.say(f"{record.source}: {first.change}{f', by {first.model}' if others else ''}", style="bold")
    for seen in others:
        console.say(f"  {seen.change}, by {seen.model}", style="bold")
    console.say(
        f"  ε = {record.eps:g}: {_largest(record)}; {_count(record.steps, 'step')}, "
        f"{_count(record.gradients, 'gradient')}, {record.seconds:.1f} s"
    )
    if record.eps_tried:
        tried = (f"{trial.eps} {'enough' if trial.reached else 'too little'}" for trial in record.eps_tried)
        console.say(f"  tried ε = {', '.join(tried)}")
    for seen in record.checked:
        at = "" if seen.fooled else f" ({seen.target.name} is at {percent(seen.confidence)})"
        console.say(f"  {seen.change}{at}, by {seen.model}, which took no part")
    if console.verbose:
        for seen in (*attacked, *record.checked):
            by = f", {seen.model}" if len(attacked) + len(record.checked) > 1 else ""
            console.predictions([(f"before{by}", seen.before), (f"after{by}", seen.after)], target=seen.target.index)
    for key, path in record.outputs.items():
        console.say(f"  {key:<13}{path}")
    untargeted = record.target_rule == "untargeted"
    least = record.least_fooled
    by = f" by {least.model}" if others else ""
    if not record.fooled:
        missed = "no other class was reached" if untargeted else f"{least.target.name} was not reached"
        console.warn(
            f"{missed} ({least.target.name} is at {percent(least.confidence)}{by}); this is the best attempt. "
            f"Try a larger {'--eps' if record.max_eps is None else '--max-eps'}, more --steps, or --restarts"
        )
    elif least.confidence < record.min_confidence and not untargeted:
        console.warn(
            f"{least.target.name} is top-1 at {percent(least.confidence)}{by}, short of the "
            f"{percent(record.min_confidence)} asked for"
        )


def _largest(record: Record) -> str:
    """Say how large the change is."""
    if record.norm == "linf":
        return f"no channel moved more than {record.linf} of 255 levels"
    return f"the change has length {record.l2:.3f} in L2 and is at most {record.linf} of 255 levels anywhere"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
