"""``advimg demo``: the whole story on a photo and a network that come with the ``demo`` extra, offline."""

import importlib.util
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.command import Command, option
from advimg.cli.options import stream_options
from advimg.cli.param_types import PlaceType
from advimg.errors import ExitCode, PhotoError
from advimg.settings import Settings

if TYPE_CHECKING:
    from advimg.storage.url import Place

_MODEL = "efficientnet_lite0"
_TARGET = "pelican"


@click.command(cls=Command, short_help="Turn a cup of coffee into a pelican, offline.")
@option(
    "-O",
    "--out-dir",
    type=PlaceType(),
    default=Path("advimg-demo"),
    group="Files",
    help="Folder for the pictures; made if need be.",
)
@stream_options
@click.pass_context
def command(ctx: click.Context, /, out_dir: "Place", **given: Any) -> None:
    """Turn a cup of coffee into a pelican: a photo and a network that need no download.

    Writes the photo, the adversarial picture, the perturbation and the figure, shows what the network sees before and
    after, and names the commands to try next. Run again, it writes the same files.
    """
    from advimg.cli.console import Console
    from advimg.cli.one_photo import attack_shown, describe
    from advimg.images.decode import decode_photo
    from advimg.outputs import default_name, plan_outputs
    from advimg.storage.places import check_output, is_there, make_folder, read_bytes, write_whole
    from advimg.writing import write_outputs

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    data = _coffee()
    source = out_dir / "coffee.png"
    photo = decode_photo(data, source=str(source))
    console.say("loading the network …")

    from advimg.classifiers.load import load_classifier

    classifier = load_classifier(_MODEL)
    target = classifier.labels.find(_TARGET)
    outputs = plan_outputs(out_dir / default_name(photo.source, classifier.labels.slug(target)), figure=True)
    make_folder(out_dir)
    # Where the photo is there already, this is an earlier demo's folder; anything else in it is somebody's own.
    again = is_there(source) and read_bytes(source) == data
    check_output(source, overwrite=again)
    outputs.check(overwrite=again, photo=source)
    write_whole(source, data, overwrite=again)
    outcome = attack_shown(console, photo, target, [classifier], settings=Settings())
    record = write_outputs(outcome, outputs, amplify="auto", metadata=True, overwrite=again)
    console.say()
    console.predictions([("the photo", record.before), ("the file", record.after)], target=record.target)
    console.say()
    describe(record, console)
    console.say()
    console.say("Look at the figure, then try:")
    advimg = _called_as()
    photo_path, png_path = shlex.quote(str(source)), shlex.quote(str(outputs.adversarial))
    for line in (
        f"{advimg} attack {photo_path} -t broccoli --eps 2 -m {_MODEL}",
        f"{advimg} verify {png_path} --original {photo_path}",
        f"{advimg} classify {photo_path} {png_path} -m {_MODEL}",
        f"{advimg} labels dog",
        f"{advimg} attack YOUR_PHOTO.jpg -t pelican    # ResNet-50; downloads 98 MB the first time",
    ):
        console.say(f"  {line}")
    if given["as_json"]:
        click.echo(record.to_json())
    ctx.exit(ExitCode.OK if record.fooled else ExitCode.NOT_REACHED)


def _called_as() -> str:
    """Return how to call this program again: by its path, where the shell does not find it by its name."""
    path = sys.argv[0]
    return shlex.quote(path) if Path(path).stem == "advimg" and shutil.which("advimg") is None else "advimg"


def _coffee() -> bytes:
    """Return scikit-image's photo of a cup of espresso (CC0), without importing scikit-image."""
    spec = importlib.util.find_spec("skimage")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / "data" / "coffee.png"
        if path.is_file():
            return path.read_bytes()
    raise PhotoError("the demo needs its photo and network: pip install 'advimg-cli[demo]'")
