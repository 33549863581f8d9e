"""``advimg verify``: hold a file against its original and a classifier, or a folder of files against its journal."""

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from advimg.cli.command import Command, option
from advimg.cli.options import (
    RECORDED,
    mask_option,
    model_options,
    photo_options,
    setting_option,
    stream_options,
    target_option,
)
from advimg.cli.param_types import PlaceType
from advimg.errors import PhotoError, UsageError, unreadable

if TYPE_CHECKING:
    from advimg.storage.url import Place

_OF_ONE_FILE = ("original", "target", "norm", "eps")
"""Options that a folder's records answer."""
_FROM_RECORD: dict[str, Any] = {"default": None, "show_default": "what the PNG's record says"}


@click.command(cls=Command, no_args_is_help=True, short_help="Check the promise on a file, or on a folder of results.")
@click.argument("adversarial", type=PlaceType(), metavar="ADV|DIR")
@option(
    "--original",
    type=PlaceType(),
    metavar="PHOTO",
    group="Photos",
    help="The photo that ADV was made from; required with it.",
)
@target_option(recorded=True)
@setting_option("norm", **_FROM_RECORD)
@setting_option("eps", **_FROM_RECORD, help="The most that may have changed, in levels of 255 (10 or 10/255).")
@option(
    "--after",
    metavar="CHANGE,...",
    group="What to reach",
    help="The file is to be the target after each of these changes, too, written as for `attack --survive`: jpeg:75, "
    f"resize:0.5+jpeg:75, web; '' is none. {RECORDED}",
)
@mask_option("Check that nothing is changed where this picture is not white.")
@model_options(several="Given several times: the promise is for all.", default=None)
@photo_options
@stream_options
@click.pass_context
def command(ctx: click.Context, /, adversarial: "Place", original: "Place | None", **given: Any) -> None:
    """Check the promise on a file, whoever made it, or on all that advimg batch wrote to a folder.

    ADV has the size of PHOTO, with its transparency and colour profile, no colour channel of any pixel differs by more
    than eps levels, and reopened through the classifier's official preprocessing it is the target, also after each
    change that it is to survive. Of an untargeted file that is any class but the one that is seen in PHOTO. What the
    options leave out is read from the PNG's own record, but for the preprocessing: that is the published one, or what
    the options say, and a record that names another does not hold. A model that is not on disk, and one with weights or
    a file of its own, has to be given with -m.

    DIR has a journal, results.jsonl, or folders that have one, such as those of a sweep. Each adversarial PNG in it is
    checked from its bytes, and against its record: file and photo are those that were recorded, the promise holds, and
    the record does not say more of it than is found. The pictures beside it, and what networks of --check-on saw, are
    not. Each network is loaded once; -m is for the records that name the model.

    \b
    Examples:
      advimg verify dog_pelican.png --original dog.jpg
      advimg verify theirs.png --original dog.jpg -t pelican -e 8 -m resnet50:IMAGENET1K_V1
      advimg verify theirs.png --original dog.jpg -t pelican -e 8 --after jpeg:75,resize:0.5
      advimg verify illusions/

    \b
    Exit code: 0 the promise holds; 3 it does not;
    1 a file cannot be read or checked, or its attack failed; 2 wrong usage; 130 interrupted.
    """
    from advimg.cli.console import Console

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    if _holds_several(adversarial):
        from advimg.cli.verify_folder import verify_folder

        for name in _OF_ONE_FILE:
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise UsageError(f"--{name} is for a single file; the records of {adversarial} say it for theirs")
        ctx.exit(verify_folder(adversarial, given, console))
    if original is None:
        from advimg.storage.places import exists

        if not exists(adversarial):
            raise PhotoError(f"{adversarial} does not exist; check the path")
        (param,) = (each for each in ctx.command.params if each.name == "original")
        raise click.MissingParameter(ctx=ctx, param=param)
    from advimg.cli.verify_file import verify_file

    ctx.exit(verify_file(adversarial, original, given, console))


def _holds_several(where: "Place") -> bool:
    """Tell whether a place is a folder, an archive or a journal, and not a picture.

    Raises:
        PhotoError: a store does not answer.
    """
    from advimg.batches.journal_files import NAME
    from advimg.storage.places import is_folder

    try:
        return where.name == NAME or (where.suffix.lower() != ".png" and is_folder(where))
    except OSError as error:
        raise PhotoError(unreadable(where, error)) from error
