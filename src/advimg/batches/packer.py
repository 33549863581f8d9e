"""Results packed into tar archives, many attacks in each, as webdataset reads them.

The files of attacks are held in memory until there are enough for an archive. It is written whole, read back and
compared, and only then are its attacks recorded: what a killed process held is in no journal, and is made again.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from advimg.batches.byte_budget import ByteBudget
from advimg.batches.packed import first_free, member_name, record_name, tar_name
from advimg.batches.plan import Item
from advimg.errors import DiskError, OutputError, PhotoError, TakenError
from advimg.images.decode import decode_photo
from advimg.outcome import Outcome, pixels_sha256
from advimg.storage import tars
from advimg.storage.files import sync_folder
from advimg.storage.places import exists, names_in, write_whole
from advimg.storage.url import Place

_MOST = 256 << 20
"""An archive is not made larger than about this, however many attacks it may hold."""
_SHARE = 4
"""An archive may take this part of the memory: another is written and read back while it is filled."""


Written = tuple[dict[str, Any], dict[str, str], str | None]
"""A record, plain JSON values, the SHA-256 of the files that it names, by its keys, and the stamp of its photo."""


class Recorded(Protocol):
    """Called with the attacks of an archive once it is in place."""

    def __call__(self, *written: Written) -> None:
        """Record them."""


@dataclass(slots=True)
class _Sample:
    """An attack that waits for its archive.

    Attributes:
        name: of its first member.
        files: the bytes of its members, by their names; without them once they are in the archive's bytes.
        hashes: the SHA-256 of these bytes, by the same names.
        places: the names of the members that the record names, by its keys.
        record: without its outputs.
        size: the number of its pixels.
        pixels: the hash of those that were judged.
        stamp: of the photo.
        holding: how many bytes count as held.
    """

    name: str
    files: dict[str, bytes]
    hashes: dict[str, str]
    places: dict[str, str]
    record: dict[str, Any]
    size: int
    pixels: str
    stamp: str | None
    holding: int


class Packer:
    """Packs the results of one pipeline into archives; safe to use from several threads.

    Args:
        folder: for the archives.
        count: how many attacks each holds; the last one, and large ones, hold fewer.
        begin: lists an archive that is about to be written, with its hash
            (:meth:`advimg.batches.pipeline.Recorder.begin`).
        recorded: called with the attacks of an archive that is in place.
        memory: how many bytes all that is held and written may take together, about; one attack is always taken.
        tag: letters and digits that the names of this pipeline's archives have, where several write to one folder.
    """

    def __init__(
        self,
        folder: Place,
        count: int,
        *,
        begin: Callable[[Mapping[Place, str]], object],
        recorded: Recorded,
        memory: int,
        tag: str = "",
    ) -> None:
        self._folder = folder
        self._count = count
        self._begin = begin
        self._recorded = recorded
        self._tag = tag
        self._most = max(1, min(_MOST, memory // _SHARE))
        # Twice what makes an archive: so whoever waits for room waits for one that is being written.
        self._room = ByteBudget(2 * self._most)
        self._samples: dict[str, _Sample] = {}  # by their names, where the case of letters does not count
        self._held = 0
        self._number: int | None = None
        self._filling = threading.Lock()
        self._writing = threading.Lock()

    def put(self, outcome: Outcome, item: Item, files: Mapping[Place, bytes]) -> None:
        """Take the files of an attack, and write an archive if there are enough.

        Args:
            outcome: of the attack.
            item: the attack, with the names that its files would have if they were not packed.
            files: the bytes of each of them.

        Raises:
            DiskError: the archive cannot be written; none of its attacks is recorded.
        """
        sample = self._sample_of(outcome, item, files)
        if not self._room.take(sample.holding):
            return  # no archive can be written any more, and the run is about to end
        with self._filling:
            name = sample.name.casefold()
            # Names differ in a plan; an archive where two did not would be none for webdataset.
            before = self._taken() if name in self._samples else []
            self._samples[name] = sample
            self._held += sample.holding
            enough = len(self._samples) >= self._count or self._held >= self._most
            full = self._taken() if enough else []
        for samples in filter(None, (before, full)):
            self._write(samples)

    def flush(self) -> None:
        """Write an archive of what is left.

        Raises:
            DiskError: as in :meth:`put`.
        """
        with self._filling:
            samples = self._taken()
        if samples:
            self._write(samples)

    def _taken(self) -> list[_Sample]:
        """Return what is held, and hold nothing; in the order of names, and not in that in which threads ended."""
        taken = sorted(self._samples.values(), key=lambda sample: sample.name)
        self._samples, self._held = {}, 0
        return taken

    def _sample_of(self, outcome: Outcome, item: Item, files: Mapping[Place, bytes]) -> _Sample:
        inner = item.outputs.adversarial.relative_to(self._folder)  # type: ignore[arg-type] # of one kind
        places = {kind: member_name(inner, kind) for kind, _ in item.outputs}
        adversarial, *others = ((places[kind], files[path]) for kind, path in item.outputs)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in (adversarial, *others)}
        record = outcome.record.to_dict()
        told = outcome.record.published() | {
            "checked": record["checked"],
            "outputs": places,
            "outputs_sha256": {kind: hashes[name] for kind, name in places.items()},
        }
        members = dict((adversarial, (record_name(inner), json.dumps(told, allow_nan=False).encode("ascii")), *others))
        width, height = outcome.photo.size
        return _Sample(
            name=adversarial[0],
            files=members,
            hashes={name: hashes.get(name) or hashlib.sha256(data).hexdigest() for name, data in members.items()},
            places=places,
            record=record,
            size=width * height,
            pixels=pixels_sha256(outcome.levels, outcome.photo.alpha),
            stamp=item.stamp,
            holding=min(sum(map(len, members.values())), self._most),
        )

    def _write(self, samples: Sequence[_Sample]) -> None:
        """Write an archive, and record its attacks.

        Raises:
            DiskError: it cannot be written.
        """
        try:
            with self._writing:
                tar = self._written(samples)
            self._recorded(*(_as_written(sample, tar) for sample in samples))
        except BaseException:
            self._room.close()  # nobody is to wait for room that nothing gives back
            raise
        self._room.give_back(sum(sample.holding for sample in samples))

    def _written(self, samples: Sequence[_Sample]) -> Place:
        try:
            data = tars.built(_emptied(samples))
            sha256 = hashlib.sha256(data).hexdigest()
            while True:
                tar = self._next()
                self._begin({tar: sha256})
                try:
                    write_whole(tar, data, overwrite=False, check=lambda read: _are_right(samples, read), durable=True)
                except TakenError:
                    continue  # another process took the number meanwhile
                if isinstance(self._folder, Path):
                    sync_folder(self._folder)
                return tar
        except DiskError:
            raise
        except OutputError as error:
            # Else each of its attacks would be told as failed, for a reason that none of them has.
            raise DiskError(str(error)) from error
        except OSError as error:
            raise DiskError(f"cannot write to {self._folder}: {error.strerror or error}") from error
        except MemoryError:
            raise DiskError(f"memory is too short for {len(samples)} packed attacks; give a smaller --pack") from None

    def _next(self) -> Place:
        """Return the next place where there is no archive.

        Raises:
            OSError: the folder cannot be listed.
        """
        if self._number is None:
            self._number = first_free(names_in(self._folder), self._tag)
        while True:
            tar = self._folder / tar_name(self._number, self._tag)
            self._number += 1
            if not exists(tar):
                return tar


def _emptied(samples: Sequence[_Sample]) -> Iterator[tuple[str, bytes]]:
    """Yield the members of an archive, each of which is no longer held by its sample."""
    for sample in samples:
        for name in tuple(sample.files):
            yield name, sample.files.pop(name)


def _are_right(samples: Sequence[_Sample], data: bytes) -> bool:
    """Open an archive anew and tell whether it holds all samples, each adversarial PNG with the pixels judged."""
    expected = ((sample, name, sha256) for sample in samples for name, sha256 in sample.hashes.items())
    try:
        return all(
            name == wanted
            and hashlib.sha256(file).hexdigest() == sha256
            and (name != sample.name or _holds(sample, file))
            for (name, file), (sample, wanted, sha256) in zip(tars.contents(data), expected, strict=True)
        )
    except (OSError, ValueError, PhotoError):  # ValueError: more members, or fewer
        return False


def _holds(sample: _Sample, png: bytes) -> bool:
    reopened = decode_photo(png, source="the PNG", max_pixels=sample.size)
    return pixels_sha256(reopened.levels, reopened.alpha) == sample.pixels


def _as_written(sample: _Sample, tar: Place) -> Written:
    """Return the record of an attack that names its members, and the hashes of these."""
    outputs = {kind: str(tar / name) for kind, name in sample.places.items()}
    hashes = {kind: sample.hashes[name] for kind, name in sample.places.items()}
    return sample.record | {"outputs": outputs}, hashes, sample.stamp
