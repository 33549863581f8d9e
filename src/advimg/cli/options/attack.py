"""Options that say how an attack goes about its work, and the reading of them."""

from collections.abc import Mapping
from typing import Any, get_args

import click

from advimg.cli.options.decorators import Decorator, together
from advimg.cli.options.eps import eps_of
from advimg.cli.options.param_types import BatchSizeType
from advimg.registry import LOSSES
from advimg.settings import Precision, Settings

_DEFAULTS = Settings()


def attack_options() -> Decorator[Any]:
    """Add what :func:`settings_of` reads, and ``--precision``."""
    return together(
        click.option(
            "--confidence",
            type=float,
            show_default="0.9; 0.5 with --eps auto",
            help="Stop once the file shows the target with this confidence.",
        ),
        click.option(
            "--steps",
            type=int,
            show_default="100; 250 with --eps auto",
            help="The most steps from each start, at each eps.",
        ),
        click.option(
            "--step-size",
            type=float,
            show_default="long at first, then shorter, by eps",
            help="Length of each step, in the unit of eps.",
        ),
        click.option(
            "--momentum",
            default=_DEFAULTS.momentum,
            help="Share of the last step's direction that stays; 0 is plain PGD.",
        ),
        click.option(
            "--loss",
            type=click.Choice(tuple(LOSSES)),
            default=_DEFAULTS.loss,
            help="Cross-entropy, logit margin, or the target's logit alone.",
        ),
        click.option(
            "--restarts",
            default=_DEFAULTS.restarts,
            help="Further starts at random points, for a photo that resists.",
        ),
        click.option(
            "--transfer",
            is_flag=True,
            help="ForwardPass at the picture in many ways, so that it may fool other models, too.",
        ),
        click.option("--seed", default=_DEFAULTS.seed, help="Seeds whatever is random."),
        click.option(
            "--precision", type=click.Choice(get_args(Precision)), default="auto", help="Of the gradients only."
        ),
    )


def batch_size_option() -> Decorator[Any]:
    """Add ``--batch-size``."""
    return click.option(
        "--batch-size",
        type=BatchSizeType(),
        default="auto",
        help="How many photos share a pass; auto goes by device and memory.",
    )


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Return the settings that :func:`attack_options` and :func:`~advimg.cli.options.eps.eps_options` have read.

    Raises:
        UsageError: one is out of range.
    """
    names = ("norm", "max_eps", "confidence", "steps", "step_size", "momentum", "loss", "restarts", "transfer", "seed")
    # A sweep has no --max-eps.
    return Settings(eps=eps_of(given), **{name: given[name] for name in names if name in given})
