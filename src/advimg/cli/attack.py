"""``advimg attack``: one photo in, one verified adversarial PNG out."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advimg.cli import options
from advimg.cli.inputs import read_input
from advimg.errors import UsageError
from advimg.settings import Settings

if TYPE_CHECKING:
    from advimg.classifiers.classifier import Classifier
    from advimg.cli.console import Console
    from advimg.images.photo import Photo
    from advimg.outcome import Outcome
    from advimg.outputs import Outputs

NOT_REACHED = 3
"""The exit code when the best attempt was written and the target not reached."""


@click.command(no_args_is_help=True, short_help="Make a photo look like another class to a classifier.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE")
@options.target_option(required=True)
@options.eps_option(default=10)
@options.model_options()
@click.option("--confidence", default=0.9, help="Stop once the file shows the target with this confidence.")
@click.option("--steps", default=100, help="The most steps from each start.")
@click.option("--step-size", type=float, show_default="half of eps", help="Length of a step, in levels.")
@click.option("--momentum", default=0.75, help="Share of the last step's direction that stays; 0 is plain PGD.")
@click.option("--loss", type=click.Choice(["ce", "margin"]), default="ce", help="Cross-entropy or logit margin.")
@click.option("--restarts", default=0, help="Further starts at random points, for a photo that resists.")
@click.option("--seed", default=0, help="Seeds the random starts.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", help="Of the gradients only.")
@click.option(
    "-o", "--output", metavar="FILE", help="Name of the adversarial PNG; - writes it, and no other file, to stdout."
)
@click.option(
    "-O", "--out-dir", type=click.Path(path_type=Path), show_default="this folder", help="Folder for the outputs."
)
@click.option(
    "--amplify", type=click.FloatRange(min=0, min_open=True), default=10, help="Factor of the perturbation picture."
)
@click.option("--figure/--no-figure", default=True, help="Draw photo, perturbation and result side by side.")
@click.option("--metadata/--no-metadata", default=True, help="Store the record in the PNG's text chunk.")
@click.option("-f", "--force", is_flag=True, help="Overwrite files that are there.")
@options.photo_options()
@options.stream_options()
@click.pass_context
def command(ctx: click.Context, /, images: tuple[str, ...], target: str, **given: Any) -> None:
    """Make a photo look like another class to a classifier.

    Writes IMAGE_TARGET.png, IMAGE_TARGET_x10.png (the perturbation, amplified) and IMAGE_TARGET_figure.png.
    IMAGE is a JPEG, PNG, WebP, BMP, TIFF or GIF file; - reads it from stdin.

    \b
    Examples:
      advimg attack dog.jpg --target pelican
      advimg attack dog.jpg -t pelican --eps 2 --model efficientnet_lite0
      advimg attack - -t 144 -o - < dog.jpg > pelican.png

    \b
    Exit code: 0 the file shows the target; 3 it does not, the best attempt is written;
    1 something failed, nothing is written; 2 wrong usage.
    """
    from advimg.cli.console import Console

    if len(images) > 1:
        raise UsageError(
            f"attack takes one photo and {len(images)} were given; call it once for each "
            "(`advimg batch`, for folders, is not part of this version)"
        )
    to_stdout = _wants_stdout(given["output"], given["out_dir"], as_json=given["as_json"])
    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    settings = Settings(
        **{
            name: given[name]
            for name in ("eps", "confidence", "steps", "step_size", "momentum", "loss", "restarts", "seed")
        }
    )
    photo = read_input(images[0], max_pixels=given["max_pixels"])
    # Only now the slow part: importing torch.
    from advimg.classifiers.load import load_classifier
    from advimg.outputs import default_name, plan_outputs

    classifier = load_classifier(
        given["model"], weights=given["weights"], device=given["device"], progress=not given["quiet"]
    )
    index = classifier.labels.find(target)
    outputs = None
    if not to_stdout:
        name = given["output"] or (given["out_dir"] or Path()) / default_name(
            photo.source, classifier.labels.slug(index)
        )
        outputs = plan_outputs(Path(name), amplify=given["amplify"], figure=given["figure"])
        outputs.check(overwrite=given["force"])
    outcome = perform(photo, index, classifier, settings, precision=given["precision"], console=console)
    if outputs is None:
        sys.stdout.buffer.write(_checked_png(outcome, metadata=given["metadata"]))
        sys.stdout.buffer.flush()
    else:
        outcome = write(
            outcome, outputs, amplify=given["amplify"], metadata=given["metadata"], overwrite=given["force"]
        )
    tell(outcome, console)
    if given["as_json"]:
        click.echo(outcome.record.to_json())
    ctx.exit(0 if outcome.record.fooled else NOT_REACHED)


def perform(
    photo: "Photo", target: int, classifier: "Classifier", settings: Settings, *, precision: Any, console: "Console"
) -> "Outcome":
    """Attack one photo under the eyes of a person."""
    from advimg.engine.engine import Engine
    from advimg.engine.slot import Job
    from advimg.outcome import outcome_of

    for note in photo.notes:
        console.warn(note)
    engine = Engine(classifier, precision=precision)
    console.detail(f"{classifier.name} on {classifier.device}, gradients in {engine.precision}")
    with console.watching(classifier.labels[target], settings.steps) as watch:
        (result,) = engine.run([Job(photo=photo, target=target, settings=settings)], watch=watch)
    return outcome_of(result, classifier, engine.precision)


def write(outcome: "Outcome", outputs: "Outputs", *, amplify: float, metadata: bool, overwrite: bool) -> "Outcome":
    """Write the files of an attack, the adversarial PNG first, and return the outcome with their paths recorded."""
    from advimg.images.encode import encode_png
    from advimg.images.files import write_whole

    outcome.save(outputs.adversarial, metadata=metadata, overwrite=overwrite)
    if outputs.perturbation is not None:
        write_whole(outputs.perturbation, encode_png(outcome.perturbation(amplify)), overwrite=overwrite)
    if outputs.figure is not None:
        from advimg.report.figure import draw_figure  # matplotlib takes a while to import

        figure = draw_figure(outcome.record, outcome.photo.levels, outcome.levels, amplify=amplify)
        write_whole(outputs.figure, figure, overwrite=overwrite)
    return replace(outcome, record=replace(outcome.record, outputs={key: str(path) for key, path in outputs}))


def tell(outcome: "Outcome", console: "Console") -> None:
    """Say what came of an attack."""
    from advimg.cli.console import percent

    record = outcome.record
    was, now = record.before[0], record.after[0]
    console.say(
        f"{record.source}: {was.name} {percent(was.confidence)} → {now.name} {percent(now.confidence)}", style="bold"
    )
    console.say(
        f"  ε = {record.eps}: no channel moved more than {record.linf} of 255 levels; {record.steps} steps, "
        f"{record.gradients} gradients, {record.seconds:.1f} s"
    )
    if console.verbose:
        console.guesses([("before", record.before), ("after", record.after)], target=record.target.index)
    for key, path in record.outputs.items():
        console.say(f"  {key:<13}{path}")
    if not record.fooled:
        console.warn(
            f"{record.target.name} was not reached (it is at {percent(record.confidence)}); this is the best attempt. "
            "Try a larger --eps, more --steps, or --restarts"
        )
    elif record.confidence < record.min_confidence:
        console.warn(
            f"{record.target.name} is top-1 at {percent(record.confidence)}, short of the "
            f"{percent(record.min_confidence)} asked for"
        )


def _wants_stdout(output: str | None, out_dir: Path | None, *, as_json: bool) -> bool:
    if output and out_dir:
        raise UsageError("-o names one file and -O a folder; give one of them")
    if output != "-":
        return False
    if as_json:
        raise UsageError("-o - and --json both want stdout; give one of them")
    if sys.stdout.isatty():
        raise UsageError("-o - would write a PNG to the terminal; redirect stdout to a file or a pipe")
    return True


def _checked_png(outcome: "Outcome", *, metadata: bool) -> bytes:
    png = outcome.png(metadata=metadata)
    if not outcome.holds(png):
        raise AssertionError("the PNG does not decode to the picture that was judged")
    return png
