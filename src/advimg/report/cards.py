"""From a record to what a gallery shows of it: plain text and numbers, nothing that means something to a browser."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from advimg.record import NetworkRecord, Prediction, Record, Target, percent, printable
from advimg.report.thumbnails import Pictures

VERIFIED, NOT_REACHED, FAILED = "verified", "not reached", "failed"


@dataclass(frozen=True, slots=True)
class Row:
    """One class a network sees: its name, its confidence as a share (0..1) and as text."""

    name: str
    share: float
    percent: str
    is_target: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One attack that wrote a file.

    Attributes:
        name: of the photo, with the folders that tell it from others.
        status: verified or not reached.
        target: its index and name; of several networks, as the one that is fooled least has it.
        rule: which chose the target, if one did.
        seen: the index and name of what was seen in the photo.
        before, after: the top 5 of photo and file.
        confidence: of the target, in the file.
        model: which network saw that.
        models: all that were attacked.
        budget: eps as text.
        change: how large it is, in words.
        others: what networks that took no part see in the file, in sentences.
        links: what the files are called, and where they are, as seen from the report.
    """

    name: str
    status: str
    target: tuple[int, str]
    rule: str | None
    seen: tuple[int, str]
    before: tuple[Row, ...]
    after: tuple[Row, ...]
    confidence: float
    model: str
    models: tuple[str, ...]
    eps: float
    budget: str
    change: str
    steps: int
    gradients: int
    size: tuple[int, int]
    others: tuple[str, ...]
    pictures: Pictures
    links: tuple[tuple[str, str], ...]

    @property
    def percent(self) -> str:
        """The confidence as text."""
        return percent(self.confidence)


@dataclass(frozen=True, slots=True)
class Failed:
    """One attack that came to nothing: the photo's name, the target's index and name if it is known, and the reason."""

    name: str
    target: tuple[int, str] | None
    aim: str
    reason: str


def card_of(record: Record, pictures: Pictures, *, root: Path | None, report: Path) -> Card:
    """Return the card of a record that tells of no error.

    Args:
        record: of the attack.
        pictures: its thumbnails.
        root: the folder that holds all photos, if there is one.
        report: the folder that the page will be in.

    Raises:
        TypeError, ValueError, IndexError: it holds what no record of an attack does.
    """
    least = record.least_fooled
    return Card(
        name=_shown_name(record.source, root),
        status=VERIFIED if record.fooled else NOT_REACHED,
        target=_class(least.target),
        rule=printable(record.target_rule) if record.target_rule else None,
        seen=_class(least.before[0]),
        before=_rows(least.before, least.target),
        after=_rows(least.after, least.target),
        confidence=least.confidence,
        model=printable(record.least_fooled_model),
        models=tuple(printable(each.model) for each in record.attacked),
        eps=float(record.eps),
        budget=record.budget,
        change=_change(record),
        steps=record.steps,
        gradients=record.gradients,
        size=record.size,
        others=tuple(map(_other, record.checked)),
        pictures=pictures,
        links=tuple(_links(record.outputs, report)),
    )


def failed_of(record: Mapping[str, Any], *, root: Path | None) -> Failed:
    """Return what is shown of a record that tells of an error.

    Raises:
        KeyError, TypeError, ValueError: it is no record.
    """
    target = _class(Target.from_dict(record["target"])) if record["target"] else None
    name = _shown_name(record["source"], root)
    # Where the photo lies is nobody's business who is sent the page.
    reason = printable(record["error"].replace(record["source"], name))
    return Failed(name, target, target[1] if target else printable(record["target_rule"] or ""), reason)


def root_of(sources: Iterable[str]) -> Path | None:
    """Return the deepest folder that holds all photos; None where there is none."""
    try:
        return Path(os.path.commonpath({os.path.dirname(source) for source in sources}))  # noqa: PTH120
    except ValueError:  # no photos, or on different drives of Windows
        return None


def _shown_name(source: str, root: Path | None) -> str:
    path = PurePath(source)
    inner = path.relative_to(root) if root is not None and path.is_relative_to(root) else PurePath(path.name)
    return printable(inner.as_posix())


def _class(found: Target | Prediction) -> tuple[int, str]:
    return found.index, printable(found.name)


def _rows(predictions: Sequence[Prediction], target: Target) -> tuple[Row, ...]:
    return tuple(
        Row(
            printable(prediction.name),
            min(1.0, max(0.0, prediction.confidence)),
            percent(prediction.confidence),
            prediction.index == target.index,
        )
        for prediction in predictions
    )


def _change(record: Record) -> str:
    largest = f"largest change {record.linf} of 255"
    return largest if record.norm == "linf" else f"{largest}, {record.l2:.3g} in L2"


def _other(seen: NetworkRecord) -> str:
    top = seen.after[0]
    fooled = "is fooled, too" if seen.fooled else "is not fooled"
    return printable(f"{seen.model} {fooled}: it sees {top.name}, {percent(top.confidence)}")


_LINKS = {"adversarial": "Adversarial PNG", "perturbation": "Perturbation PNG", "figure": "Figure"}


def _links(outputs: Mapping[str, str], report: Path) -> Iterable[tuple[str, str]]:
    for key, text in _LINKS.items():
        if key in outputs:
            path = PurePath(os.path.relpath(outputs[key], report))
            # As bytes: names need not be UTF-8.
            yield text, quote(os.fsencode(path.as_posix()))
