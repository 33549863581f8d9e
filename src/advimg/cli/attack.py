"""``advimg attack``: one photo in, one verified adversarial PNG out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.command import Command, keep_nearest, option
from advimg.cli.options import (
    check_of_use,
    check_option,
    mask_option,
    model_options,
    models_of,
    photo_options,
    picture_options,
    precision_option,
    settings_of,
    settings_options,
    stream_options,
    target_option,
    tell_of_confidence,
    untargeted_option,
)
from advimg.cli.param_types import PlaceType
from advimg.errors import ExitCode, OutputError, UsageError
from advimg.storage.url import path_or_url

if TYPE_CHECKING:
    from advimg.outcome import Outcome
    from advimg.outputs import Outputs
    from advimg.storage.url import Place


@click.command(cls=Command, no_args_is_help=True, short_help="Make a photo look like another class to a classifier.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE")
@target_option()
@untargeted_option
@settings_options()
@mask_option("Change the photo only where this picture, of the same size, is white.")
@model_options(several="Given several times: one file fools them all.")
@check_option
@precision_option
@option(
    "-o",
    "--output",
    metavar="FILE",
    group="Files",
    help="Name of the adversarial PNG; - writes it, and no other file, to stdout.",
)
@option(
    "-O",
    "--out-dir",
    type=PlaceType(),
    show_default="this folder",
    group="Files",
    help="Folder for the outputs.",
)
@picture_options(figure=True)
@option("--trace", metavar="FILE", group="Files", help="Write the attack's steps, too: an animated .webp or .gif.")
@option("-f", "--force", is_flag=True, group="Files", help="Overwrite files that are there.")
@photo_options
@stream_options
@click.pass_context
def command(ctx: click.Context, /, images: tuple[str, ...], **given: Any) -> None:
    """Make a photo look like another class to a classifier.

    Writes IMAGE_TARGET.png, IMAGE_TARGET_perturbation.png (amplified) and IMAGE_TARGET_figure.png.
    IMAGE is a JPEG, PNG, WebP, BMP, TIFF or GIF file; - reads it from stdin.

    \b
    Examples:
      advimg attack dog.jpg --target pelican
      advimg attack dog.jpg -t pelican --eps 2 --model efficientnet_lite0
      advimg attack dog.jpg -t least-likely --model timm/vit_base_patch16_224
      advimg attack dog.jpg -t pelican -m resnet50 -m vit_b_16 --check-on densenet121
      advimg attack dog.jpg -t pelican --check-on "exec:python judge.py"
      advimg attack dog.jpg -t pelican --survive jpeg:75,resize:0.5+webp:60-90
      advimg attack - -t 144 -o - < dog.jpg > pelican.png

    \b
    Exit code: 0 the file shows the target, also after each change of --survive;
    3 it does not, or not after one of them, the best attempt is written;
    1 something failed, nothing is written, unless it was a program of --check-on; 2 wrong usage.
    """
    from advimg.cli.console import Console
    from advimg.cli.one_photo import attack_shown, describe, read_input, read_mask
    from advimg.outputs import default_name, plan_outputs, trace_path

    if len(images) > 1:
        raise UsageError(f"attack takes one photo and {len(images)} were given; `advimg batch` takes many, and folders")
    keep_nearest(ctx, given, "target", "untargeted")
    keep_nearest(ctx, given, "output", "out_dir")
    target = given["target"] or "untargeted"
    if given["target"] is None and not given["untargeted"]:
        raise UsageError("which target class? give -t NAME, or --untargeted")
    if given["target"] is not None and given["untargeted"]:
        raise UsageError("give -t or --untargeted")
    to_stdout = _wants_stdout(given["output"], given["out_dir"], as_json=given["as_json"])
    trace = None if given["trace"] is None else trace_path(given["trace"])
    if to_stdout and trace is not None:
        raise UsageError("-o - writes no file besides; leave out --trace, or name the output")
    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    settings = settings_of(given)
    check_of_use(ctx, given, settings)
    tell_of_confidence(given, console)
    photo = read_input(images[0], max_pixels=given["max_pixels"])
    mask = read_mask(given["mask"], photo, max_pixels=given["max_pixels"])
    # Only now the slow part: importing torch.
    from advimg.target_names import target_slug
    from advimg.tracing import Tracer
    from advimg.writing import write_outputs

    models = models_of(given).joined_by([target])
    criterion = models.read_target(target)
    outputs = None
    if not to_stdout:
        slug = target_slug(criterion, models.labels[0])
        outputs = plan_outputs(
            path_or_url(given["output"] or (given["out_dir"] or Path()) / default_name(photo.source, slug)),
            figure=given["figure"],
            perturbation=given["perturbation"],
            trace=trace,
        )
        outputs.check(overwrite=given["force"], photo=path_or_url(images[0]))
        _keep_mask(given["mask"], outputs)
    attacked, check_on = models.load(given["device"], progress=not given["quiet"])
    tracer = Tracer(photo, attacked, amplify=given["amplify"]) if trace is not None else None
    outcome = attack_shown(
        console,
        photo,
        criterion,
        attacked,
        settings=settings,
        mask=mask,
        check_on=check_on,
        precision=given["precision"],
        tracer=tracer,
    )
    record = outcome.record
    if outputs is None:
        sys.stdout.buffer.write(_checked_png(outcome, metadata=given["metadata"]))
        sys.stdout.buffer.flush()
    else:
        record = write_outputs(
            outcome,
            outputs,
            amplify=given["amplify"],
            metadata=given["metadata"],
            overwrite=given["force"],
            unfolding=tracer.unfolding if tracer else None,
        )
    describe(record, console)
    if given["as_json"]:
        click.echo(record.to_json())
    if any(seen.error for seen in record.checked):
        ctx.exit(ExitCode.FAILED)
    ctx.exit(ExitCode.OK if record.fooled else ExitCode.NOT_REACHED)


def _keep_mask(mask: "Place | None", outputs: "Outputs") -> None:
    from advimg.storage.places import is_same_file

    for _, path in outputs:
        if mask is not None and is_same_file(path, mask):
            raise OutputError(f"{path} is the mask itself; give the output another name")


def _wants_stdout(output: str | None, out_dir: Path | None, *, as_json: bool) -> bool:
    if output and out_dir:
        raise UsageError("-o names one file and -O a folder; give one of them")
    if output != "-":
        return False
    if as_json:
        raise UsageError("-o - and --json both want stdout; give one of them")
    if sys.stdout is None or sys.stdout.isatty():
        raise UsageError("-o - would write a PNG to the terminal; redirect stdout to a file or a pipe")
    return True


def _checked_png(outcome: "Outcome", *, metadata: bool) -> bytes:
    png = outcome.png(metadata=metadata)
    if not outcome.holds(png):
        raise AssertionError("the PNG does not decode to the picture that was judged")
    return png
