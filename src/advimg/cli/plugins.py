"""``advimg plugins``: what other packages bring."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import click

from advimg.changes import PRESETS, parameters
from advimg.cli.command import Command, option
from advimg.cli.options import stream_options
from advimg.errors import ExitCode, PluginError
from advimg.formatting import printable
from advimg.plugins import ATTACKS, CHANGES, MODELS, Plugin
from advimg.registry import ATTACKS as KNOWN_ATTACKS
from advimg.registry import TRANSFORMS

_NONE = "no plugins are installed; https://github.com/advimg/advimg/blob/main/CONTRIBUTING.md says how to write one"


@click.command(cls=Command, short_help="List what other packages bring.")
@option("--load", is_flag=True, group="What is said", help="Import each, and tell whether it can be used.")
@stream_options
@click.pass_context
def command(ctx: click.Context, /, load: bool, **given: Any) -> None:
    """List the plugins: attacks, model sources and changes that other packages bring.

    Each with its kind, its package, what its entry point refers to, and why it cannot be used, as far as that shows
    without importing it. --load imports those that are not shadowed by something of advimg's own. The lines go to
    stdout.

    \b
    Examples:
      advimg plugins
      advimg plugins --load --json

    \b
    Exit code: 0; with --load 1 if one that is not shadowed cannot be used.
    """
    found = [_loaded(plugin, loader) if load else plugin for plugin, loader in _found()]
    if given["as_json"]:
        click.echo(json.dumps([plugin._asdict() for plugin in found]))
    elif found:
        _print(found, fine="can be used" if load else "")
    else:
        click.echo(_NONE)
    broken = any(plugin.problem and not plugin.shadowed for plugin in found)
    ctx.exit(ExitCode.FAILED if load and broken else ExitCode.OK)


def _found() -> Iterator[tuple[Plugin, Callable[[str], Any]]]:
    """Yield the plugins, each with what loads it."""
    for plugin in ATTACKS.plugins(KNOWN_ATTACKS.built_in):
        yield plugin, KNOWN_ATTACKS.check
    if MODELS.plugins(()):  # only then, because the prefixes that are built in are known where torch is imported
        from advimg.classifiers.sources import base

        for plugin in base.plugins():
            yield plugin, base.plugged_in
    for plugin in CHANGES.plugins([*TRANSFORMS.built_in, *PRESETS]):
        yield plugin, parameters


def _loaded(plugin: Plugin, loader: Callable[[str], Any]) -> Plugin:
    """Import a plugin of which no problem is known; return it with the problem that there is."""
    if plugin.problem is None:
        try:
            loader(plugin.name)
        except PluginError as error:
            return plugin._replace(problem=str(error))
    return plugin


def _print(found: list[Plugin], *, fine: str) -> None:
    rows = [("name", "kind", "package", "entry point", "")]
    rows += [
        (each.name, each.kind, f"{each.distribution} {each.version}", each.value, each.problem or fine)
        for each in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(printable(line.rstrip()))
