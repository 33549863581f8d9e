"""``advimg merge``: the results of several machines as one."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.command import Command, option
from advimg.cli.options import stream_options
from advimg.cli.param_types import PlaceType
from advimg.storage.url import place_of

_NAMED = 10
"""How many shards and reasons are named; of others the merge itself names so many."""

if TYPE_CHECKING:
    from advimg.batches.merge import Merged
    from advimg.batches.shards import Attack
    from advimg.cli.console import Console
    from advimg.storage.url import Place


@click.command(
    cls=Command, no_args_is_help=True, short_help="Bring the results of shards or of several batches together."
)
@click.argument("folders", nargs=-1, metavar="DIR...", type=PlaceType())
@option(
    "-O",
    "--out-dir",
    type=PlaceType(),
    group="Files",
    show_default="the deepest folder that holds every DIR",
    help="Folder for what is written; it holds every DIR.",
)
@option(
    "--check",
    is_flag=True,
    group="Files",
    help="Hold every PNG against its recorded hash; otherwise it is enough that it is there.",
)
@option(
    "-f",
    "--force",
    is_flag=True,
    group="Files",
    help="Overwrite a summary.json and a results.csv that are of no batch.",
)
@stream_options
@click.pass_context
def command(ctx: click.Context, /, folders: "tuple[Place, ...]", **given: Any) -> None:
    """Write one journal, table and sum for the shards in DIR, or for several folders of results of the same settings.

    The files stay where they are; results.jsonl, results.csv and summary.json above them name them by relative paths.
    It says what is missing: shards that are not there, and attacks of shards that have no record. Of an attack that is
    in several journals the record counts whose file shows the target, else one that has a file, else the first.

    Every DIR is only read, so batches may be running there; run it again for what has come since. advimg report takes
    the merged folder, and advimg batch with the same options and without --shard makes what is missing.

    \b
    Examples:
      advimg merge illusions
      advimg merge illusions --check --json
      advimg merge monday/ tuesday/ -O .

    \b
    Exit code: 0 everything is there and shows its target; 3 some files do not;
    1 something is missing or failed, or the merge; 2 wrong usage.
    """
    from advimg.batches.merge import merge
    from advimg.cli.console import Console

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    merged = merge(folders, out_dir=given["out_dir"], check=given["check"], force=given["force"], warn=console.warn)
    _print(merged, console)
    if given["as_json"]:
        click.echo(json.dumps(merged.to_dict()))
    ctx.exit(merged.exit_code)


def _print(merged: "Merged", console: "Console") -> None:
    from advimg.cli.console import shown_path

    stats = merged.stats
    what, count = ("shard", len(merged.shards)) if merged.shards else ("folder", len(merged.folders))
    sources = f" of {count} {what}{'s' * (count != 1)}"
    console.say(f"{stats.done} of {stats.total} attacks{sources}, in {shown_path(merged.folder)}", "bold")
    counts = [("verified", stats.verified), ("not reached", stats.not_reached), ("failed", len(stats.failures))]
    optional = [
        ("no answer", len(stats.unanswered)),
        ("missing", merged.missing),
        ("double", merged.double),
        ("file gone", merged.gone),
    ]
    for name, count in (*counts, *((name, count) for name, count in optional if count)):
        console.say(f"  {name:<12}{count:>7}")
    for line in _lines(merged):
        console.say(f"  {line}")


def _lines(merged: "Merged") -> Iterator[str]:
    """Yield what a person has to know of what is missing, double, gone or failed."""
    from advimg.cli.console import shown_path

    if merged.absent:
        named = _several([str(each) for each in merged.absent[:_NAMED]], len(merged.absent))
        yield f"missing: shard{'s' * (len(merged.absent) > 1)} {named}"
    for folder in merged.unknown:
        yield f"missing: {shown_path(folder)} has no shard.json; start its batch again, so that it says what it lacks"
    doubles = [
        f"{_of(each.attack)}: that of {shown_path(each.kept)} counts, not that of {shown_path(each.other)}"
        for each in merged.double_named
    ]
    gone = [shown_path(path) for path in merged.gone_named]
    reasons = list(dict.fromkeys(error for _, error in (*merged.stats.failures, *merged.stats.unanswered)))
    yield from _list("missing", [_of(each) for each in merged.missing_named], merged.missing_known)
    yield from _list("double", doubles, merged.double)
    yield from _list("file gone or altered", gone, merged.gone)
    yield from _list("failed", reasons[:_NAMED], len(reasons))
    if merged.plans > 1:
        yield f"the shards have {merged.plans} different plans: photos or targets came or went between their starts"


def _list(what: str, named: Sequence[str], count: int) -> Iterator[str]:
    for each in named:
        yield f"{what}: {each}"
    if count > len(named):
        yield f"{what}: and {count - len(named)} more"


def _several(named: Sequence[str], count: int) -> str:
    return ", ".join(named) + (f" and {count - len(named)} more" if count > len(named) else "")


def _of(attack: "Attack") -> str:
    """Return an attack for people; its target as the journal knows it."""
    from advimg.cli.console import shown_path

    eps = attack.eps if isinstance(attack.eps, str) else f"{attack.eps:g}"
    return f"{shown_path(place_of(attack.source))}, target {attack.target}, eps {eps}"
