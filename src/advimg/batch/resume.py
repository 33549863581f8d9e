"""What an earlier run did already, and what is still to do."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advimg.batch.journal import Entry, Journal, changed
from advimg.batch.plan import Files, Item, Key, plan_items
from advimg.errors import OutputError
from advimg.labels import Labels


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
    asked: Callable[[int], tuple[Any, ...]],
    force: bool,
    retry_failed: bool,
) -> Work:
    """Hold a plan against the journal, and take out of the journal what does not stand.

    An attack stands if its photo is the same, its files are there, and the PNG has the recorded hash.

    Args:
        keys: each once.
        files: which are wanted.
        labels: the classes' names.
        journal: of the output folder.
        asked: the settings that a record with an eps has in this run.
        force: whether other settings, and files that are not the journal's, are no obstacle.
        retry_failed: whether attacks that failed are to do again.

    Raises:
        OutputError: the folder was begun with other settings, or a file is in the way.
    """
    _supersede(keys, journal, asked, force=force)
    stale = {
        key
        for key in keys
        if (entry := journal.entries.get(key)) is not None and not _stands(entry, files, retry_failed=retry_failed)
    }
    recorded = {
        key: entry.outputs["adversarial"] for key, entry in journal.entries.items() if "adversarial" in entry.outputs
    }
    items = plan_items(keys, files, labels, recorded=recorded)
    journal.drop(stale)
    pending = [item for item in items if item.key not in journal.entries]
    if not force:
        _check_room(pending, journal)
    return Work(pending, [journal.entries[key] for key in keys if key in journal.entries])


def file_sha256(path: Path) -> str | None:
    """Return the hash of a file's bytes; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None


def _supersede(keys: Sequence[Key], journal: Journal, asked: Callable[[int], tuple[Any, ...]], *, force: bool) -> None:
    """Refuse a folder that was begun with other settings; with ``force``, drop what will be made anew."""
    budgets = {key.eps for key in keys}
    wanted = {(key.source, key.target) for key in keys}
    superseded = []
    for key, entry in journal.entries.items():
        differing = changed(entry.asked, asked(key.eps))
        if key.eps not in budgets:
            differing.insert(0, f"eps {key.eps} there, {' and '.join(map(str, sorted(budgets)))} here")
        if differing and not force:
            raise OutputError(
                f"{journal.folder} was begun with other settings ({'; '.join(differing)}); choose another -O, or "
                "--force to attack anew"
            )
        if differing and (key.source, key.target) in wanted:
            superseded.append(key)
    journal.drop(superseded)


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
        and all(path.is_file() for path in wanted.values())
    )


def _check_room(pending: Sequence[Item], journal: Journal) -> None:
    for item in pending:
        for _, path in item.outputs:
            if path.exists() and not journal.owns(path):
                raise OutputError(
                    f"{path} exists and is not in {journal.folder}'s journal; choose another -O, or --force to "
                    "overwrite such files"
                )
