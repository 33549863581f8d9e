"""``advimg batch``: many photos, one loaded network, one folder of results."""

import sys
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.command import Command, keep_nearest, option
from advimg.cli.options import (
    batch_options,
    check_of_use,
    check_option,
    model_options,
    models_of,
    photo_options,
    picture_options,
    precision_option,
    settings_of,
    settings_options,
    stream_options,
    targets_options,
    tell_of_confidence,
    true_labels_of,
)
from advimg.errors import ExitCode, PhotoError, UsageError, unreadable
from advimg.settings import Settings

if TYPE_CHECKING:
    from advimg.batches.photos import Found
    from advimg.batches.plan import Key
    from advimg.batches.shards import Shard
    from advimg.cli.console import Console
    from advimg.models import Models


@click.command(
    cls=Command, no_args_is_help=True, short_help="Attack folders of photos; can be stopped and started again."
)
@click.argument("paths", nargs=-1, metavar="PATH...")
@targets_options
@option("--from-file", metavar="FILE", group="Photos", help="Read more paths from a file, one a line; - reads stdin.")
@option(
    "--targets",
    "table",
    metavar="CSV",
    group="Photos",
    help="Read photos and targets from a table with the header path,target or path,target,eps.",
)
@settings_options()
@model_options(several="Given several times: one file fools them all.", devices=True)
@check_option
@precision_option
@batch_options
@option(
    "--shard",
    metavar="K/N",
    group="Photos",
    help="Attack only this share of the photos, 1/N to N/N, each on another machine, in the folder OUT/shard-K-of-N. "
    "A photo's path below the folder of all PATHs decides, so shares are equal on average only. `advimg merge` brings "
    "them together.",
)
@picture_options(figure=False)
@option(
    "--report",
    is_flag=True,
    group="Files",
    help="At the end write a gallery for the browser, OUT/report/index.html.",
)
@photo_options
@stream_options
@click.pass_context
def command(ctx: click.Context, /, paths: tuple[str, ...], **given: Any) -> None:
    """Attack many photos on one loaded network, several at a time, on one device or on several.

    PATH is a photo, a folder of photos, or a tar archive of photos. The outputs mirror the tree below the folder that
    holds all PATHs: OUT/sub/dog_pelican.png and OUT/sub/dog_pelican_perturbation.png for sub/dog.jpg. A photo that
    fails does not stop the rest.

    OUT/results.jsonl is the journal, one record a line, OUT/results.csv the same as a table for a spreadsheet, and
    OUT/summary.json the sum. The same command, started again, goes on where the last run was stopped or killed: what is
    recorded, and whose photo and PNG are still the same, is passed over.

    With --shard several machines share the photos, without knowing of each other; `advimg merge OUT` at the end.

    With --pack N the files of N attacks are members of one archive, OUT/results-00000.tar/sub/dog_pelican.png, and so
    the journal names them. An attack that is made again gets a member of a new archive: it is the journal that says
    which one counts.

    With --true-labels the sum and the table tell the accuracy of each model, too: on the photos (clean), and on photos
    and files alike (robust).

    \b
    Examples:
      advimg batch photos/ -t pelican -O illusions
      advimg batch photos/ -r -t pelican -t broccoli -t random --eps 4 -O illusions
      find . -name '*.jpg' | advimg batch --from-file - -t least-likely -O illusions
      advimg batch --targets pairs.csv -O illusions --json
      advimg batch photos/ -r --untargeted --true-labels folders -O illusions
      advimg batch photos/ -r -t pelican --shard 3/16 -O illusions
      advimg batch train-000.tar -t random --pack 1000 -O illusions

    \b
    Exit code: 0 all files show their target; 3 some do not; 1 some photos failed, or the run;
    2 wrong usage; 130 interrupted (what is complete is kept).
    """
    from advimg.cli.console import Console

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    settings = settings_of(given)
    check_of_use(ctx, given, settings)
    tell_of_confidence(given, console)
    keep_nearest(ctx, given, "targets", "untargeted", "table")
    targets = given["targets"] + ("untargeted",) * given["untargeted"]
    if given["table"] and (paths or given["from_file"] or targets):
        raise UsageError("--targets names photos and targets; leave out PATH, --from-file, -t and --untargeted")
    if not given["table"] and not targets:
        raise UsageError("which target class? give -t NAME, --untargeted, or --targets CSV")
    shard = _shard(given["shard"])
    found = None if given["table"] else _find(paths, given, console)

    # Only now the slow part: importing torch.
    from advimg.batches.pairs import words_of
    from advimg.batches.photos import common_root
    from advimg.batches.plan import Files
    from advimg.batches.run import opened
    from advimg.batches.shards import Share
    from advimg.cli.progress import batch_run_options, print_summary, run_shown, tell_interrupted
    from advimg.storage.url import place

    models = models_of(given).joined_by(words_of(targets))
    keys = _keys_of(found, targets, given, settings, models, console)
    true_labels = true_labels_of(given, dict.fromkeys(key.source for key in keys), models, console)
    folder, root = place(given["out_dir"]), found.root if found else common_root(key.source.parent for key in keys)
    share = None if shard is None else Share.of(shard, keys, root=root)
    if share:
        keys, folder = share.keys, folder / share.shard.folder_name
        true_labels = {key.source: true_labels[key.source] for key in keys if key.source in true_labels}
        if not keys:
            share.write_empty(folder)
            console.say(f"shard {share.shard} has none of the {share.planned} attacks: there is nothing to do")
            ctx.exit(ExitCode.OK)
    files = Files(
        folder=folder,
        root=root,
        amplify=given["amplify"],
        perturbation=given["perturbation"],
        figure=given["figure"],
    )
    if given["report"]:
        from advimg.report.gallery import check_gallery

        check_gallery(files.folder, force=given["force"])
    run_options = batch_run_options(given, settings, console)
    with opened(keys, files, models, true_labels=true_labels, **run_options) as batch:
        if share:
            share.write(folder)
            console.say(f"shard {share.shard}: {len(keys)} of {share.planned} attacks")
        for line in batch.places:
            console.detail(line)
        ended = run_shown(batch, console, as_json=given["as_json"])
    print_summary(batch.stats, files.folder, console)
    if not ended:
        tell_interrupted(batch.stats, console)
        ctx.exit(ExitCode.INTERRUPTED)
    if given["report"]:
        from advimg.cli.report import write_report

        write_report(files.folder, console, force=given["force"])
    ctx.exit(batch.stats.exit_code)


