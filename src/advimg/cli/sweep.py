"""``advimg sweep``: how often the attack succeeds against how much it may change."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.help_groups import GroupedCommand
from advimg.cli.options.attack import attack_options, batch_size_option, settings_of
from advimg.cli.options.eps import budgets_of, budgets_options
from advimg.cli.options.models import model_options, specs_of
from advimg.cli.options.pictures import photo_options
from advimg.cli.options.streams import stream_options
from advimg.cli.options.target import targets_option, untargeted_option
from advimg.errors import OutputError, UsageError
from advimg.record import percent

if TYPE_CHECKING:
    from advimg.batch.journal import Journal
    from advimg.batch.photos import Found
    from advimg.batch.plan import Key
    from advimg.batch.run import Batch
    from advimg.classifiers.spec import ModelSpec
    from advimg.cli.console import Console
    from advimg.report.robustness import Point

_NAMES = ("sweep.json", "sweep.csv", "sweep.png")


@click.command(cls=GroupedCommand, no_args_is_help=True, short_help="Draw how robust models are: success against eps.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@targets_option()
@untargeted_option()
@click.option("-O", "--out-dir", type=click.Path(path_type=Path), required=True, help="Folder for all that is written.")
@click.option("-r", "--recursive", is_flag=True, help="ForwardPass into the folders of folders.")
@budgets_options()
@model_options(several="Given several times: a curve for each.", devices=True)
@batch_size_option()
@attack_options()
@click.option("--retry-failed", is_flag=True, help="Try again what failed in an earlier run.")
@click.option("-f", "--force", is_flag=True, help="Overwrite files that are there, and results of other settings.")
@photo_options()
@stream_options()
@click.pass_context
def command(ctx: click.Context, /, paths: tuple[str, ...], targets: tuple[str, ...], **given: Any) -> None:
    """Attack photos at several eps and draw how many files show their target, and how surely.

    PATH is a photo or a folder of photos. Each model has a folder of its own in OUT, with its adversarial PNGs and the
    journal; the same command, started again, goes on where the last run was stopped. The sum is OUT/sweep.json,
    OUT/sweep.csv and the plot OUT/sweep.png.

    \b
    Examples:
      advimg sweep photos/ -t random -O robustness
      advimg sweep photos/ -t random --eps 1,2,3,4 -m efficientnet_lite0 -m resnet50 -O robustness
      advimg sweep photos/ --untargeted --eps 1,2 -m mine.toml -O robustness --json

    \b
    Exit code: 0 all attacks ran, whatever came of them; 1 some photos failed, or the run; 2 wrong usage;
    130 interrupted (what is complete is kept).
    """
    from advimg.cli.console import Console

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    budgets = budgets_of(given)
    settings = settings_of(given | {"eps": budgets[0]})
    targets += ("untargeted",) * given["untargeted"]
    if not targets:
        raise UsageError("towards what? give -t NAME, -t random, or --untargeted")
    from advimg.batch.photos import find_photos

    found = find_photos(list(paths), out_dir=given["out_dir"], recursive=given["recursive"])

    # Only now the slow part: importing torch.
    from advimg.batch.journal import Journal, read_attacks
    from advimg.batch.photos import absolute
    from advimg.classifiers.load import labels_of
    from advimg.cli.many_photos import options_of, perform, tell_interrupted
    from advimg.cli.signals import INTERRUPTED
    from advimg.engine.allocator import keep_freed_memory
    from advimg.report.robustness import points_of

    keep_freed_memory()
    folder = absolute(given["out_dir"])
    _check_own(folder, force=given["force"])
    specs = specs_of(given["models"], given)
    work = [(spec, folder / _slug(spec), _keys(found, targets, budgets, spec, labels_of)) for spec in specs]
    how = options_of(given, settings)
    records: list[dict[str, Any]] = []
    failed = False
    for spec, own, keys in work:
        with Journal.opened(own) as journal:
            batch = _batch(spec, own, keys, found, journal, how, given, console)
            ended = perform(batch, console, as_json=False)
            found_there = read_attacks(own)
            records += [found_there[key] for key in keys if key in found_there]
        failed = failed or bool(batch.stats.failures)
        if not ended:
            tell_interrupted(batch, console)
            ctx.exit(INTERRUPTED)
    points = points_of(records)
    _write(folder, points, _caption(records), norm=settings.norm)
    _tell(points, folder, console)
    if given["as_json"]:
        click.echo(json.dumps([asdict(point) for point in points]))
    ctx.exit(1 if failed else 0)


def _keys(
    found: "Found", targets: tuple[str, ...], budgets: Sequence[float], spec: "ModelSpec", labels_of: Any
) -> "list[Key]":
    """Return each photo x each target x each eps, those of one photo together."""
    from advimg.batch.pairs import read_targets
    from advimg.batch.plan import Key

    aims = read_targets(targets, labels_of(spec))
    return [Key(photo, aim, eps) for photo in found.photos for aim in aims for eps in budgets]


def _batch(
    spec: "ModelSpec",
    folder: Path,
    keys: "Sequence[Key]",
    found: "Found",
    journal: "Journal",
    how: Any,
    given: dict[str, Any],
    console: "Console",
) -> "Batch":
    from advimg.batch.plan import Files
    from advimg.batch.run import Batch
    from advimg.cli.many_photos import executor_of, places_of

    executor = executor_of([spec], [], given, console)
    for place in places_of(executor):
        console.say(place, style="bold")
    return Batch(keys, Files(folder=folder, root=found.root, perturbation=False), executor, journal, how)


def _slug(spec: "ModelSpec") -> str:
    return re.sub(r"\W+", "_", spec.title or spec.model).strip("_")


def _check_own(folder: Path, *, force: bool) -> None:
    """Refuse a folder that has files of these names from elsewhere."""
    from advimg.outputs import is_summary

    there = [folder / name for name in _NAMES if os.path.lexists(folder / name)]
    if there and not force and not is_summary(folder / _NAMES[0]):
        raise OutputError(f"{there[0]} exists and is not of a sweep; choose another -O, or --force")


def _caption(records: Sequence[dict[str, Any]]) -> str:
    photos = len({record["source"] for record in records})
    attacks = len({(record["source"], json.dumps(record["target_rule"] or record["target"])) for record in records})
    counted = f"{photos} photo{'s' * (photos != 1)}"
    return counted if attacks == photos else f"{counted}, {attacks} pairs of photo and target"


def _write(folder: Path, points: "Sequence[Point]", caption: str, *, norm: str) -> None:
    from advimg import __version__
    from advimg.images.files import write_whole
    from advimg.report.curves import draw_curves
    from advimg.report.robustness import to_csv

    sums = {"advimg": __version__, "norm": norm, "caption": caption, "points": [asdict(point) for point in points]}
    contents = (json.dumps(sums, indent=2).encode("ascii") + b"\n", to_csv(points).encode(), None)
    for name, content in zip(_NAMES, contents, strict=True):
        data = draw_curves(points, caption=caption, norm=norm) if content is None else content
        write_whole(folder / name, data, overwrite=True)


def _tell(points: "Sequence[Point]", folder: Path, console: "Console") -> None:
    for line in _lines(points):
        console.say(line)
    from advimg.cli.console import shown_path

    console.say(f"written: {', '.join(_NAMES)} in {shown_path(folder)}", style="bold")


def _lines(points: "Sequence[Point]") -> Iterator[str]:
    """Yield a table: model, eps, how many are verified, how surely."""
    wide = max(len(point.model) for point in points)
    heads = f"{'ε':>4}  {'verified':>11}  {'share':>8}  {'95 %':>15}  {'confidence':>10}  {'gradients':>9}"
    yield f"{'model':<{wide}}  {heads}"
    for point in points:
        span = f"{percent(point.share_low)} - {percent(point.share_high)}".replace(" %", "")
        counted = f"{point.verified} of {point.files}"
        yield (
            f"{point.model:<{wide}}  {point.eps:>4g}  {counted:>11}  {percent(point.share):>8}  {span:>15}  "
            f"{percent(point.confidence):>10}  {point.gradients:>9.1f}"
        )
