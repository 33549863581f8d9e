"""Which attacks an earlier run has finished, and which are still to be made."""

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from advimg.batches.contents import Contents
from advimg.batches.journal import Journal
from advimg.batches.journal_entry import Entry, differences
from advimg.batches.moved import moved_photos
from advimg.batches.options import Options
from advimg.batches.packed import unpacked
from advimg.batches.plan import Files, Item, Key, plan_items
from advimg.errors import OutputError
from advimg.images.perturbation import Amplify, shown_in
from advimg.labels import Labels
from advimg.settings import Eps
from advimg.storage.files import is_file_itself, is_inside_folder
from advimg.storage.places import exists
from advimg.storage.url import Place, Url, place_of

_MANY = 1000
"""Of more attacks, photos in a store are listed, and not asked for one by one."""


class Work(NamedTuple):
    """The attacks of a batch: those that are still to be made, and the journal's entries of the finished ones."""

    pending: list[Item]
    finished: list[Entry]


def compare_with_journal(
    keys: Sequence[Key],
    files: Files,
    labels: Labels,
    journal: Journal,
    *,
    asked: Callable[[Eps], dict[str, Any]],
    options: Options,
    devices: Collection[str],
) -> Work:
    """Compare a plan with the journal, and remove from the journal the attacks that are to be repeated.

    An attack is finished if its photo is the same, its files exist, and the PNG has the recorded hash. A photo is known
    by its content: one that was renamed or moved keeps its results.

    Args:
        keys: at least one, each once.
        files: the files that are wanted.
        labels: the names of the classes.
        journal: of the output folder.
        asked: the settings of a record of this run, by its eps.
        options: of this run.
        devices: the types of its devices.

    Raises:
        OutputError: the folder was begun with other settings, or a file is in the way.
    """
    many = [files.root] if len(keys) > _MANY else []  # the folder of a few photos may be a whole bucket
    contents = Contents(journal.entries.values(), [files.folder, *many])
    journal.rename(moved_photos((key.source for key in keys), journal.entries.values(), contents.sha256_of))
    of_other_settings = _of_other_settings(keys, journal, asked, force=options.force)
    tried_with = [] if options.retry_failed else [options.tried_with(device) for device in devices]
    repeated = set(of_other_settings)
    for key in keys:
        entry = journal.entries.get(key)
        if entry is None:
            continue
        answered = not (options.retry_failed and entry.unanswered)
        if not (answered and _is_finished(entry, files, contents, tried_with)):
            repeated.add(key)
    undone = [key for key in keys if key in repeated or key not in journal.entries]
    recorded = _recorded(journal, of_other_settings) if undone else {}
    items = plan_items(undone, files, labels, recorded=recorded, packed=options.pack is not None)
    # What is made anew has the pictures that it had, whether or not this run asks for them.
    pending = [
        replace(
            item,
            outputs=files.outputs_for(item.outputs.adversarial, also=journal.entries[item.key].outputs),
        )
        if item.key in repeated
        else item
        for item in items
    ]
    if not options.force and options.pack is None:  # an archive takes a number that is free
        own = {path for key in repeated for path in journal.own_files(journal.entries[key])}
        _check_absent(pending, own, journal, contents)
    # Nothing is changed before it is known that the run can begin.
    stamps = {key: contents.stamps_of(entry) for key, entry in journal.entries.items()} if contents.read else {}
    journal.restamp({key: new for key, new in stamps.items() if new})
    journal.remove(repeated)
    return Work(pending, [journal.entries[key] for key in keys if key in journal.entries])


def _recorded(journal: Journal, of_other_settings: Container[Key]) -> dict[Key, Place]:
    """Return the PNGs of attacks that keep their names, even where they are made anew."""
    inside = cache(lambda folder: isinstance(journal.folder, Path) and is_inside_folder(folder, journal.folder))
    recorded = {}
    for key, entry in journal.entries.items():
        adversarial = entry.file("adversarial")
        if key not in of_other_settings and adversarial is not None:
            # Not if the name leads out of the folder.
            path = unpacked(place_of(adversarial.path))
            if isinstance(path, Url) or (inside(path.parent) and is_file_itself(path)) or not exists(path):
                recorded[key] = path
    return recorded


def _of_other_settings(
    keys: Sequence[Key], journal: Journal, asked: Callable[[Eps], dict[str, Any]], *, force: bool
) -> set[Key]:
    """Return the attacks of the journal that had other settings and are wanted again.

    Raises:
        OutputError: an attack had other settings, and ``force`` is false.
    """
    # Only with the eps of this run: an earlier one may be out of range in this run's norm.
    here = {eps: asked(eps) for eps in {key.eps for key in keys}}
    wanted = {(key.source, key.target) for key in keys}
    repeated = set()
    compared: dict[tuple[int, Eps], list[str]] = {}  # most entries share their settings
    for key, entry in journal.entries.items():
        pair = id(entry.settings), key.eps
        if pair not in compared:
            compared[pair] = _differences(entry, here, keys[0].eps)
        differing = compared[pair]
        if differing and not force:
            raise OutputError(
                f"{journal.folder} was begun with other settings ({'; '.join(differing)}); choose another -O, or "
                "--force to attack anew"
            )
        if differing and (key.source, key.target) in wanted:
            repeated.add(key)
    return repeated


def _differences(entry: Entry, here: Mapping[Eps, Mapping[str, Any]], first: Eps) -> list[str]:
    """Say in which settings an attack differs from this run's.

    Args:
        entry: of the journal.
        here: the settings of this run, by their eps.
        first: one of these eps.
    """
    eps = entry.key.eps
    if eps in here:
        return differences(entry.settings, here[eps])
    return [
        f"eps {eps} there, {' and '.join(sorted(map(str, here)))} here",
        *differences(entry.settings, here[first], same_eps=False),
    ]


def _is_finished(entry: Entry, files: Files, contents: Contents, tried_with: Sequence[Mapping[str, Any]]) -> bool:
    content = contents.sha256_of(entry.key.source)
    if entry.error is not None:
        return entry.tried_with in tried_with and content == entry.source_sha256
    if content is not None and content != entry.source_sha256:
        return False
    for kind in files.kinds:
        written = entry.file(kind)
        if written is None:
            return False
        unchanged = contents.holds(written)
        if not unchanged and (kind == "adversarial" or not contents.is_there(place_of(written.path))):
            return False
        if kind == "perturbation":
            asked = entry.amplify if unchanged else None
            if asked != files.amplify and (asked is not None or not _is_shown(place_of(written.path), files.amplify)):
                return False
    return True


def _is_shown(perturbation: Place, amplify: Amplify) -> bool:
    """Tell whether a perturbation's picture was asked for with a factor; one that does not say so is taken as it is."""
    shown = shown_in(perturbation)
    return shown is None or shown.asked == amplify


def _check_absent(pending: Sequence[Item], repeated: Container[Place], journal: Journal, contents: Contents) -> None:
    for item in pending:
        for _, path in item.outputs:
            if contents.is_there(path) and path not in repeated:
                raise OutputError(
                    f"{path} exists and is not in {journal.folder}'s journal, or no longer what it was; choose another "
                    "-O, or --force to overwrite such files"
                )
