"""``advimg classify``: what a classifier sees in pictures."""

import json
from dataclasses import asdict
from typing import Any

import click

from advimg.cli import options
from advimg.cli.inputs import read_input


@click.command(no_args_is_help=True, short_help="Say what a classifier sees in pictures.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@options.model_options()
@options.photo_options()
@options.stream_options()
@click.pass_context
def command(ctx: click.Context, /, images: tuple[str, ...], **given: Any) -> None:
    """Say what the classifier sees: the five most likely classes of each picture.

    Pictures go through the classifier's official preprocessing, in 32-bit. With --json, one line a picture.

    \b
    Examples:
      advimg classify dog.jpg dog_pelican.png
      advimg classify dog.jpg --model efficientnet_lite0 --json
    """
    from advimg.cli.console import Console
    from advimg.errors import PhotoError

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    classifier = None
    failed = False
    for image in images:
        try:
            photo = read_input(image, max_pixels=given["max_pixels"])
            if classifier is None:  # not before the first photo that can be read: torch takes seconds to import
                from advimg.classifiers.load import load_classifier

                classifier = load_classifier(
                    given["model"], weights=given["weights"], device=given["device"], progress=not given["quiet"]
                )
                console.detail(f"{classifier.name} on {classifier.device}")
            top5 = classifier.judge_photo(photo).top(5)
        except PhotoError as error:
            console.error(str(error))
            failed = True
            continue
        for note in photo.notes:
            console.warn(note)
        console.say(image, style="bold")
        console.guesses([("", top5)])
        if given["as_json"]:
            seen = {
                "source": image,
                "source_sha256": photo.sha256,
                "size": list(photo.size),
                "model": classifier.name,
                "weights_sha256": classifier.weights_sha256,
                "top5": [asdict(guess) for guess in top5],
            }
            click.echo(json.dumps(seen))
    ctx.exit(1 if failed else 0)
