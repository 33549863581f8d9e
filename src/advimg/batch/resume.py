"""What an earlier run did already, and what is still to do."""

import hashlib
import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advimg.batch.journal import Entry, Journal, differences
from advimg.batch.plan import Files, Item, Key, plan_items
from advimg.errors import OutputError
from advimg.labels import Labels
from advimg.settings import Eps


@dataclass(frozen=True, slots=True)
class Work:
    """A plan held against the journal.

    Attributes:
        pending: what is to do.
        standing: what stands.
    """

    pending: list[Item]
    standing: list[Entry]


def sort_out(
    keys: Sequence[Key],
    files: Files,
    labels: Labels,
    journal: Journal,
    *,
    asked: Callable[[Eps], dict[str, Any]],
    force: bool,
    retry_failed: bool,
) -> Work:
    """Hold a plan against the journal, and take out of the journal what does not stand.

    An attack stands if its photo is the same, its files are there, and the PNG has the recorded hash.

    Args:
        keys: at least one, each once.
        files: which are wanted.
        labels: the classes' names.
        journal: of the output folder.
        asked: the settings that a record has in this run, by its eps.
        force: whether other settings, and files that are not the journal's, are no obstacle.
        retry_failed: whether attacks that failed are to do again.

    Raises:
        OutputError: the folder was begun with other settings, or a file is in the way.
    """
    gone = _superseded(keys, journal, asked, force=force)
    recorded = {
        key: entry.outputs["adversarial"]
        for key, entry in journal.entries.items()
        if key not in gone and "adversarial" in entry.outputs
    }
    items = plan_items(keys, files, labels, recorded=recorded)
    for key in keys:
        entry = journal.entries.get(key)
        if entry is not None and not _stands(entry, files, retry_failed=retry_failed):
            gone.add(key)
    pending = [item for item in items if item.key in gone or item.key not in journal.entries]
    if not force:
        _check_room(pending, {path for key in gone for path in journal.entries[key].outputs.values()}, journal.folder)
    # Nothing is changed before it is known that the run can begin.
    journal.drop(gone)
    return Work(pending, [journal.entries[key] for key in keys if key in journal.entries])


def file_sha256(path: Path) -> str | None:
    """Return the hash of a file's bytes; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None


def _superseded(
    keys: Sequence[Key], journal: Journal, asked: Callable[[Eps], dict[str, Any]], *, force: bool
) -> set[Key]:
    """Refuse a folder that was begun with other settings; with ``force``, return what will be made anew."""
    # Of this run's eps only: that of an earlier one may be none in this run's norm.
    here = {eps: asked(eps) for eps in {key.eps for key in keys}}
    any_of_them = here[keys[0].eps]
    wanted = {(key.source, key.target) for key in keys}
    superseded = set()
    for key, entry in journal.entries.items():
        if key.eps in here:
            differing = differences(entry.settings, here[key.eps])
        else:
            differing = [
                f"eps {key.eps} there, {' and '.join(sorted(map(str, here)))} here",
                *differences(entry.settings, any_of_them, same_eps=False),
            ]
        if differing and not force:
            raise OutputError(
                f"{journal.folder} was begun with other settings ({'; '.join(differing)}); choose another -O, or "
                "--force to attack anew"
            )
        if differing and (key.source, key.target) in wanted:
            superseded.add(key)
    return superseded


def _stands(entry: Entry, files: Files, *, retry_failed: bool) -> bool:
    content = file_sha256(entry.key.source)
    if entry.error is not None:
        return not retry_failed and content == entry.source_sha256
    if content is not None and content != entry.source_sha256:
        return False
    adversarial = entry.outputs["adversarial"]
    wanted = dict(files.named(adversarial))
    return (
        file_sha256(adversarial) == entry.adversarial_sha256
        and wanted.items() <= entry.outputs.items()
        and all(map(os.path.isfile, wanted.values()))
    )


def _check_room(pending: Sequence[Item], own: Container[Path], folder: Path) -> None:
    for item in pending:
        for _, path in item.outputs:
            if os.path.lexists(path) and path not in own:
                raise OutputError(
                    f"{path} exists and is not in {folder}'s journal; choose another -O, or --force to overwrite such "
                    "files"
                )
