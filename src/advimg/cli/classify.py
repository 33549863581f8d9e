"""``advimg classify``: what a classifier sees in pictures."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.command import Command
from advimg.cli.options import model_options, photo_options, specs_of, stream_options
from advimg.errors import ExitCode, PhotoError

if TYPE_CHECKING:
    from advimg.classifiers.classifier import Classifier
    from advimg.cli.console import Console
    from advimg.images.photo import Photo
    from advimg.record import Prediction


@click.command(cls=Command, no_args_is_help=True, short_help="Say what a classifier sees in pictures.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_options(several="Given several times: side by side.")
@photo_options
@stream_options
@click.pass_context
def command(ctx: click.Context, /, images: tuple[str, ...], **given: Any) -> None:
    """Say what the classifier sees: the five most likely classes of each picture.

    Pictures go through the classifier's official preprocessing, in 32-bit. Several models stand side by side. With
    --json, one line for each picture and model.

    \b
    Examples:
      advimg classify dog.jpg dog_pelican.png
      advimg classify dog.jpg --model efficientnet_lite0 --json
      advimg classify dog_pelican.png -m resnet50 -m vit_b_16 -m mine.toml
    """
    from advimg.cli.console import Console
    from advimg.cli.one_photo import read_input

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    classifiers: list[Classifier] = []
    failed = False
    for image in images:
        try:
            photo = read_input(image, max_pixels=given["max_pixels"])
            # Not before the first photo that can be read: torch takes seconds to import.
            from advimg import api

            classifiers = classifiers or _load(given, console)
            seen = [(classifier, api.classify(photo, model=classifier).top(5)) for classifier in classifiers]
        except PhotoError as error:
            console.error(str(error))
            failed = True
            continue
        for note in photo.notes:
            console.warn(note)
        console.say(image, style="bold")
        console.predictions([(classifier.name if len(seen) > 1 else "", top5) for classifier, top5 in seen])
        if given["as_json"]:
            for classifier, top5 in seen:
                click.echo(json.dumps(_line(image, photo, classifier, top5)))
    ctx.exit(ExitCode.FAILED if failed else ExitCode.OK)


def _load(given: dict[str, Any], console: "Console") -> "list[Classifier]":
    from advimg.models import Models

    models = Models.of(specs_of(given["models"], given))
    classifiers, _ = models.load(given["device"], progress=not given["quiet"])
    for classifier in classifiers:
        console.detail(f"{classifier.name} on {classifier.device}")
    return classifiers


def _line(image: str, photo: "Photo", classifier: "Classifier", top5: "tuple[Prediction, ...]") -> dict[str, Any]:
    return {
        "source": image,
        "source_sha256": photo.sha256,
        "size": list(photo.size),
        "model": classifier.name,
        "weights_sha256": classifier.weights_sha256,
        "top5": [asdict(prediction) for prediction in top5],
    }
