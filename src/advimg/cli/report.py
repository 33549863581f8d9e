"""``advimg report``: a folder of results as a gallery for the browser."""

import json
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.command import Command, option
from advimg.cli.options import stream_options
from advimg.cli.param_types import PlaceType

if TYPE_CHECKING:
    from advimg.cli.console import Console
    from advimg.report.gallery import Gallery
    from advimg.storage.url import Place


@click.command(cls=Command, no_args_is_help=True, short_help="Show a folder of results in the browser.")
@click.argument("folder", metavar="DIR", type=PlaceType())
@option("-f", "--force", is_flag=True, group="Files", help="Overwrite pages in DIR/report that are not of advimg.")
@option("--quiz", is_flag=True, group="Files", help="Write a blind test, too: DIR/report/quiz.html.")
@stream_options
def command(folder: "Place", **given: Any) -> None:
    """Make a gallery of what advimg batch wrote to DIR: each photo and its adversarial picture in the same place.

    The page is DIR/report/index.html, with small pictures in DIR/report/thumbnails. It needs no server and no network:
    open it from the disk, or pass DIR on as a whole. Called again, it is written anew, and only pictures that are not
    there yet are made. The journal is only read, so a batch may be running. Of files that are to survive changes, a
    table tells how many hold after each.

    With --quiz, DIR/report/quiz.html asks of up to 20 pairs which one is the file, and says at the end what guessing
    would have done. DIR/report/quiz holds copies of both pictures, of full size.

    \b
    Examples:
      advimg batch photos/ -t pelican -O illusions
      advimg report illusions
      advimg report illusions --quiz

    \b
    Exit code: 0 the page was written; 1 DIR has no journal, or the page cannot be written; 2 wrong usage.
    """
    from advimg.cli.console import Console
    from advimg.storage.url import place

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    written = write_report(place(folder), console, force=given["force"])
    quiz = _write_quiz(place(folder), console, force=given["force"]) if given["quiz"] else None
    if given["as_json"]:
        counts = {"verified": written.verified, "not_reached": written.not_reached, "failed": written.failed}
        pages = {"report": str(written.page)} | ({"quiz": str(quiz)} if quiz else {})
        click.echo(json.dumps(pages | {"total": sum(counts.values()), **counts}))


def write_report(folder: "Place", console: "Console", *, force: bool) -> "Gallery":
    """Write the gallery of a folder, and say where it is.

    Raises:
        OutputError: there is no journal, or the gallery cannot be written.
    """
    from advimg.batches.journal import read_records
    from advimg.cli.console import shown_path
    from advimg.report.gallery import write_gallery

    records = read_records(folder, warn=console.warn)
    with console.moving_line(total=len(records), done=0, wanted=True) as move:
        written = write_gallery(
            records, folder, force=force, made=lambda done: move(done, "thumbnails") if move else None
        )
    console.say(f"written: {shown_path(written.page)}", style="bold")
    return written


def _write_quiz(folder: "Place", console: "Console", *, force: bool) -> "Place":
    """Write the blind test of a folder, and say where it is.

    Raises:
        OutputError: there is nothing to ask, or it cannot be written.
    """
    from advimg.batches.journal import read_records
    from advimg.cli.console import shown_path
    from advimg.report.quiz import write_quiz

    page = write_quiz(read_records(folder), folder, force=force)
    console.say(f"written: {shown_path(page)}", style="bold")
    return page
