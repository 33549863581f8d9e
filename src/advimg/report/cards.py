"""What a gallery shows of each attack."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from urllib.parse import quote

from advimg.record import NetworkRecord, Record, Target
from advimg.report.thumbnails import Pictures
from advimg.storage import tars
from advimg.storage.url import Place, is_url, place_of, relative

VERIFIED, NOT_REACHED, FAILED = "verified", "not reached", "failed"

_LINKS = {"adversarial": "Adversarial PNG", "perturbation": "Perturbation PNG", "figure": "Figure"}


class Link(NamedTuple):
    """A file of an attack: what it is called, and its address, as seen from the report.

    ``inside`` is the name within the file where that is an archive; else it is empty.
    """

    text: str
    address: str
    inside: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """One attack that wrote a file.

    Attributes:
        name: of the photo, with the folders that tell it from others.
        seen: what the network sees that is fooled least.
        pictures: the thumbnails.
        links: to the files; of packed ones to the archive.
    """

    name: str
    record: Record
    seen: NetworkRecord
    pictures: Pictures
    links: tuple[Link, ...]

    @property
    def status(self) -> str:
        """Verified or not reached."""
        return VERIFIED if self.record.fooled else NOT_REACHED

    @property
    def wanted(self) -> str:
        """What is to be seen in the file, for people."""
        return "another class" if self.record.target_rule == "untargeted" else self.seen.target.name


@dataclass(frozen=True, slots=True)
class Failed:
    """One attack that came to nothing: the photo's name, the target or the rule that chooses it, and the reason."""

    name: str
    target: Target | None
    aim: str
    reason: str


def card_of(record: Record, pictures: Pictures, *, root: Path | None, report: Place) -> Card:
    """Return the card of a record that tells of no error.

    Args:
        record: of the attack.
        pictures: its thumbnails.
        root: the folder that holds all photos, if there is one.
        report: the folder that the page will be in.
    """
    links = tuple(_links(record.outputs, report))
    return Card(_shown_name(record.source, root), record, record.least_fooled, pictures, links)


def failed_of(record: Mapping[str, Any], *, root: Path | None) -> Failed:
    """Return what is shown of a record that tells of an error."""
    named = record["target"]
    target = Target(named["index"], named["name"]) if named else None
    name = _shown_name(record["source"], root)
    # Where the photo lies is nobody's business who is sent the page.
    place, found, why = record["error"].partition(PurePath(record["source"]).name)
    reason = name + why if found and (is_url(place) or PurePath(place or ".").is_absolute()) else record["error"]
    return Failed(name, target, target.name if target else record["target_rule"] or "", reason)


def root_of(sources: Iterable[str]) -> Path | None:
    """Return the deepest folder that holds all photos; None where there is none."""
    try:
        return Path(os.path.commonpath({os.path.dirname(source) for source in sources}))  # noqa: PTH120
    except ValueError:  # no photos, or on different drives of Windows
        return None


def _shown_name(source: str, root: Path | None) -> str:
    path = PurePath(source)
    inner = path.relative_to(root) if root is not None and path.is_relative_to(root) else PurePath(path.name)
    return inner.as_posix()


def _links(outputs: Mapping[str, str], report: Place) -> Iterator[Link]:
    for key, text in _LINKS.items():
        if key not in outputs:
            continue
        where = place_of(outputs[key])
        inside = tars.split(where)
        if inside is None:
            yield Link(text, _address(where, report))
        elif key == "adversarial":  # the other members are beside it
            archive, name = inside
            yield Link(archive.name, _address(archive, report), name)


def _address(where: Place, report: Place) -> str:
    path = PurePath(relative(where, report))
    return quote(os.fsencode(path.as_posix()))  # as bytes: names need not be UTF-8
