"""``advimg sweep``: how often the attack succeeds against how much it may change."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from advimg.cli.command import Command, keep_nearest, option
from advimg.cli.options import (
    batch_options,
    check_worst_case,
    model_options,
    photo_options,
    precision_option,
    setting_option,
    settings_of,
    settings_options,
    specs_of,
    stream_options,
    targets_options,
    tell_of_confidence,
    true_labels_of,
)
from advimg.errors import ExitCode, OutputError, UsageError
from advimg.formatting import percent
from advimg.settings import Norm, parse_eps

if TYPE_CHECKING:
    from advimg.cli.console import Console
    from advimg.record import Target
    from advimg.report.robustness import Point
    from advimg.storage.url import Place

_NAMES = ("sweep.json", "sweep.csv", "sweep.png")
_BUDGETS = (1, 2, 4, 8, 16)


@click.command(cls=Command, no_args_is_help=True, short_help="Draw how robust models are: success against eps.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@targets_options
@setting_option(
    "eps",
    "budgets",
    show_default="1,2,4,8,16; as many halves with --norm l2",
    help="The budgets to try, in levels of 255, with commas between them.",
)
@settings_options(without=("eps", "max_eps"))
@option(
    "--fail-under",
    type=float,
    metavar="SHARE",
    group="What to reach",
    help="Exit with code 4 if a smaller share of photos, 0 to 1, withstands; every model has to reach it.",
)
@option(
    "--at-eps",
    metavar="LEVELS",
    group="What to reach",
    show_default="the largest of --eps",
    help="The budget at which --fail-under counts, one of --eps.",
)
@model_options(several="Given several times: a curve for each.", devices=True)
@precision_option
@batch_options
@photo_options
@stream_options
@click.pass_context
def command(ctx: click.Context, /, paths: tuple[str, ...], **given: Any) -> None:
    """Attack photos at several eps and draw how many files show their target, and how surely.

    PATH is a photo or a folder of photos. Each model has a folder of its own in OUT, with its adversarial PNGs and the
    journal; the same command, started again, goes on where the last run was stopped. The sum is OUT/sweep.json,
    OUT/sweep.csv and the plot OUT/sweep.png. With --survive it tells how many files hold after each change, too.

    With --true-labels it tells the accuracy on the photos (clean) and on the files (robust: of photos that the model is
    right about before and after), too.

    A photo withstands an eps if none of its files shows its target there, neither as it is nor after a change of
    --survive. With --fail-under the exit code tells whether enough photos do, for a check that runs by itself.

    \b
    Examples:
      advimg sweep photos/ -t random -O robustness
      advimg sweep photos/ -t random --eps 1,2,3,4 -m efficientnet_lite0 -m resnet50 -O robustness
      advimg sweep photos/ --untargeted --eps 1,2 -m mine.toml -O robustness --json
      advimg sweep photos/ --untargeted --eps 1,2,4 --fail-under 0.7 --at-eps 2 -m mine.toml -O robustness

    \b
    Exit code: 0 all attacks ran, successful or not; 1 some photos failed, or the run; 2 wrong usage;
    4 fewer photos withstand than --fail-under asks for; 130 interrupted (what is complete is kept).
    """
    from advimg.cli.console import Console

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    budgets = _budgets(given["budgets"], given["norm"])
    check_worst_case(ctx)
    gate = _gate(ctx, given, budgets)
    settings = settings_of(given | {"eps": budgets[0]})
    tell_of_confidence(given, console)
    keep_nearest(ctx, given, "targets", "untargeted")
    targets = given["targets"] + ("untargeted",) * given["untargeted"]
    if not targets:
        raise UsageError("which target class? give -t NAME, -t random, or --untargeted")
    from advimg.batches.photos import find_photos
    from advimg.storage.url import place

    found = find_photos(list(paths), out_dir=given["out_dir"], recursive=given["recursive"])

    # Only now the slow part: importing torch.
    from advimg.batches.journal import read_attacks
    from advimg.batches.pairs import read_targets, words_of
    from advimg.batches.plan import Files, Key
    from advimg.batches.run import opened
    from advimg.cli.progress import batch_run_options, run_shown, tell_interrupted
    from advimg.models import Models, told_apart
    from advimg.report.robustness import points_of

    folder = place(given["out_dir"])
    _check_own(folder, force=given["force"])
    work: list[tuple[Models, Files, list[Key], dict[Place, int]]] = []
    for spec in told_apart(specs_of(given["models"], given)):
        models = Models.of(spec).joined_by(words_of(targets))
        criteria = read_targets(targets, models.labels[0])
        true_labels = true_labels_of(given, found.photos, models, console)
        keys = [Key(photo, target, eps) for photo in found.photos for target in criteria for eps in budgets]
        name = re.sub(r"\W+", "_", spec.title or spec.model).strip("_")
        taken = sum(re.fullmatch(rf"{name}(_\d+)?", files.folder.name) is not None for _, files, _, _ in work)
        own = folder / (f"{name}_{taken + 1}" if taken else name)
        work.append((models, Files(folder=own, root=found.root, perturbation=False), keys, true_labels))
    records: list[dict[str, Any]] = []
    failed = False
    true_classes: dict[str, Mapping[str, Target]] = {}
    run_options = batch_run_options(given, settings, console)
    for models, files, keys, true_labels in work:
        with opened(keys, files, models, true_labels=true_labels, **run_options) as batch:
            true_classes |= batch.true_classes
            for line in batch.places:
                console.say(line, style="bold")
            ended = run_shown(batch, console, as_json=False)
            attacks = read_attacks(files.folder, warn=lambda _: None)  # told of when it was opened
        records += [attacks[key] for key in keys if key in attacks]
        failed = failed or bool(batch.stats.failures)
        if not ended:
            tell_interrupted(batch.stats, console)
            ctx.exit(ExitCode.INTERRUPTED)
    points = points_of(records, true_classes)
    _write(folder, points, _caption(records), norm=settings.norm)
    _print(points, folder, console)
    if given["as_json"]:
        click.echo(json.dumps([point.to_dict() for point in points]))
    robust = gate is None or _tell_of_gate(gate, records, console)
    ctx.exit(ExitCode.FAILED if failed else ExitCode.OK if robust else ExitCode.NOT_ROBUST)


class _Gate(NamedTuple):
    """What is asked of each model: the share of photos that withstand an eps."""

    share: float
    eps: float


def _gate(ctx: click.Context, given: Mapping[str, Any], budgets: Sequence[float]) -> _Gate | None:
    """Return what ``--fail-under`` and ``--at-eps`` ask for.

    Raises:
        UsageError: the share is none, or nothing is attacked at that eps.
    """
    share, at_eps = given["fail_under"], given["at_eps"]
    if share is None:
        if ctx.get_parameter_source("at_eps") is ParameterSource.COMMANDLINE:
            raise UsageError("--at-eps says where --fail-under counts; give that, or leave out --at-eps")
        return None
    if not 0 <= share <= 1:  # nor NaN
        raise UsageError(f"--fail-under {share:g}: give a share from 0 to 1, like 0.7")
    eps = budgets[-1] if at_eps is None else parse_eps(at_eps, given["norm"])
    if eps not in budgets:
        raise UsageError(f"--at-eps {eps:g} is not one of --eps {','.join(f'{each:g}' for each in budgets)}")
    return _Gate(share, eps)


def _tell_of_gate(gate: _Gate, records: Sequence[dict[str, Any]], console: "Console") -> bool:
    """Say how many photos withstand, a line for each model; tell whether they are enough for all of them."""
    from advimg.report.robustness import robustness_of

    enough = True
    for each in robustness_of(records, gate.eps):
        figure = (
            f"{each.model}: {percent(each.share)} of photos ({each.robust} of {each.photos}) withstand ε = {gate.eps:g}"
        )
        if each.share < gate.share:
            enough = False
            console.error(f"{figure}, less than --fail-under {percent(gate.share)}")
        else:
            console.say(f"{figure}; --fail-under asks for {percent(gate.share)}")
    return enough


def _budgets(text: str | None, norm: Norm) -> list[float]:
    """Return the values of ``--eps``, rising, each once."""
    if text is None:
        return [budget / 2 if norm == "l2" else budget for budget in _BUDGETS]
    return sorted({parse_eps(each, norm) for each in text.split(",")})


def _check_own(folder: "Place", *, force: bool) -> None:
    """Refuse a folder that has files of these names from elsewhere."""
    from advimg.outputs import is_summary
    from advimg.storage.places import exists

    there = [folder / name for name in _NAMES if exists(folder / name)]
    if there and not force and not is_summary(folder / _NAMES[0]):
        raise OutputError(f"{there[0]} exists and is not of a sweep; choose another -O, or --force")


def _caption(records: Sequence[dict[str, Any]]) -> str:
    photos = len({record["source"] for record in records})
    attacks = len({(record["source"], json.dumps(record["target_rule"] or record["target"])) for record in records})
    counted = f"{photos} photo{'s' * (photos != 1)}"
    return counted if attacks == photos else f"{counted}, {attacks} pairs of photo and target"


def _write(folder: "Place", points: "Sequence[Point]", caption: str, *, norm: str) -> None:
    from advimg import __version__
    from advimg.report.curves import draw_curves
    from advimg.report.robustness import to_csv
    from advimg.storage.places import write_whole

    sums = {"advimg": __version__, "norm": norm, "caption": caption, "points": [point.to_dict() for point in points]}
    contents = (json.dumps(sums, indent=2).encode("ascii") + b"\n", to_csv(points).encode(), None)
    for name, content in zip(_NAMES, contents, strict=True):
        data = draw_curves(points, caption=caption, norm=norm) if content is None else content
        write_whole(folder / name, data, overwrite=True)


def _print(points: "Sequence[Point]", folder: "Place", console: "Console") -> None:
    for line in (*_lines(points), *_lines_of_changes(points)):
        console.say(line)
    from advimg.cli.console import shown_path

    console.say(f"written: {', '.join(_NAMES)} in {shown_path(folder)}", style="bold")


def _lines(points: "Sequence[Point]") -> Iterator[str]:
    """Yield a table: model, eps, how many are verified, how surely; and accuracies, where true classes are known."""
    wide = max(len(point.model) for point in points)
    heads = f"{'ε':>4}  {'verified':>11}  {'share':>8}  {'95 %':>15}  {'confidence':>10}  {'gradients':>9}"
    labelled = any(point.labelled is not None for point in points)
    yield f"{'model':<{wide}}  {heads}" + f"  {'clean':>8}  {'robust':>8}" * labelled
    for point in points:
        span = f"{percent(point.share_low)} - {percent(point.share_high)}".replace(" %", "")
        counted = f"{point.verified} of {point.files}"
        yield (
            f"{point.model:<{wide}}  {point.eps:>4g}  {counted:>11}  {percent(point.share):>8}  {span:>15}  "
            f"{percent(point.confidence):>10}  {point.gradients:>9.1f}{_accuracies(point)}"
        )


def _accuracies(point: "Point") -> str:
    if point.clean_accuracy is None or point.robust_accuracy is None:
        return ""
    return f"  {percent(point.clean_accuracy):>8}  {percent(point.robust_accuracy):>8}"


def _lines_of_changes(points: "Sequence[Point]") -> Iterator[str]:
    """Yield a table for each model whose files are to survive changes: the share that holds, by change and eps."""
    from advimg.report.survival import ALL, in_words

    for model in dict.fromkeys(point.model for point in points if point.survives):
        shares: dict[str, dict[float, float]] = {}
        own = [point for point in points if point.model == model]
        for point in own:
            for each in point.survives:
                shares.setdefault(each.change, {})[point.eps] = each.share
        shares[ALL] = {point.eps: point.share for point in own if point.files}
        wide = max(len(in_words(change)) for change in shares)
        yield f"files that hold, by {model}"
        heads = (f"ε = {point.eps:g}" for point in own)
        yield f"{'':<{wide}}{''.join(f'{head:>10}' for head in heads)}"
        for change, by_eps in shares.items():
            cells = (percent(by_eps[point.eps]) if point.eps in by_eps else "-" for point in own)
            yield f"{in_words(change):<{wide}}{''.join(f'{cell:>10}' for cell in cells)}"