def _shard(text: str | None) -> "Shard | None":
    if text is None:
        return None
    from advimg.batches.shards import Shard

    return Shard.parse(text)


def _find(paths: tuple[str, ...], given: dict[str, Any], console: "Console") -> "Found":
    from advimg.batches.photos import find_photos, read_list

    named = list(paths)
    if given["from_file"] == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("--from-file - reads paths from stdin; pipe them in")
        named += read_list(sys.stdin.buffer, name="stdin")
    elif given["from_file"]:
        named += read_list(_read(given["from_file"]).splitlines(), name=given["from_file"])
    if not named:
        raise UsageError("which photos? give PATH, --from-file or --targets")
    found = find_photos(named, out_dir=given["out_dir"], recursive=given["recursive"])
    _warn_of_own(found.own, console)
    return found


def _keys_of(
    found: "Found | None",
    targets: tuple[str, ...],
    given: dict[str, Any],
    settings: Settings,
    models: "Models",
    console: "Console",
) -> "list[Key]":
    from advimg.batches.pairs import read_pairs, read_targets
    from advimg.batches.photos import is_output
    from advimg.batches.plan import each_pair, each_target
    from advimg.batches.table import open_table

    labels, others = models.labels[0], models.other_labels
    if found is not None:
        return each_target(found.photos, read_targets(targets, labels, others), settings.eps)
    name = given["table"]
    pairs = read_pairs(open_table(name), labels, others, name=name, norm=settings.norm)
    taken = [pair for pair in pairs if not is_output(pair.path, given["out_dir"])]
    if not taken:
        raise UsageError(f"{name} names only pictures that advimg wrote, which are never taken as photos")
    _warn_of_own(len(pairs) - len(taken), console)
    return each_pair(taken, settings.eps)


def _warn_of_own(count: int, console: "Console") -> None:
    if count:
        console.warn(f"{count} of the files were written by advimg or are in the output folder; passed over")


def _read(name: str) -> bytes:
    from advimg.storage.places import read_bytes
    from advimg.storage.url import path_or_url

    try:
        return read_bytes(path_or_url(name))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PhotoError(unreadable(name, error)) from error
