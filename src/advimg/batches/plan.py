"""The plan of a batch: the attacks, each a photo, a target and an eps, and the names of their files."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import PurePath
from typing import NamedTuple

from advimg.batches.packed import can_be_packed, without_dots
from advimg.batches.pairs import Pair
from advimg.formatting import bounded
from advimg.images.perturbation import Amplify, check_amplify
from advimg.labels import Labels
from advimg.outputs import LONGEST_STEM, Outputs, plan_outputs
from advimg.settings import Eps, TargetRule
from advimg.storage.tars import SUFFIX
from advimg.storage.url import Place
from advimg.target_names import target_slug

_BESIDE = ("perturbation", "figure")
"""The kinds of files beside a PNG, whose names no other attack has: they may be asked for later."""


class Key(NamedTuple):
    """One attack of a batch.

    Attributes:
        source: the photo, an absolute path or a URL.
        target: the index of the class, or the rule that chooses it.
        eps: the largest change, in levels, or "auto".
    """

    source: Place
    target: int | TargetRule
    eps: Eps


@dataclass(frozen=True, slots=True)
class Item:
    """One attack of a batch and the files it writes.

    Attributes:
        stamp: of the photo, from before it was read; None before that.
    """

    key: Key
    outputs: Outputs
    stamp: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The kinds of files that a batch writes for each attack, and their folders.

    Attributes:
        folder: the output folder, an absolute path or a URL.
        root: the folder whose tree the output folder mirrors.
        amplify: the factor of the perturbation's picture, or "auto".
        perturbation: whether to write that picture.
        figure: whether to write a figure.

    Raises:
        UsageError: the factor is out of range.
    """

    folder: Place
    root: Place
    amplify: Amplify = "auto"
    perturbation: bool = True
    figure: bool = False

    def __post_init__(self) -> None:
        check_amplify(self.amplify)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The files of an attack that are asked for, by the record's keys."""
        return ("adversarial", *("perturbation",) * self.perturbation, *("figure",) * self.figure)

    def outputs_for(self, adversarial: Place, *, also: Container[str] = ()) -> Outputs:
        """Return the files that go with an adversarial PNG.

        Args:
            adversarial: its path.
            also: kinds of files that are written whether or not they are asked for, by the record's keys.
        """
        return plan_outputs(
            adversarial,
            figure=self.figure or "figure" in also,
            perturbation=self.perturbation or "perturbation" in also,
        )

    def folder_for(self, source: Place) -> Place:
        """Return the folder for a photo's files; the photos of an archive have one that is named after it."""
        inner = source.parent.relative_to(self.root)  # type: ignore[arg-type] # all photos are below the root
        return self.folder / PurePath(*map(_without_tar, inner.parts))


def _without_tar(name: str) -> str:
    return name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) and len(name) > len(SUFFIX) else name


def each_target(photos: Iterable[Place], targets: Sequence[int | TargetRule], eps: Eps) -> list[Key]:
    """Return each photo x each target."""
    return [Key(photo, target, eps) for photo in photos for target in targets]


def each_pair(pairs: Iterable[Pair], eps: Eps) -> list[Key]:
    """Return the pairs of a table, those of one photo together, each once."""
    by_photo: dict[Place, dict[Key, None]] = {}
    for pair in pairs:
        key = Key(pair.path, pair.target, eps if pair.eps is None else pair.eps)
        by_photo.setdefault(pair.path, {})[key] = None
    return [key for keys in by_photo.values() for key in keys]


def plan_items(
    keys: Sequence[Key], files: Files, labels: Labels, *, recorded: Mapping[Key, Place], packed: bool = False
) -> list[Item]:
    """Name the files of each attack, so that no two attacks share one.

    Args:
        keys: each once.
        files: the kinds of files, and their folders.
        labels: the names of the classes.
        recorded: the adversarial PNGs of earlier attacks, as they are called where nothing is packed; those keep their
            names.
        packed: whether results are packed, so that names have no dots; those recorded that have are named anew.

    Returns:
        An item for each key, in order.
    """
    taken = (path for adversarial in recorded.values() for _, path in files.outputs_for(adversarial, also=_BESIDE))
    kept = {key: place for key, place in recorded.items() if not packed or can_be_packed(place)}
    names = dict(_names([key for key in keys if key not in kept], files, labels, taken=taken, packed=packed))
    return [Item(key, files.outputs_for(kept.get(key) or names[key])) for key in keys]


def by_photo(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield the items of each photo, which follow each other."""
    for _, group in groupby(items, key=lambda item: item.key.source):
        yield list(group)


def _names(
    keys: Iterable[Key], files: Files, labels: Labels, *, taken: Iterable[Place], packed: bool
) -> Iterator[tuple[Key, Place]]:
    """Yield the shortest name of each attack that no other has: ``dog_pelican``, else ``dog_jpg_pelican``, and so on.

    The last resort is a number.
    """
    occupied = set(map(_folded, taken))
    unnamed = {key: _stems(key, target_slug(key.target, labels)) for key in keys}
    if packed:
        unnamed = {key: tuple(map(without_dots, stems)) for key, stems in unnamed.items()}
    for form in range(4):
        proposed = {key: files.folder_for(key.source) / f"{stems[form]}.png" for key, stems in unnamed.items()}
        # With the pictures beside it: a class may be called figure.
        claimed = {key: _claimed(path, files) for key, path in proposed.items()}
        wanted = Counter(name for names in claimed.values() for name in names)
        for key, path in proposed.items():
            if all(wanted[name] == 1 and name not in occupied for name in claimed[key]):
                del unnamed[key]
                yield key, path
        occupied |= wanted.keys()
    for key, stems in unnamed.items():
        numbered = (files.folder_for(key.source) / f"{stems[-1]}_{number}.png" for number in count(2))
        path = next(path for path in numbered if occupied.isdisjoint(_claimed(path, files)))
        occupied |= _claimed(path, files)
        yield key, path


def _stems(key: Key, slug: str) -> tuple[str, ...]:
    """Return four names for an attack, from the shortest to the longest, without a suffix."""
    names = f"{key.source.stem}_{slug}", f"{key.source.name.replace('.', '_')}_{slug}"
    short, long = (bounded(name, LONGEST_STEM) for name in names)
    eps = "epsauto" if key.eps == "auto" else f"eps{key.eps:g}"
    return short, long, f"{short}_{eps}", f"{long}_{eps}"


def _claimed(adversarial: Place, files: Files) -> set[str]:
    return {_folded(path) for _, path in files.outputs_for(adversarial, also=_BESIDE)}


def _folded(path: Place) -> str:
    """Return what tells two names apart on every file system: some ignore the case of letters."""
    return str(path).casefold()
