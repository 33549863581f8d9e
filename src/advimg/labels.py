"""Class names: look one up as people write it, list those that match, name files after them.

No torch here: the command line completes and lists names without loading a network.
"""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from advimg.errors import UsageError
from advimg.formatting import bounded, shortened

_IMAGENET = Path(__file__).with_name("imagenet_classes.txt")
_LONGEST, _SHOWN = 1000, 100
"""The most characters of a name, and of one in a message or a file's name."""


class Labels:
    """The names of a classifier's outputs, in the order of its logits.

    Names need not be unique: ImageNet has two cranes. Such a class is asked for by its index.

    Raises:
        UsageError: a name is longer than a record takes.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._by_key: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            if len(name) > _LONGEST:
                raise UsageError(f"class {index} has a name of {len(name):,} characters; the most is {_LONGEST:,}")
            self._by_key.setdefault(_key(name), []).append(index)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def find(self, query: str | int) -> int:
        """Return the index of the class that ``query`` names.

        An index (``144``, ``"144"``) is taken as it is. A name is matched exactly, then without regard to case,
        with ``-`` and ``_`` as good as a space.

        Raises:
            UsageError: no such class (the message lists the nearest names), more than one, or an index out of range.
        """
        text = str(query).strip()
        # A name that is exactly this text wins over an index: labels of digits ("0".."9") stay usable.
        exact = [index for index, name in enumerate(self.names) if name == query]
        if not exact and _is_index(text):
            index = int(text)
            if not 0 <= index < len(self):
                raise UsageError(f"class index {index} is out of range; this classifier has 0 to {len(self) - 1}")
            return index
        matches = exact or self._by_key.get(_key(text), [])
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = " or ".join(f"{index} ({self.names[index]})" for index in matches)
            raise UsageError(f"class {shortened(text, _SHOWN)!r} is ambiguous; give its index: {choices}")
        nearest = self.nearest(text)
        hint = f"did you mean {', '.join(nearest)}?" if nearest else "`advimg labels QUERY` searches the names"
        raise UsageError(f"unknown class {shortened(text, _SHOWN)!r}; {hint}")

    def lacks(self, query: str) -> bool:
        """Tell whether a text is neither the name of a class nor an index."""
        text = query.strip()
        return query not in self.names and not _is_index(text) and _key(text) not in self._by_key

    def counterpart(self, index: int, name: str) -> int:
        """Return the index of a class that other labels have at ``index`` under ``name``.

        The same index if it has that name here, too: two classes may share a name.

        Raises:
            UsageError: no class of that name, or more than one.
        """
        return index if 0 <= index < len(self) and self.names[index] == name else self.find(name)

    def search(self, query: str = "") -> list[int]:
        """Return the indices of all classes whose name contains every word of ``query``, in order."""
        words = _key(query).split()
        return [index for index, name in enumerate(self.names) if all(word in _key(name) for word in words)]

    def slug(self, index: int) -> str:
        """Return a short name for files and shells (``german_shepherd``), with the index where two classes share it."""
        key = _key(self.names[index])
        slug = key.replace(" ", "_") or "class"
        return bounded(slug if len(self._by_key[key]) == 1 and key else f"{slug}_{index}", _SHOWN)

    def nearest(self, text: str, count: int = 5) -> list[str]:
        """Return up to ``count`` names that are spelt like ``text`` or contain it."""
        from difflib import get_close_matches  # needed only on the way to an error

        key = _key(text[:_LONGEST])  # comparing takes time that grows with the square of the length
        similar = get_close_matches(key, self._by_key, n=count, cutoff=0.6)
        containing = [other for other in self._by_key if key and key in other]
        keys = list(dict.fromkeys(similar + containing))[:count]
        return [self.names[self._by_key[key][0]] for key in keys]


@cache
def imagenet_labels() -> Labels:
    """Return the 1,000 ImageNet names, in torchvision's spelling and order."""
    return Labels(_IMAGENET.read_text(encoding="utf-8").splitlines())


def _is_index(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d{1,9}", text) is not None


def same_class(one: str, other: str) -> bool:
    """Tell whether two names mean the same class, compared as :meth:`Labels.find` does.

    A name may list synonyms with commas between them, as those of ImageNet do (``tabby, tabby cat``); one of them that
    is the same is enough.
    """
    synonyms, others = ({_key(part) for part in (name, *name.split(","))} - {""} for name in (one, other))
    return one == other or not synonyms.isdisjoint(others)


def each_once(names: Iterable[str]) -> list[str]:
    """Return names without those that mean what an earlier one does, compared as :meth:`Labels.find` does."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(_key(name) or name, name)
    return list(first.values())


def _key(name: str) -> str:
    """Fold a name to what lookups compare: lower case, words of letters and digits with one space between."""
    return " ".join(re.sub(r"[\W_]+", " ", name.replace("'", "").casefold()).split())
