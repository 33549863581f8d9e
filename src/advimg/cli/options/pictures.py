"""Options that say which pictures are read and written."""

from pathlib import Path
from typing import Any

import click

from advimg.cli.options.decorators import Decorator, together
from advimg.settings import MAX_PIXELS


def photo_options() -> Decorator[Any]:
    """Add ``--max-pixels``."""
    return click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=MAX_PIXELS,
        help="Refuse photos with more pixels than this.",
    )


def mask_option(help_: str) -> Decorator[Any]:
    """Add ``--mask``."""
    return click.option("--mask", metavar="FILE", type=click.Path(path_type=Path), help=help_)


def picture_options(*, figure: bool) -> Decorator[Any]:
    """Add what says which pictures are written: ``--perturbation``, ``--amplify``, ``--figure``, ``--metadata``."""
    return together(
        click.option(
            "--perturbation/--no-perturbation", default=True, help="Write the perturbation's picture, amplified."
        ),
        click.option("--amplify", type=float, default=10, help="Its factor, above 0 and at most 255."),
        click.option("--figure/--no-figure", default=figure, help="Draw photo, perturbation and result side by side."),
        click.option("--metadata/--no-metadata", default=True, help="Store the record in the PNG's text chunk."),
    )
