"""``advimg labels``: search the class names."""

import json
from typing import Any

import click

from advimg.cli.command import Command
from advimg.cli.options import stream_options
from advimg.errors import UsageError
from advimg.labels import imagenet_labels


@click.command(cls=Command, short_help="Search the class names.")
@click.argument("query", nargs=-1)
@stream_options
def command(query: tuple[str, ...], **given: Any) -> None:
    """List the class names that contain every word of QUERY, with their indices; all names without QUERY.

    These are the 1,000 ImageNet classes, which torchvision's classifiers and the bundled ones share. The lines go to
    stdout: index, tab, name.

    \b
    Examples:
      advimg labels shepherd
      advimg labels | less
    """
    labels = imagenet_labels()
    found = labels.search(" ".join(query))
    if not found:
        nearest = labels.nearest(" ".join(query))
        hint = f"did you mean {', '.join(nearest)}?" if nearest else "try a shorter word"
        raise UsageError(f"no class name contains {' '.join(query)!r}; {hint}")
    if given["as_json"]:
        click.echo(json.dumps([{"index": index, "name": labels[index]} for index in found]))
    else:
        click.echo("\n".join(f"{index}\t{labels[index]}" for index in found))
