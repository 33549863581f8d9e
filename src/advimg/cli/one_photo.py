"""One photo: read as the command line names it, attacked with a line that moves, and described."""

import sys
from typing import TYPE_CHECKING, Any

from advimg.cli.console import Console
from advimg.errors import PhotoError
from advimg.formatting import percent, with_confidence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from advimg.classifiers.classifier import Classifier
    from advimg.images.mask import Mask
    from advimg.images.photo import Photo
    from advimg.outcome import Outcome
    from advimg.record import CheckedRecord, CheckedSurvival, NetworkRecord, Record, Survival
    from advimg.settings import Settings, TargetRule
    from advimg.storage.url import Place


def read_input(image: str, *, max_pixels: int) -> "Photo":
    """Read a photo from a path, or from stdin where ``image`` is ``-``.

    Raises:
        PhotoError: it cannot be read, or stdin is a terminal.
    """
    from advimg.images.decode import decode_photo, read_photo

    if image != "-":
        return read_photo(image, max_pixels=max_pixels)
    if sys.stdin is None or sys.stdin.isatty():
        raise PhotoError("- reads the photo from stdin; pipe one in, as in `advimg attack - … < dog.jpg`")
    return decode_photo(sys.stdin.buffer.read(), source="stdin", max_pixels=max_pixels)


def read_mask(path: "Place | None", photo: "Photo", *, max_pixels: int) -> "Mask | None":
    """Read the mask of a photo, if there is one.

    Raises:
        PhotoError: it cannot be read, is not of the photo's size, or has nothing white.
    """
    from advimg.images.decode import read_photo
    from advimg.images.mask import mask_for

    return None if path is None else mask_for(photo, read_photo(path, max_pixels=max_pixels))


def attack_shown(
    console: Console,
    photo: "Photo",
    target: "int | TargetRule",
    classifiers: "Sequence[Classifier]",
    *,
    settings: "Settings",
    **options: Any,
) -> "Outcome":
    """Attack one photo with a line on the console that moves; ``options`` are as for :func:`advimg.attack`."""
    from advimg import api
    from advimg.engine.allocator import keep_freed_memory

    for note in photo.notes:
        console.warn(note)
    keep_freed_memory()
    for classifier in classifiers:
        console.detail(f"{classifier.name} on {classifier.device}")
    wanted = classifiers[0].labels[target] if isinstance(target, int) else target
    with console.watching(wanted, settings.max_steps) as watch:
        outcome = api.attack(photo, target, model=classifiers, settings=settings, watch=watch, **options)
    for classifier, choice in zip(classifiers, outcome.choices, strict=False):  # none, where it was given
        console.detail(f"gradients of {classifier.name} in {choice}")
    return outcome


def describe(record: "Record", console: Console) -> None:
    """Say what an attack has reached, and what it wrote."""
    first, *others = attacked = record.attacked
    console.say(f"{record.source}: {first.change}{f', by {first.model}' if others else ''}", style="bold")
    for seen in others:
        console.say(f"  {seen.change}, by {seen.model}", style="bold")
    console.say(
        f"  ε = {record.eps:g}: {record.largest_change}; {_count(record.steps, 'step')}, "
        f"{_count(record.gradients, 'gradient')}, {record.seconds:.1f} s"
    )
    if record.visibility is not None:
        console.say(f"  {record.visibility.in_words}: {record.visibility.measures}")
    if record.eps_tried:
        tried = (f"{trial.eps} {'enough' if trial.reached else 'too little'}" for trial in record.eps_tried)
        console.say(f"  tried ε = {', '.join(tried)}")
    for line in _survival(record.least_survives):
        console.say(f"  {line}")
    for judge in record.answered:
        console.say(f"  {judge.change}{_left_to_target(judge)}, by {judge.model}, which took no part")
        for line in _survival(judge.survives):
            console.say(f"    {line}")
    if console.verbose:
        judges: list[NetworkRecord | CheckedRecord] = [*attacked, *record.answered]
        for each in judges:
            by = f", {each.model}" if len(judges) > 1 else ""
            console.predictions([(f"before{by}", each.before), (f"after{by}", each.after)], target=each.target)
    for key, path in record.outputs.items():
        console.say(f"  {key:<13}{path}")
    for judge in record.checked:
        if judge.error is not None:
            console.error(f"{record.source}: {judge.error}")
    untargeted = record.target_rule == "untargeted"
    least = record.least_fooled
    least_seen = least.after[0]
    by = f" by {least.model}" if others else ""
    larger = "--eps" if record.max_eps is None else "--max-eps"
    fallen = _fallen(record.least_survives)
    if fallen and least_seen.index == least.target.index:
        console.warn(
            f"{least.target.name} is what is seen in the file, but not after {fallen}; this is the best "
            f"attempt. Try a larger {larger}, more --steps, or fewer changes"
        )
    elif not record.fooled:
        missed = "no other class was reached" if untargeted else f"{least.target.name} was not reached"
        console.warn(
            f"{missed} ({least.target.name} is at {percent(least.confidence)}{by}); this is the best attempt. "
            f"Try a larger {larger}, more --steps, or --restarts"
        )
    elif not untargeted and all(seen.before[0].index == seen.target.index for seen in attacked):
        console.warn(f"the photo shows {first.target.name} already: no attack was needed")
    elif untargeted and (left := max(map(_left, attacked))) > 1 - record.min_confidence:
        console.warn(
            f"the class that the photo shows keeps {percent(left)}, more than the {percent(1 - record.min_confidence)} "
            "asked for"
        )
    elif least.confidence < record.min_confidence and not untargeted:
        console.warn(
            f"{least.target.name} is top-1 at {percent(least.confidence)}{by}, short of the "
            f"{percent(record.min_confidence)} asked for"
        )
    elif weak := [each.change for each in record.least_survives if each.confidence < record.min_confidence]:
        console.warn(f"after {', '.join(weak)} the file is short of the {percent(record.min_confidence)} asked for")


def _left_to_target(seen: "CheckedRecord") -> str:
    """Return how far the target is for a judge that is not fooled, where it says, or after what the file falls."""
    if seen.fooled or seen.target is None:
        return ""
    if (fallen := _fallen(seen.survives)) and seen.after and seen.after[0].name == seen.target.name:
        return f", but not after {fallen}"
    return "" if seen.confidence is None else f" ({seen.target.name} is at {percent(seen.confidence)})"


def _fallen(survives: "Sequence[Survival | CheckedSurvival]") -> str:
    """Name the changes after which a file falls."""
    return ", ".join(each.change for each in survives if not each.fooled)


def _survival(survives: "Sequence[Survival | CheckedSurvival]") -> "Iterator[str]":
    """Yield a line of what holds after changes, and one for each change after which the file falls."""
    held = [each for each in survives if each.fooled]
    if held:
        sure = ("" if each.confidence is None else f" ({percent(each.confidence)})" for each in held)
        yield f"holds after {', '.join(each.change + how for each, how in zip(held, sure, strict=True))}"
    for each in survives:
        if not each.fooled:
            yield f"falls after {each.change}: {with_confidence(each.seen.name, each.seen.confidence)}"


def _left(seen: "NetworkRecord") -> float:
    """Return the confidence that is left, in the file, to the class that the photo shows; 0 if it is not among five."""
    return next((each.confidence for each in seen.after if each.index == seen.before[0].index), 0.0)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
