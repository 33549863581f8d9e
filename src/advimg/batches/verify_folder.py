"""A folder of results, checked again: each file that the journal names is held against what it says of it.

What the journal says is taken as a claim. A file is reopened from its bytes, compared with the photo, and judged by
the untouched networks; sizes and times of files, and records in PNGs, prove nothing here.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from advimg.batches.claims import FileVerification, Status, claims_of, differences_of
from advimg.batches.journal import read_attacks, store_of
from advimg.batches.journal_files import NAME
from advimg.batches.journal_segments import FOLDER
from advimg.batches.opened_files import OpenedFile, open_ahead
from advimg.batches.recorded_networks import RecordedNetworks
from advimg.changes import Change, cases_of, parse_changes
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import is_out_of_memory
from advimg.classifiers.spec import ModelSpec
from advimg.engine.capacity import free_cached
from advimg.errors import AdvimgError, ClassifierError, OutputError, UsageError, unreadable
from advimg.images.mask import Mask, mask_for
from advimg.images.photo import Photo
from advimg.record import NetworkRecord, Record
from advimg.record_schema import record_of
from advimg.recorded_models import check_once, class_of
from advimg.settings import MAX_PIXELS
from advimg.storage import stores
from advimg.storage.places import is_file, is_folder
from advimg.storage.url import Place, Url
from advimg.verification import Verification, check_promise


def journals_in(where: Place) -> list[Place]:
    """Return the folders whose journals tell of a folder: itself, or else those below it.

    Args:
        where: absolute, or a URL; or that of the journal itself.

    Raises:
        OutputError: there is none, or they cannot be looked for.
    """
    try:
        if where.name == NAME and (is_file(where) or not is_folder(where)):
            return [where.parent]
        if store_of(where).is_there():
            return [where]
        found = list(_below(where))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise OutputError(unreadable(where, error)) from error
    if not found:
        raise OutputError(f"{where} has no journal, nor has a folder in it; give a folder that advimg batch wrote to")
    return found


def _below(where: Place) -> Iterator[Place]:
    if isinstance(where, Path):
        for folder, folders, names in os.walk(where):
            folders.sort()
            if NAME in names:
                folders.clear()
                yield Path(folder)
        return
    found: dict[Url, None] = {}
    for url, _ in stores.listed(where):
        if url.suffix == ".jsonl" and url.parent.parent.name == FOLDER:
            found[url.parent.parent.parent] = None
    yield from (folder for folder in sorted(found) if not any(each in found for each in folder.parents))


class FolderCheck:
    """The check of a folder: iterate over it for what is found of each attack.

    Args:
        folder: with a journal, or with folders that have one; absolute, or a URL; or that of the journal itself.
        models: for those that records name and that are not loaded for a record alone: :mod:`advimg.recorded_models`.
        device: where networks are loaded.
        mask: the picture that says where photos might be changed, if there was one.
        after: changes instead of those that records name.
        max_pixels: the most pixels that a picture may have.
        progress: whether a download shows a progress bar on stderr.
        warn: called with a line for a person.

    Attributes:
        journals: the folders whose journals tell of it.
        total: how many attacks there are.
        unread: a line for each journal that has lines which are no records.

    Raises:
        OutputError: there is no journal, or one cannot be read or is empty.
        UsageError: no record names one of the models.
        ClassifierError: one of the models cannot be loaded.
    """

    def __init__(
        self,
        folder: Place,
        models: Sequence[ModelSpec | Classifier] = (),
        *,
        device: str = "auto",
        mask: Photo | None = None,
        after: tuple[Change, ...] | None = None,
        max_pixels: int = MAX_PIXELS,
        progress: bool = True,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.unread: list[str] = []
        self._mask = mask
        self._after = after
        self._max_pixels = max_pixels
        self._attacks: dict[tuple[str, ...], dict[str, list[dict[str, Any]]]] = {}  # by models and by photo

        def tell(line: str) -> None:
            self.unread.append(line)
            warn(line)

        self.journals = tuple(journals_in(folder))
        for journal in self.journals:
            for record in read_attacks(journal, warn=tell).values():
                by_photo = self._attacks.setdefault(_models_of(record), {})
                by_photo.setdefault(record["source"], []).append(record)
        self.total = sum(len(records) for by_photo in self._attacks.values() for records in by_photo.values())
        if not self.total:
            raise OutputError(f"the journal of {folder} has no record of an attack")
        named = dict.fromkeys(name for names in self._attacks for name in names)
        self._networks = RecordedNetworks(models, named, device=device, progress=progress, warn=warn)

    def __iter__(self) -> Iterator[FileVerification]:
        """Yield what is found of each attack: those on the same models together, those on one photo together."""
        groups = list(self._attacks.items())
        for number, (_, by_photo) in enumerate(groups):
            attacks = (record for records in by_photo.values() for record in records)
            with closing(open_ahead(attacks, self._max_pixels)) as opened:
                for values, photo, picture in opened:
                    yield self._checked(values, photo, picture)
            self._networks.keep({name for names, _ in groups[number + 1 :] for name in names})

    def _checked(
        self, values: Mapping[str, Any], photo: OpenedFile | None, picture: OpenedFile | None
    ) -> FileVerification:
        def ends(
            status: Status, *reasons: str, false_claim: bool = False, found: Sequence[Verification] = ()
        ) -> FileVerification:
            return FileVerification(
                file=values["outputs"].get("adversarial"),
                photo=values["source"],
                models=_models_of(values),
                status=status,
                false_claim=false_claim,
                reasons=reasons,
                recorded=claims_of(values),
                found=tuple(found),
            )

        if photo is None or picture is None:
            return ends("failed", values["error"])
        if picture.sha256 is None:
            return ends("not_checked", f"the file {picture.error}")
        altered = ["its bytes are not those that were recorded"] * (picture.sha256 != values["adversarial_sha256"])
        unsure: Status = "does_not_hold" if altered else "not_checked"
        if picture.photo is None:
            return ends(unsure, *altered, f"the file {picture.error}")
        if photo.photo is None or photo.sha256 != values["source_sha256"]:
            what = photo.error or "is another than the one that was attacked"
            return ends(unsure, *altered, f"its photo {values['source']} {what}")
        try:
            record = record_of(values)
            found = self._found(record, photo.photo, picture.photo)
            unknown = self._of_mask(record)
        except AdvimgError as error:
            return ends(unsure, *altered, str(error))
        differs = differences_of(record, found, altered=bool(altered))
        wrong = (*differs.false, *altered, *differs.wrong)
        status: Status = "holds"
        if wrong:
            status = "does_not_hold"
        elif unknown:
            status = "not_checked"
        elif differs.missed:
            status = "not_reached"
        return ends(status, *wrong, *unknown, *differs.missed, false_claim=bool(differs.false), found=found)

    def _found(self, record: Record, photo: Photo, picture: Photo) -> list[Verification]:
        """Hold a file against each model that its record names.

        Raises:
            AdvimgError: that cannot be done.
        """
        check_once(record.attacked, called="the file")
        cases = cases_of(self._after) if self._after is not None else _cases_of(record)
        free = mask_for(photo, self._mask) if self._mask is not None else None
        return [self._promise(record, network, photo, picture, free, cases) for network in record.attacked]

    def _promise(
        self,
        record: Record,
        network: NetworkRecord,
        photo: Photo,
        picture: Photo,
        free: Mask | None,
        cases: tuple[Change, ...],
    ) -> Verification:
        ensemble = self._networks.of(network)
        (classifier,) = ensemble.classifiers
        target = None if record.target_rule == "untargeted" else class_of(network.target, classifier.labels)
        try:
            return check_promise(
                picture,
                photo,
                target,
                ensemble=ensemble,
                eps=record.eps,
                norm=record.norm,
                mask=free,
                cases=cases,
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        free_cached(ensemble.device)
        raise ClassifierError(f"out of memory in {classifier.name}")

    def _of_mask(self, record: Record) -> tuple[str, ...]:
        """Say why it cannot be told whether a file is changed where its mask forbids it."""
        if record.mask_sha256 is None:
            return ()
        if self._mask is None:
            return ("its record names a mask; give --mask to check that nothing else is changed",)
        return () if record.mask_sha256 == self._mask.sha256 else ("this mask is not the one that its record names",)


def _models_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(each["model"]) for each in (record, *record["ensemble"]) if each.get("model"))


def _cases_of(record: Record) -> tuple[Change, ...]:
    """Return the changes that a record names.

    Raises:
        UsageError: they cannot be read.
    """
    try:
        return cases_of(parse_changes(record.survive)) if record.survive else ()
    except UsageError as error:
        raise UsageError(f"its record names changes that cannot be read ({error}); give --after") from None
