"""Options that say how much may change: ε and what it bounds, and the reading of them."""

from collections.abc import Mapping
from typing import Any, get_args

import click

from advimg.cli.options.decorators import Decorator, together
from advimg.cli.options.param_types import BudgetsType, EpsType
from advimg.settings import Eps, Norm, Settings

_DEFAULTS = Settings()
_DEFAULT_L2 = 3.0
_DEFAULT_BUDGETS = (1.0, 2.0, 4.0, 8.0, 16.0)
_EPS = "The most any colour channel of any pixel may change, in levels of 255 (10 or 10/255)"
_RECORDED = "By default what the PNG's record says."
_NORMS = click.Choice(get_args(Norm))


def eps_options() -> Decorator[Any]:
    """Add ``-e/--eps``, ``--max-eps`` and ``--norm`` for an attack."""
    return together(
        click.option(
            "-e",
            "--eps",
            type=EpsType(auto=True),
            show_default=f"{_DEFAULTS.eps}; {_DEFAULT_L2:g} with --norm l2",
            help=f"{_EPS}, or auto: the least that does it.",
        ),
        click.option(
            "--max-eps", type=EpsType(auto=False), default=_DEFAULTS.max_eps, help="The most that --eps auto may try."
        ),
        _norm_option(),
    )


def budgets_options() -> Decorator[Any]:
    """Add ``-e/--eps`` that takes several, and ``--norm``."""
    return together(
        click.option(
            "-e",
            "--eps",
            "budgets",
            type=BudgetsType(),
            show_default="1,2,4,8,16; as many halves with --norm l2",
            help="The budgets to try, in levels of 255, with commas between them.",
        ),
        _norm_option(),
    )


def recorded_eps_options() -> Decorator[Any]:
    """Add ``-e/--eps`` and ``--norm`` where a PNG's record knows them."""
    return together(
        click.option("-e", "--eps", type=EpsType(auto=False), help=f"{_EPS}. {_RECORDED}"),
        click.option("--norm", type=_NORMS, is_eager=True, help=f"What eps bounds. {_RECORDED}"),
    )


def _norm_option() -> Decorator[Any]:
    return click.option(
        "--norm",
        type=_NORMS,
        default=_DEFAULTS.norm,
        is_eager=True,
        help="What eps bounds: each channel's change, or the length of the whole change, where 255 levels are 1.",
    )


def eps_of(given: Mapping[str, Any]) -> Eps:
    """Return the budget that :func:`eps_options` has read."""
    return given["eps"] or (_DEFAULT_L2 if given["norm"] == "l2" else _DEFAULTS.eps)


def budgets_of(given: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the budgets that :func:`budgets_options` has read."""
    halves = 2 if given["norm"] == "l2" else 1
    return given["budgets"] or tuple(budget / halves for budget in _DEFAULT_BUDGETS)
