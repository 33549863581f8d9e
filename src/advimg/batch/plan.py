"""What a batch has to do: which photo, towards what, and into which files."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from advimg.batch.pairs import Pair
from advimg.labels import Labels
from advimg.outputs import Outputs, plan_outputs
from advimg.settings import Eps, TargetRule
from advimg.target_names import target_slug


class Key(NamedTuple):
    """One attack of a batch.

    Attributes:
        source: the photo, an absolute path.
        target: the index of the class, or the rule that chooses it.
        eps: the budget, in levels, or "auto".
    """

    source: Path
    target: int | TargetRule
    eps: Eps


@dataclass(frozen=True, slots=True)
class Item:
    """One attack of a batch and the files it writes."""

    key: Key
    outputs: Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Which files a batch writes for each attack, and where.

    Attributes:
        folder: the output folder, an absolute path.
        root: what the output folder mirrors.
        amplify: the factor of the perturbation's picture.
        perturbation: whether it is wanted.
        figure: whether a figure is wanted.
    """

    folder: Path
    root: Path
    amplify: float = 10
    perturbation: bool = True
    figure: bool = False

    def named(self, adversarial: Path) -> Outputs:
        """Return the files that go with an adversarial PNG."""
        return plan_outputs(adversarial, amplify=self.amplify, figure=self.figure, perturbation=self.perturbation)

    def place(self, source: Path) -> Path:
        """Return the folder for a photo's files."""
        return self.folder / source.parent.relative_to(self.root)


def each_towards(photos: Iterable[Path], targets: Sequence[int | TargetRule], eps: Eps) -> list[Key]:
    """Return each photo x each target."""
    return [Key(photo, target, eps) for photo in photos for target in targets]


def each_pair(pairs: Iterable[Pair], eps: Eps) -> list[Key]:
    """Return the pairs of a table, those of one photo together, each once."""
    by_photo: dict[Path, dict[Key, None]] = {}
    for pair in pairs:
        key = Key(pair.path, pair.target, eps if pair.eps is None else pair.eps)
        by_photo.setdefault(pair.path, {})[key] = None
    return [key for keys in by_photo.values() for key in keys]


def plan_items(keys: Sequence[Key], files: Files, labels: Labels, *, recorded: Mapping[Key, Path]) -> list[Item]:
    """Name the files of each attack, so that no two attacks share one.

    Args:
        keys: each once.
        files: which, and where.
        labels: the classes' names.
        recorded: the adversarial PNGs of earlier attacks; those keep their names.

    Returns:
        An item for each key, in order.
    """
    taken = (path for adversarial in recorded.values() for _, path in files.named(adversarial))
    names = dict(_names([key for key in keys if key not in recorded], files, labels, taken=taken))
    return [Item(key, files.named(recorded.get(key) or names[key])) for key in keys]


def by_photo(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield the items of each photo, where those of one photo stand together."""
    for _, group in groupby(items, key=lambda item: item.key.source):
        yield list(group)


def _names(keys: Iterable[Key], files: Files, labels: Labels, *, taken: Iterable[Path]) -> Iterator[tuple[Key, Path]]:
    """Yield for each the shortest name that no other has: ``dog_pelican``, else ``dog_jpg_pelican``, and so on."""
    occupied = {_folded(path) for path in taken}
    unnamed = list(keys)
    for form in _FORMS:
        proposed = {
            key: files.place(key.source) / f"{form(key, target_slug(key.target, labels))}.png" for key in unnamed
        }
        # With the pictures beside it: a class may be called x10.
        claimed = {key: [_folded(other) for _, other in files.named(path)] for key, path in proposed.items()}
        wanted = Counter(name for names in claimed.values() for name in names)
        unnamed = []
        for key, path in proposed.items():
            if any(wanted[name] > 1 or name in occupied for name in claimed[key]):
                unnamed.append(key)
            else:
                yield key, path
        occupied |= wanted.keys()
    for key in unnamed:
        stem = _with_both(key, target_slug(key.target, labels))
        number = 2
        while True:
            path = files.place(key.source) / f"{stem}_{number}.png"
            claimed_now = {_folded(other) for _, other in files.named(path)}
            if not claimed_now & occupied:
                break
            number += 1
        occupied |= claimed_now
        yield key, path


def _short(key: Key, slug: str) -> str:
    return f"{key.source.stem}_{slug}"


def _with_eps(key: Key, slug: str) -> str:
    return f"{_short(key, slug)}_eps{_number(key.eps)}"


def _with_suffix(key: Key, slug: str) -> str:
    return f"{key.source.name.replace('.', '_')}_{slug}"


def _with_both(key: Key, slug: str) -> str:
    return f"{_with_suffix(key, slug)}_eps{_number(key.eps)}"


def _number(eps: Eps) -> str:
    return eps if eps == "auto" else f"{eps:g}"


_FORMS: tuple[Callable[[Key, str], str], ...] = (_short, _with_suffix, _with_eps, _with_both)


def _folded(path: Path) -> str:
    """Return what tells two names apart on every file system; some make no difference between upper and lower case."""
    return str(path).casefold()
