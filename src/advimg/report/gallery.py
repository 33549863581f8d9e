"""The gallery of a folder of results: one page for the browser, opened from the disk, with small pictures beside it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advimg.errors import OutputError, RecordError
from advimg.record import Prediction, Target
from advimg.record_schema import check_record, record_of
from advimg.report.cards import FAILED, NOT_REACHED, VERIFIED, Card, Failed, card_of, failed_of, root_of
from advimg.report.histogram import Histogram, of_confidences, of_numbers
from advimg.report.page import check_page, rendered
from advimg.report.survival import matrix_of
from advimg.report.thumbnails import OWN, Pictures, make_thumbnails
from advimg.storage.places import made_folder, remove_others, write_whole
from advimg.storage.url import Place

FOLDER = "report"
_THUMBNAILS = "thumbnails"


@dataclass(frozen=True, slots=True)
class Gallery:
    """What was written: the page, and what it shows."""

    page: Place
    verified: int
    not_reached: int
    failed: int


def check_gallery(folder: Place, *, force: bool) -> Place:
    """Find out whether the gallery of a folder may be written, and return the path of its page.

    Raises:
        OutputError: there is a page of others, and not ``force``.
    """
    return check_page(folder / FOLDER / "index.html", force=force)


def write_gallery(
    records: Sequence[Mapping[str, Any]], folder: Place, *, force: bool, made: Callable[[int], None] = lambda _: None
) -> Gallery:
    """Write the gallery of a folder of results, or write it anew; thumbnails that are there are used again.

    Args:
        records: of the folder's journal, plain JSON values.
        folder: an absolute path.
        force: whether a page of others may be overwritten.
        made: called with how many attacks have their thumbnails.

    Raises:
        OutputError: it cannot be written, or something in the journal is no record.
    """
    page = check_gallery(folder, force=force)
    thumbnails = page.parent / _THUMBNAILS
    with made_folder(thumbnails):
        try:
            cards, failures, pictures = _read(records, page.parent, thumbnails, made)
            text = _rendered(folder.name, cards, failures)
        except RecordError as error:
            raise OutputError(f"the journal of {folder} holds what advimg did not write there: {error}") from error
        write_whole(page, text, overwrite=True)
        remove_others(thumbnails, OWN, set[str]().union(*(each.names for each in pictures)), inside=folder)
    counts = _counts(cards, failures)
    return Gallery(page, counts[VERIFIED], counts[NOT_REACHED], counts[FAILED])


def _read(
    records: Sequence[Mapping[str, Any]], report: Place, thumbnails: Place, made: Callable[[int], None]
) -> tuple[list[Card], list[Failed], list[Pictures]]:
    for record in records:
        check_record(record)
    ended = [record for record in records if record["error"] is None]
    read = [record_of(record) for record in ended]
    root = root_of(record["source"] for record in records)
    pictures = make_thumbnails(ended, thumbnails, made)
    cards = [card_of(record, each, root=root, report=report) for record, each in zip(read, pictures, strict=True)]
    failures = [failed_of(record, root=root) for record in records if record["error"] is not None]
    return sorted(cards, key=lambda card: (card.name, card.seen.target.index)), failures, pictures


def _counts(cards: Sequence[Card], failures: Sequence[Failed]) -> dict[str, int]:
    """Count how many have each status."""
    counted = Counter(card.status for card in cards)
    return {VERIFIED: counted[VERIFIED], NOT_REACHED: counted[NOT_REACHED], FAILED: len(failures)}


def _histograms(cards: Sequence[Card]) -> Iterator[Histogram]:
    if cards:
        yield of_confidences("Confidence of the target", [card.seen.confidence for card in cards])
    for title, values in (
        ("Steps", [card.record.steps for card in cards]),
        ("ε", [float(card.record.eps) for card in cards]),
    ):
        if len(set(values)) > 1:
            yield of_numbers(title, values)


def _classes(classes: Iterable[Target | Prediction | None]) -> list[tuple[tuple[int, str], int]]:
    """Count classes; in the order of their names."""
    counted = Counter((each.index, each.name) for each in classes if each is not None)
    return sorted(counted.items(), key=lambda each: each[0][1])


def _rendered(name: str, cards: Sequence[Card], failures: Sequence[Failed]) -> bytes:
    return rendered(
        "gallery",
        thumbnails=_THUMBNAILS,
        name=name,
        counts=_counts(cards, failures),
        total=len(cards) + len(failures),
        models=list(dict.fromkeys(seen.model for card in cards for seen in card.record.attacked)),
        histograms=list(_histograms(cards)),
        survival=matrix_of(card.record for card in cards),
        seen_classes=_classes(card.seen.before[0] for card in cards),
        target_classes=_classes([*(card.seen.target for card in cards), *(each.target for each in failures)]),
        cards=cards,
        failures=failures,
    )
