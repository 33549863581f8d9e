"""One photo attacked under the eyes of a person: what ``attack`` and ``demo`` share."""

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from advimg.cli.console import Console
from advimg.images.encode import encode_png
from advimg.images.files import write_whole
from advimg.record import percent

if TYPE_CHECKING:
    from pathlib import Path

    from advimg.classifiers.classifier import Classifier
    from advimg.images.photo import Photo
    from advimg.outcome import Outcome
    from advimg.outputs import Outputs
    from advimg.settings import Precision, Settings

NOT_REACHED = 3
"""The exit code when the best attempt was written and the target not reached."""


def perform(
    photo: "Photo",
    target: int,
    classifier: "Classifier",
    settings: "Settings",
    *,
    precision: "Precision",
    console: Console,
) -> "Outcome":
    """Attack one photo under the eyes of a person."""
    from advimg.engine.engine import Engine
    from advimg.engine.slot import Job
    from advimg.outcome import outcome_of

    for note in photo.notes:
        console.warn(note)
    engine = Engine(classifier, precision=precision)
    console.detail(f"{classifier.name} on {classifier.device}, gradients in {engine.precision}")
    with console.watching(classifier.labels[target], settings.steps) as watch:
        (result,) = engine.run([Job(photo=photo, target=target, settings=settings)], watch=watch)
    return outcome_of(result, classifier, engine.precision)


def write(outcome: "Outcome", outputs: "Outputs", *, amplify: float, metadata: bool, overwrite: bool) -> "Outcome":
    """Write the files of an attack, the adversarial PNG first, and return the outcome with their paths recorded.

    If one of them cannot be written, or the work is interrupted, those that are new do not stay behind either.
    """
    absent = {path for _, path in outputs if not os.path.lexists(path)}
    written: list[Path] = []
    try:
        written.append(outcome.save(outputs.adversarial, metadata=metadata, overwrite=overwrite))
        if outputs.perturbation is not None:
            write_whole(outputs.perturbation, encode_png(outcome.perturbation(amplify)), overwrite=overwrite)
            written.append(outputs.perturbation)
        if outputs.figure is not None:
            write_whole(outputs.figure, _figure(outcome, amplify), overwrite=overwrite)
    except BaseException:
        for path in absent.intersection(written):
            path.unlink(missing_ok=True)
        raise
    return replace(outcome, record=replace(outcome.record, outputs={key: str(path) for key, path in outputs}))


def _figure(outcome: "Outcome", amplify: float) -> bytes:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it complains when it has nowhere to cache its fonts
    from advimg.report.figure import draw_figure  # matplotlib takes a while to import

    return draw_figure(outcome.record, outcome.photo.levels, outcome.levels, amplify=amplify)


def tell(outcome: "Outcome", console: Console) -> None:
    """Say what came of an attack."""
    record = outcome.record
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
    if not record.fooled:
        console.warn(
            f"{record.target.name} was not reached (it is at {percent(record.confidence)}); this is the best attempt. "
            "Try a larger --eps, more --steps, or --restarts"
        )
    elif record.confidence < record.min_confidence:
        console.warn(
            f"{record.target.name} is top-1 at {percent(record.confidence)}, short of the "
            f"{percent(record.min_confidence)} asked for"
        )
