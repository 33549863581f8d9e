"""Options that say what is said, and where."""

from typing import Any

import click

from advimg.cli.options.decorators import Decorator, together


def stream_options() -> Decorator[Any]:
    """Add ``--json``, ``-q``, ``-v`` and ``--debug``."""
    return together(
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more: device, precision, what the classifier sees."),
        click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
    )
