"""``advimg batch``: many photos, one loaded network, one folder of results."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.help_groups import GroupedCommand
from advimg.cli.options.attack import attack_options, batch_size_option, settings_of
from advimg.cli.options.eps import eps_options
from advimg.cli.options.models import check_option, model_options
from advimg.cli.options.pictures import photo_options, picture_options
from advimg.cli.options.streams import stream_options
from advimg.cli.options.target import targets_option, untargeted_option
from advimg.errors import PhotoError, UsageError
from advimg.settings import Settings

if TYPE_CHECKING:
    from advimg.batch.photos import Found
    from advimg.batch.plan import Key
    from advimg.cli.console import Console
    from advimg.cli.networks import Networks


@click.command(
    cls=GroupedCommand, no_args_is_help=True, short_help="Attack folders of photos; can be stopped and started again."
)
@click.argument("paths", nargs=-1, metavar="PATH...")
@targets_option()
@untargeted_option()
@click.option(
    "-O", "--out-dir", type=click.Path(path_type=Path), required=True, help="Folder for the outputs and the journal."
)
@click.option("-r", "--recursive", is_flag=True, help="ForwardPass into the folders of folders.")
@click.option("--from-file", metavar="FILE", help="Read more paths from a file, one a line; - reads stdin.")
@click.option(
    "--targets",
    "table",
    metavar="CSV",
    help="Read photos and targets from a table with the header path,target or path,target,eps.",
)
@eps_options()
@model_options(several="Given several times: one file fools them all.", devices=True)
@check_option()
@batch_size_option()
@attack_options()
@picture_options(figure=False)
@click.option("--report", is_flag=True, help="At the end write a gallery for the browser, OUT/report/index.html.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed in an earlier run.")
@click.option("-f", "--force", is_flag=True, help="Overwrite files that are there, and results of other settings.")
@photo_options()
@stream_options()
@click.pass_context
def command(ctx: click.Context, /, paths: tuple[str, ...], targets: tuple[str, ...], **given: Any) -> None:
    """Attack many photos on one loaded network, several at a time, on one device or on several.

    PATH is a photo or a folder of photos. The outputs mirror the tree below the folder that holds all PATHs:
    OUT/sub/dog_pelican.png and OUT/sub/dog_pelican_x10.png for sub/dog.jpg. A photo that fails does not stop the rest.

    OUT/results.jsonl is the journal, one record a line, and OUT/summary.json the sum. The same command, started again,
    goes on where the last run was stopped or killed: what is recorded, and whose photo and PNG are still the same, is
    passed over.

    \b
    Examples:
      advimg batch photos/ -t pelican -O illusions
      advimg batch photos/ -r -t pelican -t broccoli -t random --eps 4 -O illusions
      find . -name '*.jpg' | advimg batch --from-file - -t least-likely -O illusions
      advimg batch --targets pairs.csv -O illusions --json

    \b
    Exit code: 0 all files show their target; 3 some do not; 1 some photos failed, or the run;
    2 wrong usage; 130 interrupted (what is complete is kept).
    """
    from advimg.cli.console import Console

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    settings = settings_of(given)
    targets += ("untargeted",) * given["untargeted"]
    if given["table"] and (paths or given["from_file"] or targets):
        raise UsageError("--targets names photos and targets; leave out PATH, --from-file, -t and --untargeted")
    if not given["table"] and not targets:
        raise UsageError("towards what? give -t NAME, --untargeted, or --targets CSV")
    found = None if given["table"] else _find(paths, given, console)

    # Only now the slow part: importing torch.
    from advimg.batch.journal import Journal
    from advimg.batch.photos import absolute, common_root
    from advimg.batch.plan import Files
    from advimg.batch.run import Batch
    from advimg.cli.many_photos import executor_of, options_of, perform, places_of, tell_interrupted
    from advimg.cli.networks import networks_of
    from advimg.cli.progress import print_summary
    from advimg.cli.signals import INTERRUPTED
    from advimg.engine.allocator import keep_freed_memory

    keep_freed_memory()

    networks = networks_of(given)
    keys = _keys_of(found, targets, given, settings, networks, console)
    files = Files(
        folder=absolute(given["out_dir"]),
        root=found.root if found else common_root(key.source.parent for key in keys),
        amplify=given["amplify"],
        perturbation=given["perturbation"],
        figure=given["figure"],
    )
    files.outputs_for(Path("any.png"))  # is the factor in range?
    if given["report"]:
        from advimg.report.gallery import check_gallery

        check_gallery(files.folder, force=given["force"])
    how = options_of(given, settings)
    with Journal.opened(files.folder) as journal:
        executor = executor_of(networks.attacked, networks.watching, given, console)
        for place in places_of(executor):
            console.detail(place)
        batch = Batch(keys, files, executor, journal, how)
        ended = perform(batch, console, as_json=given["as_json"])
    print_summary(batch.stats, files.folder, console)
    if not ended:
        tell_interrupted(batch, console)
        ctx.exit(INTERRUPTED)
    if given["report"]:
        from advimg.cli.report import write_report

        write_report(files.folder, console, force=given["force"])
    ctx.exit(batch.stats.exit_code)


def _find(paths: tuple[str, ...], given: dict[str, Any], console: "Console") -> "Found":
    from advimg.batch.photos import find_photos, read_list

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
    _tell_of_own(found.own, console)
    return found


def _keys_of(
    found: "Found | None",
    targets: tuple[str, ...],
    given: dict[str, Any],
    settings: Settings,
    networks: "Networks",
    console: "Console",
) -> "list[Key]":
    from advimg.batch.pairs import read_pairs, read_targets
    from advimg.batch.photos import is_output
    from advimg.batch.plan import each_pair, each_target

    labels, others = networks.labels[0], networks.others
    if found is not None:
        return each_target(found.photos, read_targets(targets, labels, others), settings.eps)
    name = given["table"]
    pairs = read_pairs(
        io.StringIO(_decoded(_read(name), name), newline=""), labels, others, name=name, norm=settings.norm
    )
    taken = [pair for pair in pairs if not is_output(pair.path, given["out_dir"])]
    if not taken:
        raise UsageError(f"{name} names only pictures that advimg wrote, which are never taken as photos")
    _tell_of_own(len(pairs) - len(taken), console)
    return each_pair(taken, settings.eps)


def _tell_of_own(count: int, console: "Console") -> None:
    if count:
        console.warn(f"{count} of the files were written by advimg or are in the output folder; passed over")


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise PhotoError(f"{name} cannot be read: {reason}") from error


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8 text") from None
