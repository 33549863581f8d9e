"""Which attacks an earlier run has finished, and which are still to be made."""

import os
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from advimg.batches.journal import Entry, Journal, differences
from advimg.batches.journal_files import sha256_or_none
from advimg.batches.moved import moved_photos
from advimg.batches.options import Options
from advimg.batches.packed import unpacked
from advimg.batches.plan import Files, Item, Key, plan_items
from advimg.errors import OutputError
from advimg.images.perturbation import Amplify, shown_in
from advimg.labels import Labels
from advimg.settings import Eps
from advimg.storage.files import is_inside
from advimg.storage.places import is_there


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
    sha256_of = cache(sha256_or_none)  # each photo is read once
    journal.rename(moved_photos((key.source for key in keys), journal.entries.values(), sha256_of))
    repeated = _of_other_settings(keys, journal, asked, force=options.force)
    recorded = {
        key: adversarial
        for key, entry in journal.entries.items()
        if key not in repeated
        and "adversarial" in entry.outputs
        and _is_usable(adversarial := unpacked(entry.outputs["adversarial"]), journal)
    }
    items = plan_items(keys, files, labels, recorded=recorded, packed=options.pack is not None)
    tried_with = [] if options.retry_failed else [options.tried_with(device) for device in devices]
    for key in keys:
        entry = journal.entries.get(key)
        if entry is None:
            continue
        answered = not (options.retry_failed and entry.unanswered)
        if not (answered and _is_finished(entry, files, sha256_of(key.source), tried_with)):
            repeated.add(key)
    # What is made anew has the pictures that it had, whether or not this run asks for them.
    pending = [
        replace(
            item,
            outputs=files.outputs_for(item.outputs.adversarial, also=journal.entries[item.key].outputs),
        )
        if item.key in repeated
        else item
        for item in items
        if item.key in repeated or item.key not in journal.entries
    ]
    if not options.force and options.pack is None:  # an archive takes a number that is free
        _check_absent(pending, {path for key in repeated for path in journal.own_files(journal.entries[key])}, journal)
    # Nothing is changed before it is known that the run can begin.
    journal.remove(repeated)
    return Work(pending, [journal.entries[key] for key in keys if key in journal.entries])


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
    for key, entry in journal.entries.items():
        if key.eps in here:
            differing = differences(entry.settings, here[key.eps])
        else:
            differing = [
                f"eps {key.eps} there, {' and '.join(sorted(map(str, here)))} here",
                *differences(entry.settings, here[keys[0].eps], same_eps=False),
            ]
        if differing and not force:
            raise OutputError(
                f"{journal.folder} was begun with other settings ({'; '.join(differing)}); choose another -O, or "
                "--force to attack anew"
            )
        if differing and (key.source, key.target) in wanted:
            repeated.add(key)
    return repeated


def _is_finished(entry: Entry, files: Files, content: str | None, tried_with: Sequence[Mapping[str, Any]]) -> bool:
    if entry.error is not None:
        return entry.tried_with in tried_with and content == entry.source_sha256
    if content is not None and content != entry.source_sha256:
        return False
    adversarial = entry.outputs["adversarial"]
    wanted = dict(files.outputs_for(adversarial))
    # As recorded: perturbations of 0.1 had other names.
    written = [entry.outputs[kind] for kind in wanted if kind in entry.outputs]
    return (
        sha256_or_none(adversarial) == entry.outputs_sha256.get("adversarial")
        and len(written) == len(wanted)
        and all(map(is_there, written))
        and ("perturbation" not in wanted or _is_shown(entry.outputs["perturbation"], files.amplify))
    )


def _is_shown(perturbation: Path, amplify: Amplify) -> bool:
    """Tell whether a perturbation's picture was asked for with a factor; one that does not say so is taken as it is."""
    shown = shown_in(perturbation)
    return shown is None or shown.asked == amplify


def _is_usable(adversarial: Path, journal: Journal) -> bool:
    """Tell whether an attack may be made again under the name of its file: not if that leads out of the folder."""
    return is_inside(adversarial, journal.folder) or not os.path.lexists(adversarial)


def _check_absent(pending: Sequence[Item], repeated: Container[Path], journal: Journal) -> None:
    for item in pending:
        for _, path in item.outputs:
            if os.path.lexists(path) and path not in repeated:
                raise OutputError(
                    f"{path} exists and is not in {journal.folder}'s journal, or no longer what it was; choose another "
                    "-O, or --force to overwrite such files"
                )
