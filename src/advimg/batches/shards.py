"""Shards: the share of a plan that one run makes of several that know nothing of each other.

The share of a photo follows from its name alone, so runs need no coordinator, and photos that are added later move no
other. Each shard has a folder of its own below the output folder, as any batch has one, with :data:`NAME` in it, which
says what the shard is to make; :mod:`.merge` brings the folders together.
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import msgspec

from advimg import __version__
from advimg.batches.journal import store_of
from advimg.batches.plan import Key
from advimg.errors import OutputError, RecordError, UsageError
from advimg.record_schema import parse_json
from advimg.settings import Eps, TargetRule
from advimg.storage import stores
from advimg.storage.places import read_bytes, write_whole
from advimg.storage.url import Place, Url, is_below, located, relative

NAME = "shard.json"
"""What a shard is to make, in the shard's folder."""

_WRITTEN = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)
_FOLDER = re.compile(r"shard-(\d{1,9})-of-(\d{1,9})", re.ASCII)


class Attack(NamedTuple):
    """One attack, as :class:`advimg.batches.plan.Key`, but small enough to hold all of many folders.

    Attributes:
        source: the photo, an absolute path.
        target: the index of the class, or the rule that chooses it.
        eps: the largest change, or "auto".
    """

    source: str
    target: int | TargetRule
    eps: Eps


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One of ``count`` shards.

    Attributes:
        count: how many there are.
        number: which one this is, from 1.
    """

    count: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``3/16``.

        Raises:
            UsageError: it is no such share.
        """
        written = _WRITTEN.fullmatch(text.strip())
        number, count = map(int, written.groups()) if written else (0, 0)
        if not 1 <= number <= count:
            raise UsageError(f"shard {text!r}: give K/N with K from 1 to N, like 3/16")
        return cls(count, number)

    @classmethod
    def of_folder(cls, name: str) -> Self | None:
        """Return the shard whose folder has a name; None if it is another folder."""
        named = _FOLDER.fullmatch(name)
        if named is None:
            return None
        shard = cls(int(named[2]), int(named[1]))
        return shard if shard.folder_name == name and 1 <= shard.number <= shard.count else None

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder_name(self) -> str:
        """The name of its folder: ``shard-03-of-16``."""
        return f"shard-{self.number:0{len(str(self.count))}}-of-{self.count}"

    def holds(self, name: str) -> bool:
        """Tell whether a photo is in the share.

        Args:
            name: of the photo, as :func:`name_of` returns it.
        """
        return shard_number(name, self.count) == self.number


def shard_number(name: str, count: int) -> int:
    """Return the number, from 1, of the shard among ``count`` that a photo belongs to.

    It is the SHA-256 of the name modulo the count, so it is the same on every machine, and shares are equal on average
    only. Systems that compose letters in different ways (macOS and Linux) agree: the name is hashed in NFC.
    """
    # A name that is no UTF-8 holds halves of surrogate pairs.
    data = unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()) % count + 1


def name_of(photo: Place, root: Place) -> str:
    """Return the name of a photo relative to a folder, with ``/`` on every system; as it is if it is elsewhere."""
    if is_below(photo, root):
        return photo.relative_to(root).as_posix()  # type: ignore[arg-type] # of the same kind
    return str(photo) if isinstance(photo, Url) else photo.as_posix()


