"""``advimg models``: which classifiers there are."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.command import Command
from advimg.cli.options import stream_options
from advimg.errors import UsageError

if TYPE_CHECKING:
    from advimg.classifiers.sources.base import Listed


@click.command(cls=Command, short_help="List or search the classifiers.")
@click.argument("query", nargs=-1)
@stream_options
def command(query: tuple[str, ...], **given: Any) -> None:
    """List the classifiers whose names contain every word of QUERY.

    Each with the side of its input in pixels, its parameters in millions, its published top-1 accuracy on ImageNet in
    per cent, and whether its weights are on disk already. timm's (extra timm) are listed by `advimg models timm/`. The
    lines go to stdout. Without a QUERY it ends by saying which other sources there are, and which weights are on disk.
    Exit code 2 if none matches.

    \b
    Examples:
      advimg models
      advimg models resnet v1
      advimg models timm/ vit tiny --json
    """
    from advimg.classifiers.load import listed, prefixes
    from advimg.cli.console import Console

    words = " ".join(query)
    found = list(listed(words))
    if not found:
        raise UsageError(f"no model's name contains {words!r}; try a shorter word, or `advimg models timm/ WORD`")
    if given["as_json"]:
        click.echo(json.dumps([asdict(each) for each in found]))
        return
    width = max(len(each.name) for each in found)
    click.echo(f"{'name':<{width}} {'input':>6} {'params':>8} {'top-1':>7}  on disk")
    for each in found:
        click.echo(_row(each, width))
    if not words:
        console = Console(quiet=given["quiet"])
        others = "; ".join(f"{prefix}NAME, listed by `advimg models {prefix}`" for prefix in prefixes())
        own = "your own as NET.onnx, FILE.toml, or NAME with --weights FILE"
        console.say(f"sources: the names above; {others}; {own}")
        console.say(f"on disk: {', '.join(each.name for each in found if each.on_disk) or 'none of the names above'}")


def _row(each: "Listed", width: int) -> str:
    size = "" if each.input_size is None else str(each.input_size)
    parameters = "" if each.parameters is None else f"{each.parameters / 1e6:.1f} M"
    top1 = "" if each.top1 is None else f"{each.top1:.1f} %"
    return f"{each.name:<{width}} {size:>6} {parameters:>8} {top1:>7}  {'yes' if each.on_disk else ''}".rstrip()
