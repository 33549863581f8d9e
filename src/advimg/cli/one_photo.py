"""One photo attacked under the eyes of a person: what ``attack`` and ``demo`` share."""

from typing import TYPE_CHECKING

from advimg.cli.console import Console
from advimg.record import Record, percent

if TYPE_CHECKING:
    from advimg.classifiers.classifier import Classifier
    from advimg.images.photo import Photo
    from advimg.outcome import Outcome
    from advimg.settings import Precision, Settings, TargetRule

NOT_REACHED = 3
"""The exit code when the best attempt was written and the target not reached."""


def perform(
    photo: "Photo",
    target: "int | TargetRule",
    classifier: "Classifier",
    settings: "Settings",
    *,
    precision: "Precision",
    console: Console,
) -> "Outcome":
    """Attack one photo under the eyes of a person."""
    from advimg.engine.allocator import keep_freed_memory
    from advimg.engine.engine import Engine
    from advimg.engine.slot import Job
    from advimg.outcome import outcome_of

    for note in photo.notes:
        console.warn(note)
    keep_freed_memory()
    engine = Engine(classifier, precision=precision)
    console.detail(f"{classifier.name} on {classifier.device}, gradients in {engine.precision}")
    wanted = classifier.labels[target] if isinstance(target, int) else target
    with console.watching(wanted, settings.steps) as watch:
        result = engine.attack(Job(photo=photo, target=target, settings=settings), watch=watch)
    return outcome_of(result, classifier, engine.precision)


def tell(record: Record, console: Console) -> None:
    """Say what came of an attack."""
    was, now = record.before[0], record.after[0]
    console.say(
        f"{record.source}: {was.name} {percent(was.confidence)} → {now.name} {percent(now.confidence)}", style="bold"
    )
    console.say(
        f"  ε = {record.eps}: no channel moved more than {record.linf} of 255 levels; {record.steps} steps, "
        f"{record.gradients} gradients, {record.seconds:.1f} s"
    )
    if console.verbose:
        console.guesses([("before", record.before), ("after", record.after)], target=record.target.index)
    for key, path in record.outputs.items():
        console.say(f"  {key:<13}{path}")
    untargeted = record.target_rule == "untargeted"
    if not record.fooled:
        missed = "no other class was reached" if untargeted else f"{record.target.name} was not reached"
        console.warn(
            f"{missed} ({record.target.name} is at {percent(record.confidence)}); this is the best attempt. "
            "Try a larger --eps, more --steps, or --restarts"
        )
    elif record.confidence < record.min_confidence and not untargeted:
        console.warn(
            f"{record.target.name} is top-1 at {percent(record.confidence)}, short of the "
            f"{percent(record.min_confidence)} asked for"
        )
