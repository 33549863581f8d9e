"""Options that say towards what."""

from typing import Any

import click

from advimg.cli.options.completion import complete_target
from advimg.cli.options.decorators import Decorator


def target_option(*, recorded: bool = False) -> Decorator[Any]:
    """Add ``-t/--target``; ``recorded`` says that a PNG's record knows it, too."""
    return click.option(
        "-t",
        "--target",
        metavar="NAME",
        shell_complete=complete_target,
        help="The class the picture shall be taken for: a name or an index"
        + (". By default what the PNG's record says." if recorded else "; or random, least-likely, runner-up."),
    )


def targets_option() -> Decorator[Any]:
    """Add ``-t/--target`` that may be given several times."""
    return click.option(
        "-t",
        "--target",
        "targets",
        metavar="NAME",
        multiple=True,
        shell_complete=complete_target,
        help="The class the pictures shall be taken for: a name or an index; or random, least-likely, runner-up, all. "
        "Given several times: each photo towards each.",
    )


def untargeted_option() -> Decorator[Any]:
    """Add ``--untargeted``."""
    return click.option("--untargeted", is_flag=True, help="Go away from the class that is seen, to any other.")