@dataclass(frozen=True, slots=True)
class Share:
    """The attacks of a plan that one shard makes.

    Attributes:
        shard: which one.
        keys: its attacks, in the order of the plan.
        root: the folder that names of photos are relative to.
        plan_sha256: of the whole plan, whatever its order: two shards of one plan have the same.
        planned: the number of attacks of the whole plan.
        eps: each eps of the whole plan.
    """

    shard: Shard
    keys: list[Key]
    root: Place
    plan_sha256: str
    planned: int
    eps: tuple[Eps, ...]

    @classmethod
    def of(cls, shard: Shard, keys: Sequence[Key], *, root: Place) -> Self:
        """Take the share of a shard from a whole plan: all attacks of each of its photos.

        Args:
            shard: which one.
            keys: of the whole plan, each once.
            root: the folder whose tree the output folder mirrors.
        """
        names = {photo: name_of(photo, root) for photo in dict.fromkeys(key.source for key in keys)}
        own = {photo for photo, name in names.items() if shard.holds(name)}
        planned = sorted(json.dumps([names[key.source], key.target, key.eps]) for key in keys)
        return cls(
            shard,
            [key for key in keys if key.source in own],
            root,
            hashlib.sha256("\n".join(planned).encode("ascii")).hexdigest(),
            len(keys),
            tuple(dict.fromkeys(key.eps for key in keys)),
        )

    @property
    def photos(self) -> int:
        """The number of its photos."""
        return len({key.source for key in self.keys})

    def write(self, folder: Place) -> None:
        """Write down what the shard is to make, for :mod:`.merge`.

        Args:
            folder: of the shard, which this process has locked.

        Raises:
            OutputError: it cannot be written.
        """
        photos: dict[str, list[list[Any]]] = {}
        for key in self.keys:
            photos.setdefault(name_of(key.source, self.root), []).append([key.target, key.eps])
        values = {
            "advimg": __version__,
            "shard": str(self.shard),
            "plan_sha256": self.plan_sha256,
            "planned": self.planned,
            "eps": self.eps,
            "attacks": len(self.keys),
            "root": relative(self.root, folder),
            "photos": photos,
        }
        write_whole(folder / NAME, json.dumps(values).encode("ascii") + b"\n", overwrite=True)

    def write_empty(self, folder: Place) -> None:
        """Write down that the shard has nothing to make; makes its folder.

        Args:
            folder: of the shard.

        Raises:
            OutputError: another process writes there, or it cannot be written.
        """
        with store_of(folder).locked():
            self.write(folder)


class WrittenShare(msgspec.Struct, frozen=True):
    """A :class:`Share` as its folder has it; attributes as there.

    Attributes:
        shard: such as ``3/16``.
        root: relative to the folder.
        photos: the target and the eps of each of its attacks, by the photo's name.
    """

    advimg: str
    shard: str
    plan_sha256: str
    planned: int
    eps: list[int | float | str]
    attacks: int
    root: str
    photos: dict[str, list[tuple[int | str, int | float | str]]]

    def attacks_from(self, folder: Place) -> Iterator[Attack]:
        """Yield the attacks.

        Args:
            folder: of the shard, an absolute path.
        """
        for name, own in self.photos.items():
            source = str(located(name, located(self.root, folder)))
            for target, eps in own:
                yield Attack(source, target, eps)  # type: ignore[arg-type]


def read_share(folder: Place) -> WrittenShare | None:
    """Return what the shard of a folder is to make; None where the folder is no shard's.

    Raises:
        OutputError: the file cannot be read, or is no such file.
    """
    path = folder / NAME
    try:
        share = msgspec.convert(parse_json(read_bytes(path)), WrittenShare)
        Shard.parse(share.shard)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    except (RecordError, UsageError, msgspec.ValidationError) as error:
        raise OutputError(f"{path} is not what advimg batch --shard writes ({error})") from None
    return share


def shards_in(folder: Place) -> list[Place]:
    """Return the folders in a folder that are named as those of shards, by number.

    Raises:
        OutputError: the folder cannot be read.
    """
    try:
        if isinstance(folder, Url):
            inner = dict.fromkeys(url.relative_to(folder).parts[0] for url, _ in stores.listed(folder))
            named = [(shard, name) for name in inner if (shard := Shard.of_folder(name))]
            return [folder / name for _, name in sorted(named)]
        found = [(shard, path) for path in folder.iterdir() if (shard := Shard.of_folder(path.name)) and path.is_dir()]
    except OSError as error:
        raise OutputError(f"cannot read {folder}: {error.strerror or error}") from error
    return [path for _, path in sorted(found)]


def absent(found: Sequence[Shard]) -> list[Shard]:
    """Return the shards that are not there; none if some number of shards is complete.

    Of several numbers of shards, that counts of which most are there; of equals the largest.
    """
    there = set(found)
    counts = Counter(shard.count for shard in there)
    if not counts or any(counts[count] == count for count in counts):
        return []
    count = max(counts, key=lambda each: (counts[each], each))
    return [shard for number in range(1, count + 1) if (shard := Shard(count, number)) not in there]
