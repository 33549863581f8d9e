"""``advimg verify`` of a folder: a table of what holds, and the files that do not."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.options import specs_of
from advimg.errors import ExitCode

if TYPE_CHECKING:
    from advimg.batches.claims import FileVerification
    from advimg.cli.console import Console
    from advimg.storage.url import Place

_NAMED = 10
"""How many lines name files that do not hold."""
_SAID: dict[str, str] = {
    "does_not_hold": "does not hold",
    "not_checked": "cannot be checked",
    "not_reached": "not reached, as its record says",
    "failed": "the attack failed",
}
"""What is said of a file by its status, the worst first."""
_COLUMNS = {
    "hold": "holds",
    "do not hold": "does_not_hold",
    "cannot be checked": "not_checked",
    "not reached": "not_reached",
    "failed": "failed",
}
"""The statuses by the heads of their columns; the last two are there only if a file has them."""
_ALWAYS = 3


def verify_folder(where: "Place", given: Mapping[str, Any], console: "Console") -> ExitCode:
    """Check a folder of results, and say what was found.

    Args:
        where: the folder, or its journal.
        given: the options of the command.
        console: to print on.

    Raises:
        AdvimgError: there is no journal, a model or the mask cannot be read, or no record names a model.
    """
    # Only now the slow part: importing torch.
    from advimg.batches.claims import FolderVerification
    from advimg.batches.verify_folder import FolderCheck
    from advimg.changes import parse_changes
    from advimg.cli.console import shown_path
    from advimg.images.decode import read_photo
    from advimg.storage.url import place

    folder = place(where)
    check = FolderCheck(
        folder,
        specs_of(given["models"], given),
        device=given["device"],
        mask=read_photo(given["mask"], max_pixels=given["max_pixels"]) if given["mask"] else None,
        after=None if given["after"] is None else parse_changes(given["after"]) if given["after"] else (),
        max_pixels=given["max_pixels"],
        progress=not given["quiet"],
        warn=console.warn,
    )
    files: list[FileVerification] = []
    interrupted = False
    with console.moving_line(total=check.total, done=0, wanted=not given["as_json"]) as move:
        try:
            for each in check:
                files.append(each)
                if given["as_json"]:
                    click.echo(json.dumps(each.to_dict()))
                if move is not None:
                    move(len(files), _standing(files))
        except KeyboardInterrupt:
            interrupted = True
    found = FolderVerification(tuple(files), tuple(check.unread))
    root = check.journals[0] if len(check.journals) == 1 else folder
    several = f"{len(check.journals)} journals" if len(check.journals) > 1 else "its journal"
    console.say(f"{shown_path(root)}, checked against {several}", style="bold")
    _print(found.files, root, console)
    if interrupted:
        console.error(f"interrupted; {len(files)} of {check.total} are checked")
        return ExitCode.INTERRUPTED
    console.say(_sum(found.files, unread=bool(found.unread)), style="bold")
    return found.exit_code


def _standing(files: "Sequence[FileVerification]") -> str:
    wrong = sum(each.status != "holds" for each in files)
    return f"{len(files) - wrong} hold" + (f", {wrong} do not" if wrong else "")


def _print(files: "Sequence[FileVerification]", root: "Place", console: "Console") -> None:
    for line in _table(files):
        console.say(line)
    lines = list(_lines(files, root))
    for line in lines[:_NAMED]:
        console.say(f"  {line}", style="red")
    if len(lines) > _NAMED:
        console.say(f"  and {len(lines) - _NAMED} more; --json has them all", style="red")


def _table(files: "Sequence[FileVerification]") -> Iterator[str]:
    """Yield a line for each model: how many files there are, and how many of them are of which status."""
    by_model: dict[str, list[str]] = {}
    for each in files:
        by_model.setdefault(" and ".join(each.models), []).append(each.status)
    there = {each.status for each in files}
    columns = [head for number, (head, status) in enumerate(_COLUMNS.items()) if number < _ALWAYS or status in there]
    wide = max(20, *(len(name) for name in by_model)) if by_model else 20
    yield f"  {'':<{wide}}  {'files':>6}" + "".join(f"  {head:>6}" for head in columns)
    for name, statuses in by_model.items():
        counts = (statuses.count(_COLUMNS[head]) for head in columns)
        cells = "".join(f"  {count:>{max(6, len(head))}}" for head, count in zip(columns, counts, strict=True))
        yield f"  {name:<{wide}}  {len(statuses) - statuses.count('failed'):>6}{cells}"


def _lines(files: "Sequence[FileVerification]", root: "Place") -> Iterator[str]:
    """Yield a line for each file that is not as it has to be, the worst first.

    Those that cannot be checked, or failed, for one reason share a line.
    """
    order = list(_SAID)
    wrong = [each for each in files if each.status != "holds"]
    lines: dict[tuple[str, str, str], list[str]] = {}
    for each in sorted(wrong, key=lambda each: (not each.false_claim, order.index(each.status))):
        name = _name(each, root)
        own = "" if each.status in ("not_checked", "failed") else name
        lines.setdefault((_SAID[each.status], "; ".join(each.reasons), own), []).append(name)
    for (said, reasons, _), (name, *others) in lines.items():
        yield f"{name}{f' and {len(others)} more' if others else ''}: {said}: {reasons}"


def _name(each: "FileVerification", root: "Place") -> str:
    """Return the name of a file within its folder; where the attack failed, of the photo."""
    from advimg.cli.console import shown_path
    from advimg.storage.url import is_below, path_or_url, relative

    path = path_or_url(each.file or each.photo)
    return relative(path, root) if is_below(path, root) else shown_path(path)


def _sum(files: "Sequence[FileVerification]", *, unread: bool) -> str:
    failed = sum(each.status == "failed" for each in files)
    held, written = sum(each.status == "holds" for each in files), len(files) - failed
    of_all = f"all {held} files" if held > 1 else "the one file"
    parts = [f"the promise holds for {of_all if 0 < held == written else f'{held} of {written} files'}"]
    parts += [f"{failed} attack{'s' * (failed > 1)} failed"] * bool(failed)
    parts += ["not all lines of the journal are records"] * unread
    return "; ".join(parts)
